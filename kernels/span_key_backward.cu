// What the gradients of a span-aware key need beside products (`linear_backward.cu`): its depthwise convolution, of numbers of
// any type, and the gradient of that's filters.
//
// module span_key_backward
//
// `depthwise`: y[t, c] = sum_j w[c, j] x[t + j r - P, c] over the taps in range, x, w and y each of any type. It makes the
// convolved x once more, in f32, which is contracted with dk for the gradient of pointwise, and multiplied for that of the
// query; and, with the window the other way round and taps counted from the last, it makes dx of dd.
//
// `filters`: dw[c, j] = sum_t dd[t, c] x[t + j r - P, c], dd in f32.
//
// A block of 8 warps works on 32 channels, a lane each, and on tiles of 64 tokens: 8 tokens one dilation apart are a group,
// which is a warp's. Tokens slide through registers: in `depthwise` each is read once for all taps of a group, from the cache
// where another group of the block has read it; its taps lie in the block's memory, TAPS at a time. In `filters` a warp has
// eight taps, `octets` of them a block, and keeps their sums in registers over all tiles of a chunk; groups share a tile.
// Sums of a chunk are added up in a fixed order and go to scratch memory, and `add_chunks` adds chunks up in theirs.
//
// Taps out of range are left out by selection: neither a tap nor a token that is infinite or NaN meets a token that there is
// not.
//
// Traffic, in sectors of 32 bytes of 32 channels a warp: `depthwise` reads for each group the tokens under its window,
// K + 7 at most, mostly from L1, and stores y; `filters` reads for each group and octet of taps 8 rows of dd and 15 of x.
//
// Floor and prediction, written before the first run on a GPU: 8 sequences of 4096 tokens, C = 768, K = 9, x in bf16, on an
// H100 (3.0 TB/s). `depthwise` moves 50 MB of x and 100 MB of y, 50 us; its groups read twice the tokens that a tile has, by
// 64 bytes: predicted 80 us. `filters` moves 150 MB, 50 us; a warp's 46 reads for 64 multiply-adds on two octets: 100 us.

#include "shared/convolve.cuh"
#include "shared/typed.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARPS * WARP;
// Channels of a block, and taps that its memory holds at once.
constexpr unsigned CHANNELS = WARP;
constexpr unsigned TAPS = 64;
// Rows that eight outputs read under eight taps.
constexpr unsigned ROWS = STEPS + OCTET - 1;

// What both kernels are told of their tokens.
//   phases * steps of `tiles` are at most STEPS * WARPS.
struct TokenParams {
    Tiles tiles;
    Window window;
    unsigned channels;
    // 0: f32, 1: f16, 2: bf16.
    unsigned x_type;
    // Elements from one token to the next.
    unsigned long long x_stride;
};

// A group's rows of a tensor, counted from the one that its first output reads under tap `tap`: row n stands n dilations on.
struct GroupRows {
    int position;
    int step;
    int length;

    // Whether rows 0 to `count` are all tokens.
    __device__ bool all(unsigned count) const { return position >= 0 && position + int(count - 1) * step < length; }
    __device__ bool has(unsigned n) const {
        const int at = position + int(n) * step;
        return at >= 0 && at < length;
    }
};

// Token n of a group's rows in this lane's channel; whatever is at hand where there is none.
__device__ inline float read_token(const Typed& x, const Tile& tile, const GroupRows& rows, unsigned n, unsigned channel,
                                   bool wanted) {
    if (!wanted || !rows.has(n)) {
        return 0.0f;
    }
    return number_at(x, tile.sequence.first + unsigned(rows.position + int(n) * rows.step), channel);
}

// The numbers of `depthwise`, in this order; the plan fills them.
struct Params {
    TokenParams tokens;
    unsigned long long y_stride;
    unsigned weight_type;
    unsigned y_type;
    // Whether taps are counted from the last.
    unsigned mirrored;
    unsigned unused;
};

