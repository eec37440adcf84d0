// A linear layer: y = residual + act(x W^T + bias), x [rows, inputs], y and residual [rows, outputs] in f32, W
// [outputs, inputs] and bias [outputs] of any type.
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
// Two entries: tiles of 128 x 128, and of 64 x 64 for products too small to fill a GPU with those. In groups, a tile is of
// one group of outputs. Of a GLU it has half as many outputs: the rows of W of its first half make the numbers, those of the
// second their gates. Bias and ReLU meet the sums in their registers; whatever is longer has them go through the block's
// memory (`finish_rows.cuh`).
//
// Groups are told by where the products begin: their inputs from `begin` on, and W as if its rows had all inputs of x before
// them. A row of W that is `group` rows less and `begin` numbers more is the same place.
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs, on an H100 (29 T
// multiply-adds/s, 3.0 TB/s): 34 G multiply-adds are 1.17 ms, 273 MB are 0.09 ms. Four inputs of a thread's 64 outputs are
// 256 multiply-adds and 16 quads from the block's memory, which gives a warp a quad in 4 cycles: as long as the
// multiply-adds themselves, so that the two have to overlap all but perfectly. Predicted 1.7 to 2.0 ms, 0.6 to 0.7 of the
// floor. A GELU is some 25 instructions for each of 64 sums of a thread, where the product has 65536: it does not show.

#include "shared/finish_rows.cuh"
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
    unsigned long long residual_stride;
    unsigned long long y_stride;
    unsigned rows;
    // Of a group.
    unsigned inputs;
    unsigned outputs;
    unsigned groups;
    // Tiles side by side on the outputs of a group, and on all.
    unsigned group_columns;
    unsigned columns;
    // 0: none; others as `activation.cuh` has them.
    unsigned activation;
    unsigned has_bias;
    unsigned has_residual;
    // Bytes of a unit in which x and the weight are read: 16, 8, 4 or 2, no less than an element. All their rows are
    // aligned to it, and whole units.
    unsigned x_unit;
    unsigned weight_unit;
    // Of weight and bias. 0: f32, 1: f16, 2: bf16.
    unsigned weight_type;
    // Whether the rows of y and of the residual are whole quads, each aligned to its size.
    unsigned quads;
    unsigned unused;
};

constexpr unsigned IN_F16 = 1;
constexpr unsigned IN_BF16 = 2;

// Rows of W from `first` on, of which there are those before `end`.
template <unsigned TILE>
__device__ void stage_weight(float* columns, const void* weight, const Params& params, unsigned first, unsigned end,
                             unsigned input, unsigned end_input) {
    if (params.weight_type == IN_F16) {
        stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const f16*>(weight), params.inputs, first,
              end, input, end_input);
    } else if (params.weight_type == IN_BF16) {
        stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const bf16*>(weight), params.inputs, first,
              end, input, end_input);
    } else {
        stage_rows<DEPTH, THREADS>(params.weight_unit, columns, TILE, static_cast<const f32*>(weight), params.inputs, first,
              end, input, end_input);
    }
}

// Where a tile is.
struct Tile {
    unsigned group;
    // In its group.
    unsigned first_output;

    __device__ Tile(const Params& params, unsigned outputs) {
        unsigned tile = blockIdx.x % params.columns;
        group = 0;
        if (params.groups > 1) {
            group = tile / params.group_columns;
            tile %= params.group_columns;
        }
        first_output = tile * outputs;
    }
};

