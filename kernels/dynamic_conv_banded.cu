// Dynamic convolution with given logits: y[t, c] = bias[c] + sum_j normalize(logits)[t, h(c), j] x[t + j r - P, c].
//
// module dynamic_conv_banded_f16 TOKEN=f16
// module dynamic_conv_banded_bf16 TOKEN=bf16
//
// This is the form by products of matrices, for numbers of 16 bits, heads of 16 channels and more, and windows of up to 129
// taps. All channels of a head share the filter of an output, so that 16 outputs of 8 channels are a band of taps,
// 16 x (16 + K - 1), times as many tokens (`shared/token_band.cuh`).
//
// A block makes a tile of outputs of one phase, for some groups of 8 channels, which are whole heads where heads are not
// wide. It brings the tokens of the tile and their halo into its memory once (`shared/ring.cuh`, whose ring goes round once
// here). A warp takes 16 outputs of a head at a time: it brings their logits into a corner of its own, makes the band of
// them, and has the products of all channels that the block has of the head, 16 channels after 16: those leave through its
// corner by the widest units that alignment allows, whole sectors at a time. After the tokens are there no warp waits for
// another. Banks are met twice only where a block has rows of tokens of fewer than 8 groups, by those who bring them in.
//
// What is infinite or NaN spoils only the outputs that have it in their window: see `shared/token_band.cuh`.
//
// There is an entry for 3, 5 and 9 products. K, normalisation, dilation, alignment and the type of the logits, which are
// of 16 bits or f32, are numbers at run time.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, bf16, logits in bf16, on an H100
// (3.35 TB/s, of which a copy reaches 3.0; 132 multiprocessors at 1.7 GHz, 4 instructions a cycle each):
//   1024 channels in 16 heads, K = 31:  134 MB of tokens and 33 MB of logits, 56 us. Tiles of 128 tokens read 23 % of x twice,
//            62 bytes of logits lie in three sectors as a rule, mostly from the cache: 19 % more. A band of 16 outputs and 64
//            channels is 72 products in some 2000 instructions of PTX (the emulator's count: 62 for each output and lane),
//            of which a third are moves that vanish: 45 to 70 us of issue beside the bytes, with 16 warps a multiprocessor.
//            Predicted 75 to 95 us, 0.6 to 0.75 of the floor.
//   1024 channels in 16 heads, K = 3:  137 MB, 46 us; as many products, as the band is no narrower. Predicted 65 to 85 us.
//   512 channels in 8 heads: half of both. Predicted 38 to 48 us at K = 31, 33 to 43 at K = 3.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/ring.cuh"
#include "shared/taps.cuh"
#include "shared/token_band.cuh"
#include "shared/logit_rows.cuh"
#include "shared/corner.cuh"

// Threads of a block, and blocks that a multiprocessor is to have registers for.
constexpr unsigned THREADS = 128;
__device__ constexpr unsigned blocks(unsigned products) { return products > 5 ? 2 : products > 3 ? 3 : 4; }

// The numbers of a call, in this order; the plan fills them.
//   width is at most 16 products - 15, and head_channels at least 16.
//   columns * groups is at least heads * ceil(head_channels / 8).
//   rows is `steps` and 16 (products - 1) more.
//   logit_pitch is at least width, and 5 more than a multiple of 8.
//   load_unit and store_unit divide the bytes of a head's channels, of 8 at most.
//   The block's memory has rows * (groups | 1) * 16 bytes, and for each warp 16 * logit_pitch * 4 + CORNER_BYTES.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long y_stride;
    unsigned long long logit_stride;
    // `phases` is 1, and `steps` a multiple of 16.
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    unsigned has_bias;
    // Whether biases are f32, and whether logits are.
    unsigned wide;
    unsigned wide_logits;
    // Groups of 8 channels that a block has at most: THREADS / 8 of them, so that a row has a thread for every number.
    unsigned groups;
    // Rows of tokens that lie in the block's memory.
    unsigned rows;
    // Numbers from the logits of an output to those of the next.
    unsigned logit_pitch;
    // Bytes of a unit in which x and history are read and y is written: 16, 4 or 2.
    unsigned load_unit;
    unsigned store_unit;
    unsigned unused;
    Dropout dropout;
};

// A warp's own corner of the block's memory.
struct Corner {
    float* logits;
    unsigned char* outputs;
};