extern "C" __global__ __launch_bounds__(THREADS, 3) void depthwise(const void* x, const void* weight, const uint4* sequences,
                                                               void* y, const __grid_constant__ Params params) {
    __shared__ float taps[TAPS][CHANNELS + 1];
    __shared__ Tile tile;
    __shared__ Taps all;
    const Tiles& tiles = params.tokens.tiles;
    const Window& window = params.tokens.window;
    if (threadIdx.x == 0) {
        tile = tile_of(tiles, sequences);
        all = taps_of(tiles, window, tile, 0, TAPS);
    }
    __syncthreads();
    if (unsigned(tile.start) >= unsigned(tile.sequence.room)) {
        return;
    }
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned first_channel = tile.column * CHANNELS, channel = first_channel + lane;
    const unsigned channels = params.tokens.channels, width = window.width;
    const bool there = channel < channels;
    const Typed from = {x, params.tokens.x_stride, params.tokens.x_type};
    const Typed filters = {weight, width, params.weight_type};
    const Output output = output_at(tiles, tile, warp * STEPS);
    const int length = tile.sequence.length;
    const bool works = output.exists && output.position < length;
    float sums[STEPS] = {};
    float tokens[ROWS];
    GroupRows rows = {output.position + int(all.begin * window.dilation) - int(window.left), int(window.dilation), length};
#pragma unroll
    for (unsigned n = 0; n < STEPS - 1; n++) {
        tokens[n] = read_token(from, tile, rows, n, channel, there && works && all.begin < all.end);
    }
#pragma unroll 1
    for (unsigned first = all.begin; first < all.end; first += TAPS) {
        const unsigned count = min(all.end - first, TAPS);
        // All are done with the taps before.
        __syncthreads();
#pragma unroll 1
        for (unsigned number = threadIdx.x; number < CHANNELS * TAPS; number += THREADS) {
            const unsigned of = number / TAPS, tap = number % TAPS;
            if (tap < count && first_channel + of < channels) {
                const unsigned at = params.mirrored != 0 ? width - 1 - (first + tap) : first + tap;
                taps[tap][of] = number_at(filters, first_channel + of, at);
            }
        }
        __syncthreads();
        if (!works || !there) {
            continue;
        }
#pragma unroll 1
        for (unsigned octet = 0; octet < count; octet += OCTET) {
            const unsigned left = min(count - octet, OCTET);
#pragma unroll
            for (unsigned n = STEPS - 1; n < ROWS; n++) {
                tokens[n] = read_token(from, tile, rows, n, channel, n < left + STEPS - 1);
            }
            if (left == OCTET && rows.all(ROWS)) {
#pragma unroll
                for (unsigned j = 0; j < OCTET; j++) {
                    const float tap = taps[octet + j][lane];
#pragma unroll
                    for (unsigned n = 0; n < STEPS; n++) {
                        sums[n] = fmaf(tap, tokens[n + j], sums[n]);
                    }
                }
            } else {
#pragma unroll
                for (unsigned j = 0; j < OCTET; j++) {
                    const float tap = j < left ? taps[octet + j][lane] : 0.0f;
#pragma unroll
                    for (unsigned n = 0; n < STEPS; n++) {
                        const bool in_range = j < left && rows.has(n + j);
                        sums[n] = in_range ? fmaf(tap, tokens[n + j], sums[n]) : sums[n];
                    }
                }
            }
#pragma unroll
            for (unsigned n = 0; n < STEPS - 1; n++) {
                tokens[n] = tokens[n + OCTET];
            }
            rows.position += int(OCTET * window.dilation);
        }
    }
    if (!there || !output.exists) {
        return;
    }
#pragma unroll
    for (unsigned n = 0; n < STEPS; n++) {
        const int position = output.position + int(n * window.dilation);
        if (position < tile.sequence.room) {
            const unsigned long long row = tile.sequence.first + unsigned(position);
            store_number(y, params.y_type, row * params.y_stride + channel, position < length ? sums[n] : 0.0f);
        }
    }
}

