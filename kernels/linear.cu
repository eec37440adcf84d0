// A linear layer: y = act(x W^T + bias), x [rows, inputs], W [outputs, inputs], in f32.
//
// module linear_f32
//
// This is the form by multiply-adds: f32 never goes to the tensor cores, which would round it. (x of 16 bits does: that is
// `linear_mma.cu`.) A block of 16 x 16 threads makes a tile of y, ROWS x 16 by ROWS x 16; a thread has ROWS rows and as many
// columns, 16 apart. Both operands are copied DEPTH deep into the block's memory as they lie, inputs side by side, while the
// numbers before are multiplied. The rows of that memory are 20 numbers apart: quads of eight rows one after another then
// lie on different banks.
//
// Two entries: tiles of 128 x 128, and of 64 x 64 for products too small to fill a GPU with those.
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs, on an H100 (29 T
// multiply-adds/s, 3.0 TB/s): 34 G multiply-adds are 1.17 ms, 273 MB are 0.09 ms. Four inputs of a thread's 64 outputs are
// 256 multiply-adds and 16 quads from the block's memory, which gives a warp a quad in 4 cycles: as long as the
// multiply-adds themselves, so that the two have to overlap all but perfectly. Predicted 1.7 to 2.0 ms, 0.6 to 0.7 of the
// floor.

#include "shared/copy.cuh"

// Threads along each side of a tile.
constexpr unsigned SIDE = 16;
constexpr unsigned THREADS = SIDE * SIDE;
constexpr unsigned DEPTH = 16;
// Numbers from one row of the block's memory to the next.
constexpr unsigned PITCH = DEPTH + 4;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one row to the next.
    unsigned long long x_stride;
    unsigned long long y_stride;
    unsigned rows;
    unsigned inputs;
    unsigned outputs;
    // Tiles side by side on the outputs.
    unsigned columns;
    // 0: none, 1: max(0, y).
    unsigned activation;
    unsigned has_bias;
    // Bytes of a unit in which x and the weight are read: 16, 8 or 4. All their rows are aligned to it, and whole units.
    unsigned load_unit;
    unsigned unused;
};

// Copies DEPTH numbers of each of `rows` rows, from `first_input` on; zero where there is no row or no input.
template <class Unit>
__device__ void stage_by(float* to, unsigned rows, const float* from, unsigned long long stride, unsigned first_row,
                         unsigned end_row, unsigned first_input, unsigned inputs) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(float);
    constexpr unsigned UNITS = DEPTH / EACH;
    const unsigned input = threadIdx.x % UNITS * EACH;
#pragma unroll(EACH == 4 ? 2 : 1)
    for (unsigned row = EACH == 4 ? spread(threadIdx.x / UNITS) : threadIdx.x / UNITS; row < rows;
         row += THREADS / UNITS) {
        Unit* unit = reinterpret_cast<Unit*>(to + row * PITCH + input);
        if (first_row + row < end_row && first_input + input < inputs) {
            copy(unit, reinterpret_cast<const Unit*>(from + (first_row + row) * stride + first_input + input));
        } else {
            *unit = Unit();
        }
    }
}

__device__ inline void stage(unsigned unit_bytes, float* to, unsigned rows, const float* from,
                             unsigned long long stride, unsigned first_row, unsigned end_row, unsigned first_input,
                             unsigned inputs) {
    if (unit_bytes == 16) {
        stage_by<uint4>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    } else if (unit_bytes == 8) {
        stage_by<uint2>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    } else {
        stage_by<unsigned>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    }
}

// Adds the products of DEPTH numbers. `rows` and `columns` are the thread's first.
template <unsigned ROWS>
__device__ void add_products(float (&sums)[ROWS][ROWS], const float* rows, const float* columns) {
    // Not unrolled: there are registers for one quad of every row.
#pragma unroll 1
    for (unsigned k = 0; k < DEPTH; k += 4) {
        float4 row[ROWS];
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            row[i] = *reinterpret_cast<const float4*>(rows + i * SIDE * PITCH + k);
        }
#pragma unroll
        for (unsigned j = 0; j < ROWS; j++) {
            const float4 column = *reinterpret_cast<const float4*>(columns + j * SIDE * PITCH + k);
#pragma unroll
            for (unsigned i = 0; i < ROWS; i++) {
                float sum = sums[i][j];
                sum = fmaf(row[i].x, column.x, sum);
                sum = fmaf(row[i].y, column.y, sum);
                sum = fmaf(row[i].z, column.z, sum);
                sums[i][j] = fmaf(row[i].w, column.w, sum);
            }
        }
    }
}

template <unsigned ROWS>
__device__ void linear(const float* x, const float* weight, const float* bias, float* y, const Params& params) {
    constexpr unsigned TILE = ROWS * SIDE;
    // Two of each, one that is filled and one that is read.
    __shared__ float4 memory[2][2][TILE * PITCH / 4];

    const unsigned first_row = blockIdx.x / params.columns * TILE;
    const unsigned first_output = blockIdx.x % params.columns * TILE;
    // A warp has 4 rows and 8 columns side by side: 8 outputs are a whole sector of memory.
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned my_row = warp % 4 * 4 + lane / 8;
    const unsigned my_column = warp / 4 * 8 + lane % 8;

    const auto fill = [&](unsigned which, unsigned first) {
        float* rows = reinterpret_cast<float*>(memory[which][0]);
        float* columns = reinterpret_cast<float*>(memory[which][1]);
        stage(params.load_unit, rows, TILE, x, params.x_stride, first_row, params.rows, first, params.inputs);
        stage(params.load_unit, columns, TILE, weight, params.inputs, first_output, params.outputs, first,
              params.inputs);
    };
    float sums[ROWS][ROWS];
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
#pragma unroll
        for (unsigned j = 0; j < ROWS; j++) {
            sums[i][j] = 0.0f;
        }
    }
    const unsigned steps = (params.inputs + DEPTH - 1) / DEPTH;
    for (unsigned step = 0; step <= steps; step++) {
        wait_for_copies();
        // What the step before copied is there for all, and what this one copies to was read by all.
        __syncthreads();
        if (step < steps) {
            fill(step % 2, step * DEPTH);
        }
        if (step > 0) {
            const unsigned which = (step - 1) % 2;
            const float* rows = reinterpret_cast<const float*>(memory[which][0]) + my_row * PITCH;
            const float* columns = reinterpret_cast<const float*>(memory[which][1]) + my_column * PITCH;
            add_products<ROWS>(sums, rows, columns);
        }
    }
#pragma unroll
    for (unsigned j = 0; j < ROWS; j++) {
        const unsigned output = first_output + my_column + j * SIDE;
        const float start = params.has_bias != 0 && output < params.outputs ? bias[output] : 0.0f;
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            const unsigned row = first_row + my_row + i * SIDE;
            if (row < params.rows && output < params.outputs) {
                const float sum = sums[i][j] + start;
                // A NaN stays.
                y[row * params.y_stride + output] = params.activation != 0 && sum < 0.0f ? 0.0f : sum;
            }
        }
    }
}

#define ENTRY(NAME, ROWS)                                                                                              \
    extern "C" __global__ __launch_bounds__(THREADS, 2) void NAME(                                                     \
        const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,                 \
        float* __restrict__ y, const __grid_constant__ Params params) {                                                \
        linear<ROWS>(x, weight, bias, y, params);                                                                      \
    }

ENTRY(linear, 8)
ENTRY(linear_small, 4)
