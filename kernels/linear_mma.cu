// A linear layer on tensor cores: y = act(x W^T + bias), x [rows, inputs] and y [rows, outputs] of 16 bits, W
// [outputs, inputs] and bias [outputs] of the same type or of f32.
//
// module linear_f16 TOKEN=f16 PARAMETER=f16
// module linear_f16_f32 TOKEN=f16 PARAMETER=f32
// module linear_bf16 TOKEN=bf16 PARAMETER=bf16
// module linear_bf16_f32 TOKEN=bf16 PARAMETER=f32
//
// TODO header

#include "shared/element.cuh"
#include "shared/product.cuh"
#include "shared/slab.cuh"
#include "shared/store_tile.cuh"

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
    // Bytes of a unit in which x and the weight are read and y is written: 16, 8, 4 or 2, no less than an element. All
    // rows are aligned to it, and whole units.
    unsigned x_unit;
    unsigned weight_unit;
    unsigned y_unit;
    unsigned unused;
};

template <class X, class P, class Y, class Shape, unsigned STAGES>
__device__ void linear(const X* x, const P* weight, const P* bias, Y* y, const Params& params) {
    constexpr unsigned ROW_BYTES = Shape::ROWS * DEPTH * sizeof(X);
    constexpr unsigned STAGE_BYTES = ROW_BYTES + Shape::COLUMNS * DEPTH * sizeof(P);
    __shared__ uint4 memory[STAGES * STAGE_BYTES / sizeof(uint4)];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);

    const unsigned first_row = blockIdx.x / params.columns * Shape::ROWS;
    const unsigned first_output = blockIdx.x % params.columns * Shape::COLUMNS;
    const Matrix<X> rows = {x + first_row * params.x_stride, params.x_stride, params.rows - first_row, params.inputs,
                            params.x_unit};
    const Matrix<P> columns = {weight + static_cast<unsigned long long>(first_output) * params.inputs, params.inputs,
                               params.outputs - first_output, params.inputs, params.weight_unit};
    Product<X, P, Shape> product;
    product.clear();
    stream_slabs<STAGES>(
        (params.inputs + DEPTH - 1) / DEPTH,
        [&](unsigned stage, unsigned slab) {
            unsigned char* to = bytes + stage * STAGE_BYTES;
            copy_slab<Shape::ROWS, Shape::THREADS>(to, rows, slab * DEPTH);
            copy_slab<Shape::COLUMNS, Shape::THREADS>(to + ROW_BYTES, columns, slab * DEPTH);
        },
        [&](unsigned stage, unsigned) {
            const unsigned char* from = bytes + stage * STAGE_BYTES;
            product.add(from, from + ROW_BYTES);
        });
    // The last slab was used by all.
    __syncthreads();

    const Outputs<Y> outputs = {y + first_row * params.y_stride + first_output, params.y_stride,
                                params.rows - first_row, params.outputs - first_output, params.y_unit};
    const auto bias_at = [&](unsigned output) {
        return params.has_bias != 0 && output < params.outputs ? number(bias[output]) : 0.0f;
    };
    const auto activated = [&](float sum) {
        // A NaN stays.
        return params.activation != 0 && sum < 0.0f ? 0.0f : sum;
    };
    store_tile<STAGES * STAGE_BYTES, Shape>(bytes, product, outputs, [&](unsigned column) {
        const float2 start = make_float2(bias_at(first_output + column), bias_at(first_output + column + 1));
        return [=](unsigned, float2 sums) {
            return make_float2(activated(sums.x + start.x), activated(sums.y + start.y));
        };
    });
}

#define ENTRY(NAME, BLOCKS, STAGES, ...)                                                                               \
    extern "C" __global__ __launch_bounds__(__VA_ARGS__::THREADS, BLOCKS) void NAME(                                   \
        const TOKEN* __restrict__ x, const PARAMETER* __restrict__ weight, const PARAMETER* __restrict__ bias,         \
        TOKEN* __restrict__ y, const __grid_constant__ Params params) {                                                \
        linear<TOKEN, PARAMETER, TOKEN, __VA_ARGS__, STAGES>(x, weight, bias, y, params);                              \
    }

// A weight in f32 takes twice the room, and its product twice the sums: its tiles have half the columns.
constexpr bool WIDE = sizeof(PARAMETER) == 4;
using Big = Shape<128, WIDE ? 64 : 128, 2, 4>;
using Small = Shape<64, 64, 2, 2>;

ENTRY(linear, 2, 3, Big)
ENTRY(linear_small, WIDE ? 3 : 4, 4, Small)
