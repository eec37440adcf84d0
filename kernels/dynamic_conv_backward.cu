// The gradient of a dynamic convolution's logits: with g[t, h, j] = m[t, h, j] sum_c dy[t, c] x[t + j r - P, c] over the
// channels c of head h, 0 for a tap out of range,
//
// dlogits[t, h, j] = g[t, h, j], or w[t, h, j] (g[t, h, j] - sum_i w[t, h, i] g[t, h, i]) with a softmax
//
// module dynamic_conv_backward_f32 TOKEN=f32
// module dynamic_conv_backward_f16 TOKEN=f16
// module dynamic_conv_backward_bf16 TOKEN=bf16
//
// The gradient of x is `dynamic_conv.cu`, of dy and by the mirrored window, or `dynamic_conv_transposed.cu`; those of query and
// generator are products of matrices, `linear_backward.cu`.
//
// This is the form by multiply-adds, for any number of heads, and any window; `dynamic_conv_backward_band.cu` is the other. A
// block has a tile of tokens and some heads side by side, or one. It brings dy of its tokens, and x with its halo, into its
// memory, slab by slab of channels where those of a head are many. A thread has eight tokens and eight taps of a head, 64 sums in
// registers, of which it adds up some of the channels; as many threads as divide the channels among themselves add their sums up
// at the end, always in the same order. The sums go into the block's memory, where some lanes take a row of taps each and go back
// through its softmax. Threads that read other rows at the same time begin with other channels, so that they meet other banks;
// where a block has the rows of many narrow heads some still meet.
//
// A window whose taps are more than the memory holds goes chunk by chunk, and twice where there is a softmax: first for the
// mean of the gradients, and then for the gradients themselves. That is for few.
//
// Tokens that there are not are zeros in the block's memory, and a tap out of range has its sum put to zero by selection: what
// is infinite or NaN reaches no other tap and no other token.
//
// There is an entry for an even number of channels a head, which go in pairs, and one for odd ones (`_split`).
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, K = 31,
// logits in f32, on an H100 (as in `light_conv.cu`):
//   bytes:   bf16: 134 MB of x and dy, 65 MB of logits and as many of their gradients, 264 MB: 88 us; f32: 400 MB, 133 us.
//   products: 1.04 G multiply-adds, 36 us. For 128 of them a thread reads 23 pairs of the block's memory: 23 passes in bf16,
//            under 32 cycles of multiply-adds, and 46 in f32. Few warps fit beside so much memory, and copies of a block do
//            not overlap with its own products. Predicted 180 to 260 us in bf16, 220 to 320 us in f32.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/stage.cuh"
#include "shared/taps.cuh"
#include "shared/convolve.cuh"
#include "shared/token_taps.cuh"

constexpr unsigned THREADS = 256;

// The numbers of a call, in this order; the plan fills them.
//   columns * block_heads are at least as many as there are heads. A slab is `slab` channels of the block's heads, all of them
//   or, of one head, an even number; pitch bytes hold them, a multiple of 16.
//   taps is all K, or a multiple of 8; octets are as many as it takes for taps.
//   phases * steps / 8 * octets * block_heads * split are at most as many threads as there are.
//   tap_pitch is odd, and at least ceil(taps / 4).
//   The block's memory has phases * (steps + taps - 1) rows for x, then phases * steps for dy, at dy_at; from sums_at on,
//   phases * steps * block_heads rows of tap_pitch * 16 bytes; and, from means_at on, unless taps is K, as many times 12 bytes.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long dy_stride;
    unsigned long long logit_stride;
    unsigned long long gradient_stride;
    Tiles tiles;
    Window window;
    unsigned heads;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    // Whether logits are f32 beside tokens of 16 bits, and whether their gradients are.
    unsigned wide_logits;
    unsigned wide_gradients;
    unsigned block_heads;
    unsigned slab;
    unsigned pitch;
    // Taps of a chunk.
    unsigned taps;
    unsigned octets;
    // Threads that divide the channels among themselves: a power of two.
    unsigned split;
    // Lanes that have a row of taps: a power of two, at most 32.
    unsigned across;
    unsigned tap_pitch;
    unsigned dy_at;
    unsigned sums_at;
    unsigned means_at;
    // Bytes of a unit in which x and dy are read: 16, 8, 4 or 2, and no less than an element.
    unsigned load_unit;
    unsigned unused;
    Dropout dropout;

    // Where a quad of taps lies in the row of sums of a token: turned by one for every eight tokens, so that what is eight tokens
    // apart lies on other banks.
    __device__ unsigned turned(unsigned output, unsigned quad) const {
        const unsigned place = quad + output / STEPS % tap_pitch;
        return place < tap_pitch ? place : place - tap_pitch;
    }
};

