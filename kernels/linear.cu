// A linear layer: y = act(x W^T + bias), x [rows, inputs] and y [rows, outputs] in f32, W [outputs, inputs] and bias
// [outputs] of any type.
//
// module linear_f32
//
// This is the form by multiply-adds: f32 never goes to the tensor cores, which would round it. (x of 16 bits does: that is
// `linear_mma.cu`.) A block of 16 x 16 threads makes a tile of y, ROWS x 16 by ROWS x 16; a thread has ROWS rows and as many
// columns, 16 apart. Both operands are copied DEPTH deep into the block's memory as they lie, inputs side by side, while the
// numbers before are multiplied. The rows of that memory are 20 numbers apart: quads of eight rows one after another then
// lie on different banks.
//
// W of 16 bits is what generates the taps of a dynamic convolution from a query in f32. It is read and widened on the way
// into the block's memory, which cp.async cannot: a thread waits for its two reads of a step, and only other warps multiply
// meanwhile. Its type is a number of the call: a module for each would be twice the text for a product that is small.
//
// Two entries: tiles of 128 x 128, and of 64 x 64 for products too small to fill a GPU with those.
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs, on an H100 (29 T
// multiply-adds/s, 3.0 TB/s): 34 G multiply-adds are 1.17 ms, 273 MB are 0.09 ms. Four inputs of a thread's 64 outputs are
// 256 multiply-adds and 16 quads from the block's memory, which gives a warp a quad in 4 cycles: as long as the
// multiply-adds themselves, so that the two have to overlap all but perfectly. Predicted 1.7 to 2.0 ms, 0.6 to 0.7 of the
// floor.

#include "shared/plain_product.cuh"

// Threads along each side of a tile.
constexpr unsigned SIDE = 16;
constexpr unsigned THREADS = SIDE * SIDE;
constexpr unsigned DEPTH = 16;
constexpr unsigned PITCH = pitch(DEPTH);

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
    // Bytes of a unit in which x and the weight are read: 16, 8, 4 or 2, no less than an element. All their rows are
    // aligned to it, and whole units.
    unsigned x_unit;
    unsigned weight_unit;
    // Of weight and bias. 0: f32, 1: f16, 2: bf16.
    unsigned weight_type;
    unsigned unused;
};

constexpr unsigned IN_F16 = 1;
constexpr unsigned IN_BF16 = 2;

template <unsigned ROWS>
__device__ void linear(const float* x, const void* weight, const void* bias, float* y, const Params& params) {
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
        stage_rows<DEPTH, THREADS>(params.x_unit, rows, TILE, x, params.x_stride, first_row, params.rows, first, params.inputs);
        if (params.weight_type == IN_F16) {
            stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const f16*>(weight), params.inputs, first_output,
                  params.outputs, first, params.inputs);
        } else if (params.weight_type == IN_BF16) {
            stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const bf16*>(weight), params.inputs, first_output,
                  params.outputs, first, params.inputs);
        } else {
            stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const f32*>(weight), params.inputs, first_output,
                  params.outputs, first, params.inputs);
        }
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
            add_products<DEPTH, SIDE, SIDE>(sums, rows, columns);
        }
    }
#pragma unroll
    for (unsigned j = 0; j < ROWS; j++) {
        const unsigned output = first_output + my_column + j * SIDE;
        float start = 0.0f;
        if (params.has_bias != 0 && output < params.outputs) {
            start = params.weight_type == IN_F16    ? number(static_cast<const f16*>(bias)[output])
                    : params.weight_type == IN_BF16 ? number(static_cast<const bf16*>(bias)[output])
                                                    : static_cast<const f32*>(bias)[output];
        }
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
        const float* __restrict__ x, const void* __restrict__ weight, const void* __restrict__ bias,                   \
        float* __restrict__ y, const __grid_constant__ Params params) {                                                \
        linear<ROWS>(x, weight, bias, y, params);                                                                      \
    }

ENTRY(linear, 8)
ENTRY(linear_small, 4)
