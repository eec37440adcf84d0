// The sums of which the gradient of a light convolution's weight is made, by products of matrices: for numbers of 16 bits,
// heads of 16 channels or a multiple, and windows of up to 129 taps. See `light_conv_backward.cu`, whose other kernels add
// them up.
//
// module light_conv_backward_band_f16 TOKEN=f16
// module light_conv_backward_band_bf16 TOKEN=bf16
//
// Of 16 tokens, dy times the transposed x of the tokens that they reach is a matrix of 16 x (16 + K - 1), contracted over the
// channels of a head: tap j is its diagonal k = i + j. The operands lie the way tensor cores want them, and 16-bit numbers are
// exact. A warp has 16 channels of a head and a part of a tile's time, along which it walks: for 16 tokens it loads one matrix
// of dy and one of x, which stays in registers for as long as it is in reach, and adds two products of 16 x 8 for each 16
// tokens in reach. The sums stay in registers from the first tile of a block to the last; only then are diagonals added up,
// warp after warp, always in the same order.
//
// A product multiplies what is out of range by zero: where a sum is no number in the end, it is made again by multiply-adds,
// from the tokens in range alone.
//
// There is an entry for 2, 3, 5 and 9 matrices in reach, K up to 17, 33, 65 and 129.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, bf16,
// on an H100 (as in `light_conv.cu`): 134 MB, 45 us. Tiles of 128 tokens read 23 % of x twice at K = 31, mostly from L2. 256
// numbers of x are 6 products, 6 us. The emulator counts 0.85 instructions of a warp for each token and channel, copies and
// biases among them: 32 us of issue. What is left is that copies do not overlap with the products of their own block: with
// three blocks predicted 60 to 85 us at K = 31, 1.1 to 1.5 times the forward pass. At K = 127 18 products, 17 us, and one block
// of 256 tokens: predicted 80 to 120 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/stage.cuh"
#include "shared/taps.cuh"
#include "shared/convolve.cuh"
#include "shared/ends.cuh"
#include "shared/mma.cuh"
#include "shared/light_conv_backward.cuh"

constexpr unsigned GROUP_CHANNELS = 16;

// Rows of tokens in the block's memory, an odd number of 16 bytes apart, so that eight lie on different banks.
struct TokenRows {
    unsigned char* memory;
    unsigned pitch;
    unsigned count;
};

// Brings in the tokens at `first`, and every `dilation` after it: zero where there is none.
template <class Unit, class X>
__device__ void bring_by(const TokenRows& to, const X* from, unsigned long long stride, const Tile& tile, int first,
                         unsigned dilation, unsigned first_channel, unsigned channels) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(X);
    const unsigned units = (to.pitch - unsigned(sizeof(uint4))) / unsigned(sizeof(Unit));
#pragma unroll 1
    for (unsigned item = threadIdx.x; item < to.count * units; item += THREADS) {
        const unsigned row = item / units, unit = item - row * units;
        const int position = first + int(row * dilation);
        const unsigned channel = first_channel + unit * EACH;
        const bool exists = position >= 0 && position < tile.sequence.length && channel < channels;
        const unsigned long long at = exists ? (tile.sequence.first + unsigned(position)) * stride + channel : 0;
        copy_if(exists, reinterpret_cast<Unit*>(to.memory + row * to.pitch) + unit,
                reinterpret_cast<const Unit*>(from + at));
    }
}

template <class X>
__device__ void bring(unsigned unit, const TokenRows& to, const X* from, unsigned long long stride, const Tile& tile,
                      int first, unsigned dilation, unsigned first_channel, unsigned channels) {
    if (unit == 16) {
        bring_by<uint4>(to, from, stride, tile, first, dilation, first_channel, channels);
    } else if (unit == 8) {
        bring_by<uint2>(to, from, stride, tile, first, dilation, first_channel, channels);
    } else if (unit == 4) {
        bring_by<unsigned>(to, from, stride, tile, first, dilation, first_channel, channels);
    } else {
        bring_by<unsigned short>(to, from, stride, tile, first, dilation, first_channel, channels);
    }
}

// The sum for a tap over all tiles of a block, of channels `begin` to `end`, by multiply-adds.
template <class X>
__device__ float plain_sum(const X* x, const X* dy, const uint4* sequences, const Params& params, unsigned first_tile,
                           unsigned end_tile, unsigned tap, unsigned begin, unsigned end) {
    const Window& window = params.window;
    float sum = 0.0f;
#pragma unroll 1
    for (unsigned number = first_tile; number < end_tile; number++) {
        const Tile tile = tile_at(params.tiles, sequences, number, 0);
        const int length = tile.sequence.length;
        const Ends ends(window.left, window.reach - window.left, length);
#pragma unroll 1
        for (unsigned step = 0; step < params.tiles.steps; step++) {
            const int position = tile.start + int(step * window.dilation);
            const int read = position + int(tap * window.dilation) - int(window.left);
            const bool left_out = params.normalize == SOFTMAX_IN_RANGE && ends.has(position);
            if (position >= length || read < 0 || read >= length || left_out) {
                continue;
            }
            const X* const of_token = dy + (tile.sequence.first + unsigned(position)) * params.dy_stride;
            const X* const token = x + (tile.sequence.first + unsigned(read)) * params.x_stride;
#pragma unroll 1
            for (unsigned c = begin; c < end; c++) {
                sum = fmaf(::number(__ldg(of_token + c)), ::number(__ldg(token + c)), sum);
            }
        }
    }
    return sum;
}