// Eight tokens and eight taps of a head, and a thread's part of the channels.
struct Item {
    unsigned phase;
    unsigned step;
    unsigned head;
    unsigned octet;
    // The thread among those that have it.
    unsigned part;
    // The number of the item, by which its channels are turned.
    unsigned number;
    bool exists;
};

// Adds the products of a slab: `channels` of the item's head from byte `offset` of a row on.
template <class X, bool PAIRS>
__device__ void add_slab(float (&sums)[STEPS][OCTET], const Item& item, const unsigned char* dy, const unsigned char* x,
                         unsigned pitch, unsigned channels, unsigned rows, unsigned split) {
    constexpr unsigned EACH = PAIRS ? 2 : 1;
    // Channels, or pairs, of each part, and where this item begins.
    const unsigned all = channels / EACH, each = (all + split - 1) / split;
    unsigned turn = item.number % each;
#pragma unroll 1
    for (unsigned i = 0; i < each; i++) {
        const unsigned place = turn * split + item.part;
        turn = turn + 1 < each ? turn + 1 : 0;
        if (place >= all) {
            continue;
        }
        const auto at = [&](const unsigned char* row) {
            const unsigned char* const number = row + place * unsigned(EACH * sizeof(X));
            if constexpr (PAIRS) {
                return token_at<X>(number);
            } else {
                return make_float2(::number(*reinterpret_cast<const X*>(number)), 0.0f);
            }
        };
        float2 gradients[STEPS];
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            gradients[n] = at(dy + n * pitch);
        }
        const unsigned char* row = x;
#pragma unroll
        for (unsigned k = 0; k < STEPS + OCTET - 1; k++) {
            if (k >= rows) {
                break;
            }
            const float2 token = at(row);
            row += pitch;
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                if (k >= n && k - n < OCTET) {
                    float& sum = sums[n][k - n];
                    sum = fmaf(gradients[n].x, token.x, sum);
                    if constexpr (PAIRS) {
                        sum = fmaf(gradients[n].y, token.y, sum);
                    }
                }
            }
        }
    }
}

template <class X>
__device__ void store_gradient(void* to, unsigned wide, unsigned long long at, float gradient) {
    if (sizeof(X) == sizeof(float) || wide != 0) {
        static_cast<float*>(to)[at] = gradient;
    } else {
        // The first of two that are rounded.
        static_cast<X*>(to)[at] = Pair<X>::rounded(make_float2(gradient, gradient)).x;
    }
}

// What a row of a chunk after chunk is normalised by, and the mean of its gradients.
struct Mean {
    float largest;
    float scale;
    float mean;
};

// How a walk over the chunks ends: with all of it, with what it gives to the mean, or with the gradients by that.
constexpr unsigned WHOLE = 0;
constexpr unsigned MEASURE = 1;
constexpr unsigned FINISH = 2;