template <class X, unsigned PRODUCTS>
__device__ void dynamic_conv(const X* x, const void* logits, const void* bias, const X* history, const uint4* sequences,
                             X* y, const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Channels channels[THREADS];
    __shared__ Stretch stretch;

    if (threadIdx.x == 0) {
        stretch = stretch_of(params.tiles, sequences, params.window, params.channels, params.head_channels,
                             params.groups, PRODUCTS);
    }
    __syncthreads();
    if (stretch.outputs == 0) {
        return;
    }
    if (threadIdx.x < params.groups) {
        channels[threadIdx.x] = channels_of(stretch, threadIdx.x);
    }
    __syncthreads();
    const Window& window = params.window;
    const Ring ring = {reinterpret_cast<unsigned char*>(memory), params.groups,
                       (params.groups | 1) * unsigned(sizeof(uint4)), params.rows, params.rows};
    const Tokens<X> tokens = {x, params.x_stride, history, y, params.y_stride, params.channels, 0};
    if (params.load_unit == 16) {
        stage_chunk_by<uint4>(tokens, ring, stretch, window, channels, 0, 0);
    } else if (params.load_unit == 4) {
        stage_chunk_by<unsigned>(tokens, ring, stretch, window, channels, 0, 0);
    } else {
        stage_chunk_by<unsigned short>(tokens, ring, stretch, window, channels, 0, 0);
    }

    const unsigned warp = threadIdx.x / WARP, warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    unsigned char* const own = ring.memory + ring.rows * ring.pitch + warp * (SIDE * params.logit_pitch * 4 + CORNER_BYTES);
    const Corner corner = {reinterpret_cast<float*>(own + CORNER_BYTES), own};
    static_assert(KEPT_BYTES <= CORNER_BYTES);
    // Head and token are those of the outputs at hand.
    Logits of_head = {corner.logits, params.logit_pitch, window.width, params.normalize, params.dropout, 0, 0,
                      window.dilation, corner.outputs};
    const Parameters<X> biases = {bias, params.wide};
    const unsigned first_head = stretch.first_group / stretch.groups_each;
    const unsigned heads = (stretch.first_group + stretch.groups - 1) / stretch.groups_each + 1 - first_head;
    const unsigned units = (stretch.outputs + SIDE - 1) / SIDE * heads;
    const unsigned long long first_token = stretch.tile.sequence.first + unsigned(stretch.tile.start);

    bool waiting = true;
#pragma unroll 1
    for (unsigned unit = warp; waiting || unit < units; unit += warps) {
        const unsigned head = first_head + unit % heads;
        const unsigned output = unit / heads * SIDE;
        const bool computes = unit < units && output < stretch.computed;
        if (computes) {
            // The last one's are read.
            __syncwarp();
            const unsigned long long token = first_token + output * window.dilation;
            const LogitRows rows = {token * params.logit_stride + static_cast<unsigned long long>(head) * window.width,
                                    window.dilation * params.logit_stride, min(stretch.computed - output, SIDE), window.width};
            stage_logits<X>(logits, params.wide_logits, rows, corner.logits, params.logit_pitch);
        }
        if (waiting) {
            waiting = false;
            wait_for_copies();
            __syncthreads();
        }
        if (unit >= units) {
            break;
        }
        __syncwarp();
        TokenBand<X, PRODUCTS> band;
        of_head.head = head;
        of_head.token = stretch.tile.sequence.first + unsigned(stretch.tile.start) + output * window.dilation;
        if (computes) {
            band.load(of_head, [&](unsigned n) {
                const int position = stretch.tile.start + int((output + n) * window.dilation);
                const Taps taps = {first_tap(window, stretch.past, position),
                                   end_tap(window, stretch.tile.sequence.length, position)};
                return output + n < stretch.computed ? taps : Taps{0, 0};
            });
        }
        // Groups of this head that the block has, counted from its first: their channels are neighbours.
        const unsigned before = head * stretch.groups_each;
        const unsigned begin = before > stretch.first_group ? before - stretch.first_group : 0;
        const unsigned end = min(before + stretch.groups_each - stretch.first_group, stretch.groups);
        const unsigned first_channel = channels[begin].first;
        const unsigned end_channel = channels[end - 1].first + channels[end - 1].count;
        const unsigned char* rows = ring.memory + output * ring.pitch + begin * unsigned(sizeof(uint4));
        unsigned char* const to = corner.outputs + lane / 4 * CORNER_PITCH + lane % 4 * 4;
#pragma unroll 1
        for (unsigned channel = first_channel; channel < end_channel; channel += CORNER_CHANNELS) {
            float2 values[2][2] = {};
            if (computes) {
                // Where there is no second group, the first comes twice.
                const unsigned second = channel + GROUP < end_channel ? unsigned(sizeof(uint4)) : 0;
                float2 starts[2] = {};
                if (params.has_bias != 0) {
                    const auto bias_of = [&](unsigned n) {
                        return channel + n < end_channel ? biases.at(channel + n) : 0.0f;
                    };
#pragma unroll
                    for (unsigned group = 0; group < 2; group++) {
                        const unsigned n = group * GROUP + lane % 4 * 2;
                        starts[group] = make_float2(bias_of(n), bias_of(n + 1));
                    }
                }
                band.convolve_two(values, of_head, starts, [&](unsigned row, unsigned group) {
                    return rows + (row * ring.pitch + group * second);
                });
                rows += 2 * sizeof(uint4);
            }
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const bool is_token = output + lane / 4 + 8 * half < stretch.computed;
#pragma unroll
                for (unsigned group = 0; group < 2; group++) {
                    // Zero in the padding.
                    const float2 value = is_token ? values[group][half] : make_float2(0.0f, 0.0f);
                    *reinterpret_cast<typename Pair<X>::Word*>(to + 8 * half * CORNER_PITCH + group * sizeof(uint4)) =
                        Pair<X>::rounded(value);
                }
            }
            __syncwarp();
            store_corner<X>(params.store_unit, corner.outputs, 0, min(end_channel - channel, CORNER_CHANNELS),
                            [&](unsigned row) -> X* {
                                if (output + row >= stretch.outputs) {
                                    return nullptr;
                                }
                                const unsigned long long step = params.window.dilation * params.y_stride;
                                return y + first_token * params.y_stride + (output + row) * step + channel;
                            });
            __syncwarp();
        }
    }
}

#define ENTRY(NAME, PRODUCTS)                                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, blocks(PRODUCTS)) void NAME(                                      \
        const TOKEN* __restrict__ x, const void* __restrict__ logits, const void* __restrict__ bias,                   \
        const TOKEN* __restrict__ history, const uint4* __restrict__ sequences, TOKEN* __restrict__ y,                 \
        const __grid_constant__ Params params) {                                                                       \
        dynamic_conv<TOKEN, PRODUCTS>(x, logits, bias, history, sequences, y, params);                                 \
    }

// By the number of products: K up to 33, 65 and 129.
ENTRY(dynamic_conv_3, 3)
ENTRY(dynamic_conv_5, 5)
ENTRY(dynamic_conv_9, 9)