// The numbers of `filters`, in this order; the plan fills them.
struct FilterParams {
    TokenParams tokens;
    unsigned long long dd_stride;
    // Elements from the sums of a chunk to the next.
    unsigned long long sum_chunk;
    // Tiles of all sequences, and of a chunk.
    unsigned all_tiles;
    unsigned chunk;
    // Blocks that divide the channels among them, and those that divide the taps.
    unsigned columns;
    unsigned parts;
    // Octets of taps of a block: 1, 2, 4 or 8.
    unsigned octets;
    unsigned sum_type;
};

extern "C" __global__ __launch_bounds__(THREADS) void filters(const void* x, const float* dd, const uint4* sequences,
                                                             void* sums, const __grid_constant__ FilterParams params) {
    __shared__ float of_warps[WARPS][OCTET][WARP];
    __shared__ Tile tile;
    const Tiles& tiles = params.tokens.tiles;
    const Window& window = params.tokens.window;
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned channel = blockIdx.x % params.columns * CHANNELS + lane;
    const unsigned part = blockIdx.x / params.columns % params.parts;
    const unsigned chunk = blockIdx.x / params.columns / params.parts;
    const bool there = channel < params.tokens.channels;
    // This warp's taps, and its groups.
    const unsigned first_tap = (part * params.octets + warp % params.octets) * OCTET;
    const unsigned first_group = warp / params.octets, groups = WARPS / params.octets;
    const unsigned left = first_tap < window.width ? min(window.width - first_tap, OCTET) : 0;
    const Typed from = {x, params.tokens.x_stride, params.tokens.x_type};
    const Typed gradients = {dd, params.dd_stride, IN_F32};
    float of_taps[OCTET] = {};
    const unsigned begin = chunk * params.chunk, end = min(begin + params.chunk, params.all_tiles);
#pragma unroll 1
    for (unsigned number = begin; number < end; number++) {
        // All are done with the tile before.
        __syncthreads();
        if (threadIdx.x == 0) {
            tile = tile_at(tiles, sequences, number, 0);
        }
        __syncthreads();
        if (!there || left == 0) {
            continue;
        }
#pragma unroll 1
        for (unsigned group = first_group; group < WARPS; group += groups) {
            const Output output = output_at(tiles, tile, group * STEPS);
            const int length = tile.sequence.length, step = int(window.dilation);
            if (!output.exists || output.position >= length) {
                continue;
            }
            const GroupRows of_dd = {output.position, step, length};
            const GroupRows of_x = {output.position + int(first_tap * window.dilation) - int(window.left), step, length};
            float gradient[STEPS], tokens[ROWS];
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                gradient[n] = read_token(gradients, tile, of_dd, n, channel, true);
            }
#pragma unroll
            for (unsigned n = 0; n < ROWS; n++) {
                tokens[n] = read_token(from, tile, of_x, n, channel, n < left + STEPS - 1);
            }
            if (left == OCTET && of_dd.all(STEPS) && of_x.all(ROWS)) {
#pragma unroll
                for (unsigned j = 0; j < OCTET; j++) {
#pragma unroll
                    for (unsigned n = 0; n < STEPS; n++) {
                        of_taps[j] = fmaf(gradient[n], tokens[n + j], of_taps[j]);
                    }
                }
            } else {
#pragma unroll
                for (unsigned j = 0; j < OCTET; j++) {
#pragma unroll
                    for (unsigned n = 0; n < STEPS; n++) {
                        const bool in_range = j < left && of_dd.has(n) && of_x.has(n + j);
                        of_taps[j] = in_range ? fmaf(gradient[n], tokens[n + j], of_taps[j]) : of_taps[j];
                    }
                }
            }
        }
    }
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        of_warps[warp][j][lane] = of_taps[j];
    }
    __syncthreads();
    if (first_group != 0 || !there) {
        return;
    }
#pragma unroll 1
    for (unsigned j = 0; j < left; j++) {
        float sum = of_warps[warp][j][lane];
#pragma unroll 1
        for (unsigned group = 1; group < groups; group++) {
            sum += of_warps[warp + group * params.octets][j][lane];
        }
        const unsigned long long to = static_cast<unsigned long long>(channel) * window.width + first_tap + j;
        store_number(sums, params.sum_type, chunk * params.sum_chunk + to, sum);
    }
}