// Goes back through the softmax of each row of sums, which are of `count` taps from `first` on.
template <class X>
__device__ void finish_rows(const Params& params, const Tile& tile, const void* logits, void* gradients,
                            const float4* sums, Mean* means, unsigned first_head, unsigned heads, unsigned first,
                            unsigned count, unsigned walk) {
    const Tiles& tiles = params.tiles;
    const Window& window = params.window;
    const unsigned at_once = THREADS / params.across, lane = threadIdx.x % params.across;
    const unsigned outputs = tiles.phases * tiles.steps, rows = outputs * heads;
    const Parameters<X> numbers = {logits, params.wide_logits};
    const bool normal = params.normalize != NONE;
#pragma unroll 1
    for (unsigned base = 0; base < rows; base += at_once) {
        const unsigned row = base + threadIdx.x / params.across, item = min(row, rows - 1);
        const unsigned output = item / heads, head = item - output * heads;
        const Output at = output_at(tiles, tile, output);
        const bool there = row < rows && at.exists && at.position < tile.sequence.room;
        const bool is_token = there && at.position < tile.sequence.length;
        const Taps in_range = {first_tap(window, 0, at.position), end_tap(window, tile.sequence.length, at.position)};
        // Those that have a gradient.
        Taps taps = {0, 0};
        if (is_token) {
            taps = params.normalize == SOFTMAX ? Taps{0, window.width} : in_range;
        }
        const unsigned token = tile.sequence.first + unsigned(at.position);
        const unsigned long long of_head = static_cast<unsigned long long>(first_head + head) * window.width;
        const unsigned long long from = token * params.logit_stride + of_head;
        const unsigned place = output * params.block_heads + head;
        const float4* const of_taps = sums + place * params.tap_pitch;
        // The sum of a tap of the chunk, with what dropout makes of it.
        const auto gradient_of = [&](unsigned tap) {
            const bool is_read = tap >= in_range.begin && tap < in_range.end;
            if (!is_read) {
                return 0.0f;
            }
            const float4* const quad = of_taps + params.turned(output, (tap - first) / QUAD);
            const float sum = reinterpret_cast<const float*>(quad)[(tap - first) % QUAD];
            return dropped(sum, params.dropout.factor(token, first_head + head, tap));
        };
        const unsigned begin = max(taps.begin, first), end = min(taps.end, first + count);
        Mean mean = {LOWEST, 0.0f, 0.0f};
        if (normal) {
            if (walk == WHOLE || (walk == MEASURE && first == 0)) {
                float total = 0.0f;
#pragma unroll 1
                for (unsigned tap = taps.begin + lane; tap < taps.end; tap += params.across) {
                    mean.largest = fmaxf(mean.largest, numbers.at(from + tap));
                }
                mean.largest = largest_across(mean.largest, params.across);
#pragma unroll 1
                for (unsigned tap = taps.begin + lane; tap < taps.end; tap += params.across) {
                    total += exponential(numbers.at(from + tap) - mean.largest);
                }
                mean.scale = 1.0f / total_across(total, params.across);
            } else if (row < rows) {
                mean = means[place];
            }
            if (walk != FINISH) {
                float part = 0.0f;
#pragma unroll 1
                for (unsigned tap = begin + lane; tap < end; tap += params.across) {
                    const float weight = exponential(numbers.at(from + tap) - mean.largest) * mean.scale;
                    part = fmaf(weight, gradient_of(tap), part);
                }
                mean.mean += total_across(part, params.across);
            }
            if (walk == MEASURE) {
                // All lanes of the row have read it.
                __syncwarp();
                if (row < rows && lane == 0) {
                    means[place] = mean;
                }
                continue;
            }
        }
        if (!there) {
            continue;
        }
        const unsigned long long to = token * params.gradient_stride + of_head;
#pragma unroll 1
        for (unsigned tap = first + lane; tap < first + count; tap += params.across) {
            // Zero in the padding.
            float gradient = 0.0f;
            if (tap >= begin && tap < end) {
                gradient = gradient_of(tap);
                if (normal) {
                    gradient = exponential(numbers.at(from + tap) - mean.largest) * mean.scale * (gradient - mean.mean);
                }
            }
            store_gradient<X>(gradients, params.wide_gradients, to + tap, gradient);
        }
    }
}