template <class X, unsigned PRODUCTS>
__device__ void sums_by_matrices(const X* x, const X* dy, const uint4* sequences, float* scratch, const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Tile tile;
    const Tiles& tiles = params.tiles;
    const Window& window = params.window;
    const unsigned column = blockIdx.x % tiles.columns, block = blockIdx.x / tiles.columns;
    const unsigned first_channel = column * params.lanes * 2;
    const unsigned end_channel = min(first_channel + params.lanes * 2, params.channels);
    const unsigned pitch = params.lanes * unsigned(2 * sizeof(X)) + unsigned(sizeof(uint4));
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const TokenRows x_rows = {bytes, pitch, tiles.steps + window.width - 1};
    const TokenRows dy_rows = {bytes + params.dy_at, pitch, tiles.steps};
    // Rows that matrices read and no tap does.
    for (unsigned at = x_rows.count * pitch + threadIdx.x * 16; at < params.of_phase; at += THREADS * 16) {
        *reinterpret_cast<uint4*>(bytes + at) = uint4();
    }

    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned across = params.lanes / 8, group = warp % across, part = warp / across;
    const bool works = part < params.groups && first_channel + group * GROUP_CHANNELS < params.channels;
    const unsigned of_part = tiles.steps / params.groups;
    const unsigned start = unsigned(__cvta_generic_to_shared(bytes)) + group * unsigned(GROUP_CHANNELS * sizeof(X));
    // Matrices of a row of four: tokens side by side for dy, channels for x.
    const unsigned of_dy = start + params.dy_at + lane % 16 * pitch + lane / 16 * 16;
    const unsigned of_x = start + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
    float sums[2 * PRODUCTS][4] = {};
    float2 bias = make_float2(0.0f, 0.0f);
    const unsigned pair = threadIdx.x % params.lanes, over = threadIdx.x / params.lanes;
    const unsigned at_once = THREADS / params.lanes;

    const unsigned long long all = params.all_tiles;
    const unsigned first_tile = unsigned(block * all / params.blocks);
    const unsigned end_tile = unsigned((block + 1ull) * all / params.blocks);
#pragma unroll 1
    for (unsigned number = first_tile; number < end_tile; number++) {
        // The last tile was read, and its place.
        __syncthreads();
        if (threadIdx.x == 0) {
            tile = tile_at(tiles, sequences, number, column);
        }
        __syncthreads();
        const int length = tile.sequence.length;
        if (unsigned(tile.start) >= unsigned(length)) {
            continue;
        }
        bring(params.load_unit, dy_rows, dy, params.dy_stride, tile, tile.start, window.dilation, first_channel,
              params.channels);
        bring(params.load_unit, x_rows, x, params.x_stride, tile, tile.start - int(window.left), window.dilation,
              first_channel, params.channels);
        wait_for_copies();
        __syncthreads();
        const unsigned left = (unsigned(length - tile.start) + window.dilation - 1) / window.dilation;
        const unsigned computed = min(left, tiles.steps);
        if (params.wants_bias != 0 && over < at_once) {
#pragma unroll 1
            for (unsigned row = over; row < computed; row += at_once) {
                const float2 number = token_at<X>(dy_rows.memory + row * pitch + pair * unsigned(2 * sizeof(X)));
                bias = make_float2(bias.x + number.x, bias.y + number.y);
            }
        }
        if (params.normalize == SOFTMAX_IN_RANGE) {
            // Tokens at the ends have a softmax of their own, and are left out.
            const Ends ends(window.left, window.reach - window.left, length);
            __syncthreads();
            for (unsigned row = threadIdx.x; row < computed; row += THREADS) {
                if (ends.has(tile.start + int(row * window.dilation))) {
                    for (unsigned at = 0; at < pitch; at += 16) {
                        *reinterpret_cast<uint4*>(dy_rows.memory + row * pitch + at) = uint4();
                    }
                }
            }
            __syncthreads();
        }
        if (!works || part * of_part >= computed) {
            continue;
        }
        unsigned b[PRODUCTS][4];
        unsigned next = of_x + part * of_part * pitch;
#pragma unroll
        for (unsigned n = 0; n + 1 < PRODUCTS; n++) {
            load_matrices(b[n], next);
            next += SIDE * pitch;
        }
        const unsigned end = min((part + 1) * of_part, computed);
#pragma unroll 1
        for (unsigned token = part * of_part; token < end; token += SIDE) {
            unsigned a[4];
            load_matrices(b[PRODUCTS - 1], next);
            load_matrices(a, of_dy + token * pitch);
            next += SIDE * pitch;
#pragma unroll
            for (unsigned n = 0; n < PRODUCTS; n++) {
                const unsigned first[2] = {b[n][0], b[n][1]}, second[2] = {b[n][2], b[n][3]};
                multiply_matrices<X>(sums[2 * n], a, first);
                multiply_matrices<X>(sums[2 * n + 1], a, second);
            }
#pragma unroll
            for (unsigned n = 0; n + 1 < PRODUCTS; n++) {
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    b[n][i] = b[n + 1][i];
                }
            }
        }
    }

    // Diagonals of each warp's matrix, warp after warp, then rows of sums for the heads.
    // 8 more than a multiple of all banks, so that pairs of four rows lie on different ones.
    constexpr unsigned ROW = SIDE * PRODUCTS + (PRODUCTS % 2 == 0 ? 8 : 24);
    float* const matrix = reinterpret_cast<float*>(memory);
    float* const totals = matrix + SIDE * ROW;
    const unsigned first_head = first_channel / params.head_channels;
    const unsigned heads = (end_channel - 1) / params.head_channels + 1 - first_head, width = window.width;
    __syncthreads();
    for (unsigned item = threadIdx.x; item < heads * width; item += THREADS) {
        totals[item] = 0.0f;
    }
