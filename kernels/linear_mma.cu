// A linear layer on tensor cores: y = residual + act(x W^T + bias), x [rows, inputs] of 16 bits, W [outputs, inputs] and bias
// [outputs] of the same type or of f32. y [rows, outputs] and residual are of the type of x; with neither a residual nor more
// than a ReLU, y may be f32 too: logits that cross from one launch to the next stay as the sums are.
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
// In groups, a tile is of one group of outputs, and its product over the inputs of that group. Of a GLU a tile has half as
// many outputs: the rows of W of its first half make the numbers, those of the second their gates. All of it are numbers of
// the call; bias and ReLU meet the sums in their registers, and whatever is longer in the block's memory (`finish_tile.cuh`).
//
// Traffic, in sectors of 32 bytes, where rows of x, W, residual and y begin on one, and groups too: with `down` x `across`
// tiles, and inputs and outputs those of a group,
//   loads:   across rows ceil(inputs size(x) / 32) + down (rows of W) ceil(inputs size(W) / 32)
//            + with a bias, for each group and each half of a GLU down 2 (ceil(outputs / 8) + ceil((outputs - 1) / 8)),
//              mostly from L1
//            + with a residual, groups rows ceil(outputs size(y) / 32)
//   stores:  groups rows ceil(outputs size(y) / 32).
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs, bf16, on an H100 (494
// T multiply-adds/s of 16 bits, 3.0 TB/s): 34 G multiply-adds are 70 us, 136 MB are 45 us.
//   mma.sync reaches about 0.6 of the peak, which is that of wgmma: 115 us. The block's memory gives or takes 1.6 rows of
//   banks a matrix instruction: 117 us. Of other instructions 1.7 are issued for each, where there is room for three. The
//   tiles read 1.07 GB, nearly all of it from L2, at a supposed 5.5 TB/s: 195 us, the longest. Predicted 200 to 240 us, 0.3
//   to 0.35 of the floor; larger tiles and clusters are for sm_90a.
//   W in f32: three products, 209 us at the peak and 350 at mma.sync's; 2.1 GB from L2, 390 us. Predicted 420 to 500 us.
//   A GELU is some 25 instructions for each of a thread's 128 sums, a GLU 10: 15 and 6 us, and the way of f32 sums through
//   the block's memory, twice as wide as that of y, 10 us. A residual is 67 MB more, read while other blocks multiply.
//   Predicted 10 to 30 us more than the product.
//   x in f16 besides: five products, 350 us at the peak, 580 at mma.sync's. Predicted 620 to 750 us. In f32 by multiply-adds
//   it would be 1.17 ms at least.

#include "shared/element.cuh"
#include "shared/finish_tile.cuh"
#include "shared/product.cuh"
#include "shared/slab.cuh"
#include "shared/store_tile.cuh"

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
    // Bytes of a unit in which x and the weight are read and y is written: 16, 8, 4 or 2, no less than an element. All
    // rows are aligned to it, and whole units.
    unsigned x_unit;
    unsigned weight_unit;
    unsigned y_unit;
    // Whether the rows of y and of the residual are whole quads, each aligned to its size.
    unsigned quads;
    // Whether y is f32.
    unsigned wide;
};

template <class X, class P, class Shape, unsigned STAGES>
__device__ void linear(const X* x, const P* weight, const P* bias, const X* residual, void* y, const Params& params) {
    constexpr unsigned ROW_BYTES = Shape::ROWS * DEPTH * sizeof(X);
    constexpr unsigned STAGE_BYTES = ROW_BYTES + Shape::COLUMNS * DEPTH * sizeof(P);
    __shared__ uint4 memory[STAGES * STAGE_BYTES / sizeof(uint4)];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);

    constexpr unsigned HALF = Shape::COLUMNS / 2;
    const bool gated = params.activation == GLU;
    unsigned tile = blockIdx.x % params.columns, group = 0;
    if (params.groups > 1) {
        group = tile / params.group_columns;
        tile %= params.group_columns;
    }
    const unsigned first_row = blockIdx.x / params.columns * Shape::ROWS;
    const unsigned first_output = tile * (gated ? HALF : Shape::COLUMNS);
    const unsigned rows_left = params.rows - first_row, outputs_left = params.outputs - first_output;
    // The tile's first row of W, and how far it is from there to the second half's.
    const unsigned first_weight = group * params.outputs + first_output, second = gated ? params.outputs : HALF;
    Stager<X, Shape::ROWS, Shape::THREADS> rows(
        {x + first_row * params.x_stride + group * params.inputs, params.x_stride, rows_left, params.inputs, params.x_unit});
    Stager<P, Shape::COLUMNS, Shape::THREADS, true> columns(
        {weight + static_cast<unsigned long long>(first_weight) * params.inputs, params.inputs, outputs_left, params.inputs,
         params.weight_unit},
        static_cast<unsigned long long>(second) * params.inputs,
        gated ? outputs_left : outputs_left - min(outputs_left, HALF));
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

    // Of this warp: from a column of the tile to its row of W, and which columns there are.
    const bool gates = gated && Shape::warp_column() >= HALF;
    const unsigned bias_first = first_weight + (gates ? second - HALF : 0);
    const unsigned columns_left = outputs_left + (gates ? HALF : 0);
    const auto bias_at = [&](unsigned column) {
        return params.has_bias != 0 && column < columns_left ? number(bias[bias_first + column]) : 0.0f;
    };
    const auto activated = [&](float sum) {
        // A NaN stays.
        return params.activation == RELU && sum < 0.0f ? 0.0f : sum;
    };
    // Here and not on the way out, which there is more than once.
    product.finish([&](unsigned column) {
        const float2 start = make_float2(bias_at(column), bias_at(column + 1));
        return [=](float2 sums) { return make_float2(activated(sums.x + start.x), activated(sums.y + start.y)); };
    });
    const auto finished = [](unsigned) { return [](unsigned, float2 sums) { return sums; }; };
    const unsigned long long in_row = group * params.outputs + first_output;
    const unsigned long long first = first_row * params.y_stride + in_row;
    if (params.activation > RELU || params.has_residual != 0) {
        const Finish<X> finish = {
            static_cast<X*>(y) + first,
            params.has_residual != 0 ? residual + first_row * params.residual_stride + in_row : nullptr,
            params.y_stride,
            params.residual_stride,
            rows_left,
            outputs_left,
            params.activation,
            params.quads,
        };
        finish_tile<STAGES * STAGE_BYTES>(bytes, product, finish);
    } else if (params.wide != 0) {
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
        const TOKEN* __restrict__ residual, void* __restrict__ y, const __grid_constant__ Params params) {             \
        linear<TOKEN, PARAMETER, __VA_ARGS__, STAGES>(x, weight, bias, residual, y, params);                           \
    }

// A weight in f32 takes twice the room, and its product twice the sums: its tiles have half the columns.
constexpr bool WIDE = sizeof(PARAMETER) == 4;
using Big = Shape<128, WIDE ? 64 : 128, 2, 2>;
using Small = Shape<64, 64, 2, 2>;

ENTRY(linear, 2, 3, Big)
ENTRY(linear_small, WIDE ? 3 : 4, 4, Small)
