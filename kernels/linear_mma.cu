// A linear layer on tensor cores: y = act(x W^T + bias), x [rows, inputs] of 16 bits, W [outputs, inputs] and bias
// [outputs] of the same type or of f32, and so y [rows, outputs]: logits that cross from one launch to the next stay as the
// sums are.
//
// module linear_f16 TOKEN=f16 PARAMETER=f16
// module linear_f16_f32 TOKEN=f16 PARAMETER=f32
// module linear_bf16 TOKEN=bf16 PARAMETER=bf16
// module linear_bf16_f32 TOKEN=bf16 PARAMETER=f32
//
// A block makes a tile of y. Slabs of x and W, DEPTH inputs deep, come through a ring of three or four stages in the block's
// memory, copied there while the slabs before are multiplied; the sums stay in registers, and leave through the same memory
// by wide units. Four warps share a tile, two by two: with 64 x 64 outputs a warp, each number of a slab is read from the
// block's memory twice, and no read or write of it meets a bank twice. A stage is 16 KiB at most, the ring 48 KiB, which
// needs no leave from the host: two blocks fit where there are 100 KiB, and their registers too.
//
// W in f32 takes more products and twice the room (`product.cuh`), so tiles have half the columns. Two 16-bit parts of such
// a weight are not enough: 2^-17 of a term is sixteen times what an f32 sum of few terms may be off, and it shows where
// terms cancel. f16 parts would be, but W past f16's range would need a scale that is not known without reading all of it.
// bf16 has the range of f32: three parts are exact for every weight, and two for every f16 number of x.
//
// Two entries: tiles of 128 x 128 (128 x 64 for W in f32), and of 64 x 64 for products too small to fill a GPU with those.
//
// Traffic, in sectors of 32 bytes, where rows of x, W and y begin on one: with `down` x `across` tiles,
//   loads:   across rows ceil(inputs size(x) / 32) + down outputs ceil(inputs size(W) / 32)
//            + with a bias, down 2 (ceil(outputs / 8) + ceil((outputs - 1) / 8)), mostly from L1
//   stores:  rows ceil(outputs size(y) / 32).
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs, bf16, on an H100 (494
// T multiply-adds/s of 16 bits, 3.0 TB/s): 34 G multiply-adds are 70 us, 136 MB are 45 us.
//   mma.sync reaches about 0.6 of the peak, which is that of wgmma: 115 us. The block's memory gives or takes 1.6 rows of
//   banks a matrix instruction: 117 us. Of other instructions 1.7 are issued for each, where there is room for three. The
//   tiles read 1.07 GB, nearly all of it from L2, at a supposed 5.5 TB/s: 195 us, the longest. Predicted 200 to 240 us, 0.3
//   to 0.35 of the floor; larger tiles and clusters are for sm_90a.
//   W in f32: three products, 209 us at the peak and 350 at mma.sync's; 2.1 GB from L2, 390 us. Predicted 420 to 500 us.
//   x in f16 besides: five products, 350 us at the peak, 580 at mma.sync's. Predicted 620 to 750 us. In f32 by multiply-adds
//   it would be 1.17 ms at least.

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
    // Whether y is f32.
    unsigned wide;
};

template <class X, class P, class Shape, unsigned STAGES>
__device__ void linear(const X* x, const P* weight, const P* bias, void* y, const Params& params) {
    constexpr unsigned ROW_BYTES = Shape::ROWS * DEPTH * sizeof(X);
    constexpr unsigned STAGE_BYTES = ROW_BYTES + Shape::COLUMNS * DEPTH * sizeof(P);
    __shared__ uint4 memory[STAGES * STAGE_BYTES / sizeof(uint4)];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);

    const unsigned first_row = blockIdx.x / params.columns * Shape::ROWS;
    const unsigned first_output = blockIdx.x % params.columns * Shape::COLUMNS;
    Stager<X, Shape::ROWS, Shape::THREADS> rows({x + first_row * params.x_stride, params.x_stride,
                                                 params.rows - first_row, params.inputs, params.x_unit});
    Stager<P, Shape::COLUMNS, Shape::THREADS> columns(
        {weight + static_cast<unsigned long long>(first_output) * params.inputs, params.inputs,
         params.outputs - first_output, params.inputs, params.weight_unit});
    Product<X, P, Shape> product;
    product.clear();
    stream_slabs<STAGES>(
        (params.inputs + DEPTH - 1) / DEPTH,
        [&](unsigned stage, unsigned slab) {
            unsigned char* to = bytes + stage * STAGE_BYTES;
            rows.copy(to, slab * DEPTH);
            columns.copy(to + ROW_BYTES, slab * DEPTH);
        },
        [&](unsigned stage) {
            const unsigned char* from = bytes + stage * STAGE_BYTES;
            product.add(SlabRows<Shape>{from}, from + ROW_BYTES);
        });
    // The last slab was used by all.
    __syncthreads();

    const auto bias_at = [&](unsigned output) {
        return params.has_bias != 0 && output < params.outputs ? number(bias[output]) : 0.0f;
    };
    const auto activated = [&](float sum) {
        // A NaN stays.
        return params.activation != 0 && sum < 0.0f ? 0.0f : sum;
    };
    // Here and not on the way out, which there is twice.
    product.finish([&](unsigned column) {
        const float2 start = make_float2(bias_at(first_output + column), bias_at(first_output + column + 1));
        return [=](float2 sums) { return make_float2(activated(sums.x + start.x), activated(sums.y + start.y)); };
    });
    const auto finished = [](unsigned) { return [](unsigned, float2 sums) { return sums; }; };
    const unsigned long long first = first_row * params.y_stride + first_output;
    const unsigned rows_left = params.rows - first_row, outputs_left = params.outputs - first_output;
    if (params.wide != 0) {
        const Outputs<f32> outputs = {static_cast<f32*>(y) + first, params.y_stride, rows_left, outputs_left, params.y_unit};
        store_tile<STAGES * STAGE_BYTES>(bytes, product, outputs, finished);
    } else {
        const Outputs<X> outputs = {static_cast<X*>(y) + first, params.y_stride, rows_left, outputs_left, params.y_unit};
        store_tile<STAGES * STAGE_BYTES>(bytes, product, outputs, finished);
    }
}

#define ENTRY(NAME, BLOCKS, STAGES, ...)                                                                               \
    extern "C" __global__ __launch_bounds__(__VA_ARGS__::THREADS, BLOCKS) void NAME(                                   \
        const TOKEN* __restrict__ x, const PARAMETER* __restrict__ weight, const PARAMETER* __restrict__ bias,         \
        void* __restrict__ y, const __grid_constant__ Params params) {                                                 \
        linear<TOKEN, PARAMETER, __VA_ARGS__, STAGES>(x, weight, bias, y, params);                                     \
    }

// A weight in f32 takes twice the room, and its product twice the sums: its tiles have half the columns.
constexpr bool WIDE = sizeof(PARAMETER) == 4;
using Big = Shape<128, WIDE ? 64 : 128, 2, 2>;
using Small = Shape<64, 64, 2, 2>;

ENTRY(linear, 2, 3, Big)
ENTRY(linear_small, WIDE ? 3 : 4, 4, Small)