template <unsigned ROWS>
__device__ void linear(const float* x, const void* weight, const void* bias, const float* residual, float* y,
                       const Params& params) {
    constexpr unsigned TILE = ROWS * SIDE, HALF = TILE / 2;
    // Two of each, one that is filled and one that is read.
    __shared__ float4 memory[2][2][TILE * PITCH / 4];

    const bool gated = params.activation == GLU;
    const Tile tile(params, gated ? HALF : TILE);
    const unsigned first_row = blockIdx.x / params.columns * TILE;
    // A warp has 4 rows and 8 columns side by side: 8 outputs are a whole sector of memory.
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned my_row = warp % 4 * 4 + lane / 8;
    const unsigned my_column = warp / 4 * 8 + lane % 8;

    // The tile's first row of W, and the end of those that there are.
    const unsigned first_weight = tile.group * (params.outputs - 1) + tile.first_output;
    const unsigned end_weight = tile.group * (params.outputs - 1) + params.outputs;
    const unsigned begin = tile.group * params.inputs, end = begin + params.inputs;
    const auto fill = [&](unsigned which, unsigned first) {
        float* rows = reinterpret_cast<float*>(memory[which][0]);
        float* columns = reinterpret_cast<float*>(memory[which][1]);
        stage_rows<DEPTH, THREADS>(params.x_unit, rows, TILE, x, params.x_stride, first_row, params.rows, first, end);
        if (gated) {
#pragma unroll 1
            for (unsigned half = 0; half < 2; half++) {
                stage_weight<HALF>(columns + half * HALF * PITCH, weight, params, first_weight + half * params.outputs,
                                   end_weight + half * params.outputs, first, end);
            }
        } else {
            stage_weight<TILE>(columns, weight, params, first_weight, end_weight, first, end);
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
            fill(step % 2, begin + step * DEPTH);
        }
        if (step > 0) {
            const unsigned which = (step - 1) % 2;
            const float* rows = reinterpret_cast<const float*>(memory[which][0]) + my_row * PITCH;
            const float* columns = reinterpret_cast<const float*>(memory[which][1]) + my_column * PITCH;
            add_products<DEPTH, SIDE, SIDE>(sums, rows, columns);
        }
    }
    const unsigned first_output = tile.group * params.outputs + tile.first_output;
    const unsigned outputs_left = params.outputs - tile.first_output;
    const bool finished = params.activation <= RELU && params.has_residual == 0;
#pragma unroll
    for (unsigned j = 0; j < ROWS; j++) {
        // Its row of W, counted from the first, of which there are so many in this half.
        const bool gate = gated && j >= ROWS / 2;
        const unsigned column = my_column + (gate ? j - ROWS / 2 : j) * SIDE;
        const bool exists = column < outputs_left;
        float start = 0.0f;
        if (params.has_bias != 0 && exists) {
            const unsigned at = first_output + column + (gate ? params.outputs : 0);
            start = params.weight_type == IN_F16    ? number(static_cast<const f16*>(bias)[at])
                    : params.weight_type == IN_BF16 ? number(static_cast<const bf16*>(bias)[at])
                                                    : static_cast<const f32*>(bias)[at];
        }
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            const unsigned row = first_row + my_row + i * SIDE;
            // A NaN stays.
            sums[i][j] += start;
            sums[i][j] = params.activation == RELU && sums[i][j] < 0.0f ? 0.0f : sums[i][j];
            if (finished && row < params.rows && exists) {
                y[row * params.y_stride + first_output + column] = sums[i][j];
            }
        }
    }
    if (finished) {
        return;
    }
    // Some rows of the tile at a time, as many as there is room for, of which each warp finishes its part.
    constexpr unsigned AT_ONCE = 4, STRIP_ROWS = AT_ONCE * SIDE, WARP_ROWS = STRIP_ROWS / (THREADS / 32);
    static_assert(sizeof(memory) >= STRIP_ROWS * TILE * sizeof(float), "sums find room where the operands lay");
    const SumRows<TILE> strip = {reinterpret_cast<unsigned char*>(memory), 0, HALF};
    const Finish<float> finish = {
        y + first_row * params.y_stride + first_output,
        params.has_residual != 0 ? residual + first_row * params.residual_stride + first_output : nullptr,
        params.y_stride,
        params.residual_stride,
        params.rows - first_row,
        gated ? min(outputs_left, HALF) : outputs_left,
        params.activation,
        params.quads,
    };
#pragma unroll
    for (unsigned first = 0; first < ROWS; first += AT_ONCE) {
        // What lay there was used by all.
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < AT_ONCE; i++) {
#pragma unroll
            for (unsigned j = 0; j < ROWS; j++) {
                *reinterpret_cast<float*>(strip.memory + place<f32, TILE>(my_row + i * SIDE, my_column + j * SIDE)) =
                    sums[first + i][j];
            }
        }
        __syncthreads();
        finish_rows(finish, strip, warp * WARP_ROWS, (warp + 1) * WARP_ROWS, first * SIDE, 0);
    }
}

#define ENTRY(NAME, ROWS)                                                                                              \
    extern "C" __global__ __launch_bounds__(THREADS, 2) void NAME(                                                     \
        const float* __restrict__ x, const void* __restrict__ weight, const void* __restrict__ bias,                   \
        const float* __restrict__ residual, float* __restrict__ y, const __grid_constant__ Params params) {            \
        linear<ROWS>(x, weight, bias, residual, y, params);                                                            \
    }

ENTRY(linear, 8)
ENTRY(linear_small, 4)