template <class X, bool PAIRS>
__device__ void gradients_of_logits(const X* x, const X* dy, const void* logits, const uint4* sequences, void* gradients,
                                    const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Tile tile;
    if (threadIdx.x == 0) {
        tile = tile_of(params.tiles, sequences);
    }
    __syncthreads();
    if (unsigned(tile.start) >= unsigned(tile.sequence.room)) {
        return;
    }
    const Tiles& tiles = params.tiles;
    const Window& window = params.window;
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    float4* const sums_memory = reinterpret_cast<float4*>(bytes + params.sums_at);
    Mean* const means = reinterpret_cast<Mean*>(bytes + params.means_at);
    const unsigned first_head = tile.column * params.block_heads;
    const unsigned heads = min(params.block_heads, params.heads - first_head);
    const unsigned first_channel = first_head * params.head_channels;
    const unsigned end_channel = first_channel + heads * params.head_channels;
    const bool computes = unsigned(tile.start) < unsigned(tile.sequence.length);

    Item item;
    {
        const unsigned eights = tiles.phases * tiles.steps / STEPS;
        item.part = threadIdx.x % params.split;
        item.number = threadIdx.x / params.split;
        const unsigned eight = item.number % eights, rest = item.number / eights;
        item.octet = rest % params.octets;
        item.head = rest / params.octets;
        const Output output = output_at(tiles, tile, eight * STEPS);
        item.phase = output.phase;
        item.step = output.step;
        item.exists = item.head < heads && output.exists && output.position < tile.sequence.length;
    }
    const bool twice = params.taps < window.width && params.normalize != NONE;
#pragma unroll 1
    for (unsigned walk = twice ? MEASURE : WHOLE; walk <= (twice ? FINISH : WHOLE); walk++) {
#pragma unroll 1
        for (unsigned first = 0; first < window.width; first += params.taps) {
            const unsigned count = min(params.taps, window.width - first);
            const unsigned x_rows = tiles.steps + count - 1;
            float sums[STEPS][OCTET] = {};
#pragma unroll 1
            for (unsigned channel = first_channel; computes && channel < end_channel; channel += params.slab) {
                const unsigned end = min(channel + params.slab, end_channel);
                // The last slab was read.
                __syncthreads();
                const Rows to_x = {bytes, params.pitch, 0, x_rows * params.pitch};
                const Rows to_dy = {bytes + params.dy_at, params.pitch, 0, tiles.steps * params.pitch};
                const Window own = {1, window.dilation, 0, 0};
                const Tokens<X> from_x = {x, params.x_stride, nullptr, nullptr, 0, end, channel};
                const Tokens<X> from_dy = {dy, params.dy_stride, nullptr, nullptr, 0, end, channel};
                stage<true>(params.load_unit, from_x, to_x, tiles, tile, window, 0, first, count);
                stage<true>(params.load_unit, from_dy, to_dy, tiles, tile, own, 0, 0, 1);
                wait_for_copies();
                __syncthreads();
                const unsigned tap = item.octet * OCTET;
                if (item.exists && tap < count) {
                    const unsigned channels = min(end - channel, params.head_channels);
                    const unsigned offset = item.head * params.head_channels * unsigned(sizeof(X));
                    add_slab<X, PAIRS>(sums, item, to_dy.at(item.phase, item.step) + offset,
                                       to_x.at(item.phase, item.step + tap) + offset, params.pitch, channels,
                                       STEPS + min(OCTET, count - tap) - 1, params.split);
                }
            }
            if (computes) {
                // What all parts have added up, with each of them.
                const unsigned most = min(OCTET, count);
#pragma unroll 1
                for (unsigned lane = 1; lane < params.split; lane *= 2) {
#pragma unroll
                    for (unsigned j = 0; j < OCTET; j++) {
                        if (j >= most) {
                            break;
                        }
#pragma unroll
                        for (unsigned n = 0; n < STEPS; n++) {
                            sums[n][j] += __shfl_xor_sync(0xffffffffu, sums[n][j], lane);
                        }
                    }
                }
                const unsigned tap = item.octet * OCTET, output = item.phase * tiles.steps + item.step;
                // The parts have rows of their own to leave, whole quads of taps as far as there are some.
                const bool leaves = item.exists && tap < count;
                const unsigned first_quad = params.turned(output, tap / QUAD);
                const unsigned second_quad = params.turned(output, tap / QUAD + 1);
                const bool second = tap + QUAD < params.tap_pitch * QUAD;
                float4* to = sums_memory + (output * params.block_heads + item.head) * params.tap_pitch;
#pragma unroll
                for (unsigned n = 0; n < STEPS; n++) {
                    if (leaves && n % params.split == item.part) {
                        const float(&of)[OCTET] = sums[n];
                        to[first_quad] = make_float4(of[0], of[1], of[2], of[3]);
                        if (second) {
                            to[second_quad] = make_float4(of[4], of[5], of[6], of[7]);
                        }
                    }
                    to += params.block_heads * params.tap_pitch;
                }
                __syncthreads();
            }
            finish_rows<X>(params, tile, logits, gradients, sums_memory, means, first_head, heads, first, count, walk);
            __syncthreads();
        }
    }
}

// Single channels take a few registers more than two blocks of a multiprocessor have.
#define ENTRY(NAME, PAIRS)                                                                                             \
    extern "C" __global__ __launch_bounds__(THREADS, PAIRS ? 2 : 1) void NAME(                                         \
        const TOKEN* __restrict__ x, const TOKEN* __restrict__ dy, const void* __restrict__ logits,                    \
        const uint4* __restrict__ sequences, void* __restrict__ gradients, const __grid_constant__ Params params) {    \
        gradients_of_logits<TOKEN, PAIRS>(x, dy, logits, sequences, gradients, params);                                \
    }

ENTRY(dynamic_conv_logits, true)
ENTRY(dynamic_conv_logits_split, false)