#pragma unroll 1
    for (unsigned turn = 0; turn < across * params.groups; turn++) {
        __syncthreads();
        if (warp == turn && works) {
            float* const to = matrix + lane / 4 * ROW + lane % 4 * 2;
#pragma unroll
            for (unsigned n = 0; n < 2 * PRODUCTS; n++) {
                *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums[n][0], sums[n][1]);
                *reinterpret_cast<float2*>(to + n * 8 + 8 * ROW) = make_float2(sums[n][2], sums[n][3]);
            }
        }
        __syncthreads();
        const unsigned channel = first_channel + turn % across * GROUP_CHANNELS;
        if (threadIdx.x < width && channel < params.channels) {
            float sum = 0.0f;
#pragma unroll
            for (unsigned i = 0; i < SIDE; i++) {
                sum += matrix[i * ROW + i + threadIdx.x];
            }
            totals[(channel / params.head_channels - first_head) * width + threadIdx.x] += sum;
        }
    }
    __syncthreads();
    float* const to = scratch + params.sums_at +
                      (static_cast<unsigned long long>(block) * tiles.columns + column) * params.column_heads * width;
#pragma unroll 1
    for (unsigned item = threadIdx.x; item < heads * width; item += THREADS) {
        float sum = totals[item];
        if (!(fabsf(sum) <= LARGEST)) {
            const unsigned head = item / width;
            const unsigned begin = max((first_head + head) * params.head_channels, first_channel);
            const unsigned end = min((first_head + head + 1) * params.head_channels, end_channel);
            sum = plain_sum(x, dy, sequences, params, first_tile, end_tile, item - head * width, begin, end);
        }
        to[item] = sum;
    }
    if (params.wants_bias != 0) {
        const unsigned row = 2 * params.lanes + 1;
        __syncthreads();
        if (over < at_once) {
            matrix[over * row + 2 * pair] = bias.x;
            matrix[over * row + 2 * pair + 1] = bias.y;
        }
        __syncthreads();
        if (threadIdx.x < end_channel - first_channel) {
            float sum = 0.0f;
#pragma unroll 1
            for (unsigned i = 0; i < at_once; i++) {
                sum += matrix[i * row + threadIdx.x];
            }
            const unsigned long long at = static_cast<unsigned long long>(block) * params.channels;
            scratch[params.biases_at + at + first_channel + threadIdx.x] = sum;
        }
    }
}

#define ENTRY(NAME, PRODUCTS)                                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, PRODUCTS > 5 ? 1 : PRODUCTS > 3 ? 2 : 3) void NAME(               \
        const TOKEN* __restrict__ x, const TOKEN* __restrict__ dy, const uint4* __restrict__ sequences,                \
        float* __restrict__ scratch, const __grid_constant__ Params params) {                                          \
        sums_by_matrices<TOKEN, PRODUCTS>(x, dy, sequences, scratch, params);                                          \
    }

ENTRY(light_conv_sums_2, 2)
ENTRY(light_conv_sums_3, 3)
ENTRY(light_conv_sums_5, 5)
ENTRY(light_conv_sums_9, 9)
