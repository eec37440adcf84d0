// The gradient of x of a dynamic convolution with given logits: dx[s, c] = sum_j w[t, h(c), j] dy[t, c], with t = s + P - j r.
//
// module dynamic_conv_transposed_f16 TOKEN=f16
// module dynamic_conv_transposed_bf16 TOKEN=bf16
//
// This is the form by products of matrices, as `dynamic_conv_banded.cu` is for y, for numbers of 16 bits, heads of 16 channels and
// more, and windows of up to 129 taps; `dynamic_conv.cu` is the other. 16 outputs of a head are a band of taps, 16 x (16 + K - 1),
// times as many tokens, by the mirrored window; but the taps are those of the tokens that are read
// (`shared/transposed_band.cuh`), so that those of a tile's halo are wanted as well.
//
// A block makes a tile of outputs of one phase, for some groups of 8 channels, which are whole heads where heads are not wide.
// It brings dy of the tile and its halo into its memory once. Then, head after head, its threads put the weights of all these
// tokens into its memory, and its warps take 16 outputs at a time: they load the band, and have the products of all channels
// that the block has of the head, 16 channels after 16, which leave through a corner of their own.
//
// What is infinite or NaN spoils only the outputs that have it in their window: where a sum is no number, it is made again
// without such tokens, and by multiply-adds (`finish_band`).
//
// There is an entry for 3, 5 and 9 products.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, bf16, logits
// in f32, K = 31, on an H100 (as in `dynamic_conv_banded.cu`):
//   134 MB of tokens and 65 MB of logits, 66 us; tiles of 128 tokens read 23 % of both twice, mostly from L2. A band of 16
//   outputs and 64 channels is 72 products. The emulator counts 175 instructions of a warp for each token and head, where
//   multiply-adds take 823 (f32): 102 us of issue with 12 warps a multiprocessor. Predicted 115 to 150 us.
//   K = 127: 400 MB, 133 us; tiles are of 64 tokens, whose halo has twice as many, and all their weights are made for each tile:
//   850 to 1130 instructions. Predicted 520 to 650 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/ring.cuh"
#include "shared/taps.cuh"
#include "shared/transposed_band.cuh"
#include "shared/corner.cuh"

// Threads of a block, and blocks that a multiprocessor is to have registers for.
constexpr unsigned THREADS = 128;
__device__ constexpr unsigned blocks(unsigned products) { return products > 5 ? 2 : products > 3 ? 3 : 4; }

// The numbers of a call, in this order; the plan fills them.
//   width is at most 16 products - 15, and head_channels at least 16.
//   columns * groups is at least heads * ceil(head_channels / 8).
//   rows is `steps` and 16 (products - 1) more.
//   eights is `steps` / 8, or (width + 6) / 8 + 1, which is enough; and no less than 4 for 9 products.
//   quads is odd, and at least eights times the parts of a weight.
//   load_unit and store_unit divide the bytes of a head's channels, of 8 at most.
//   The block's memory has rows * (groups | 1) * 16 bytes, (steps + width - 1) * (quads * 16 + 8), and CORNER_BYTES for each warp.
struct Params {
    // Elements from one token to the next.
    unsigned long long dy_stride;
    unsigned long long dx_stride;
    unsigned long long logit_stride;
    // `phases` is 1, and `steps` a multiple of 16.
    Tiles tiles;
    // The mirrored one.
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    unsigned wide_logits;
    // Whether something is added: numbers of f32, for every token.
    unsigned has_addend;
    // Groups of 8 channels that a block has at most: THREADS / 8 of them, so that a row has a thread for every number.
    unsigned groups;
    // Rows of dy that lie in the block's memory.
    unsigned rows;
    // Of `TapQuads`: eights of a part, and quads from row to row.
    unsigned eights;
    unsigned quads;
    // Bytes of a unit in which dy is read and dx is written: 16, 4 or 2.
    unsigned load_unit;
    unsigned store_unit;
    unsigned unused;
    Dropout dropout;
};

template <class X, unsigned PRODUCTS>
__device__ void gradient_of_x(const X* dy, const void* logits, const float* addend, const uint4* sequences, X* dx,
                              const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Channels channels[THREADS];
    __shared__ Stretch stretch;
    __shared__ uint4 zero;

    if (threadIdx.x == 0) {
        stretch = stretch_of(params.tiles, sequences, params.window, params.channels, params.head_channels,
                             params.groups, PRODUCTS);
        // There is no past.
        stretch.history_row = stretch.first_row;
        zero = uint4();
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
    const Tokens<X> tokens = {dy, params.dy_stride, nullptr, nullptr, 0, params.channels, 0};
    if (params.load_unit == 16) {
        stage_chunk_by<uint4>(tokens, ring, stretch, window, channels, 0, 0);
    } else if (params.load_unit == 4) {
        stage_chunk_by<unsigned>(tokens, ring, stretch, window, channels, 0, 0);
    } else {
        stage_chunk_by<unsigned short>(tokens, ring, stretch, window, channels, 0, 0);
    }

    const unsigned warp = threadIdx.x / WARP, warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
    const unsigned most_taps = params.tiles.steps + window.width - 1, pitch = params.quads * unsigned(sizeof(uint4));
    unsigned char* const taps_memory = ring.memory + ring.rows * ring.pitch;
    unsigned char* const corner = taps_memory + most_taps * pitch + warp * CORNER_BYTES;
    unsigned char* const softmax = taps_memory + most_taps * pitch + warps * CORNER_BYTES;
    const TapQuads taps = {taps_memory, params.eights, pitch, reinterpret_cast<Softmax*>(softmax)};
    // Head is that of the outputs at hand.
    HeadLogits of_head = {logits, params.wide_logits, params.logit_stride, 0, params.normalize, params.dropout};
    const float unscale = (params.dropout.threshold != 0 ? params.dropout.scale : 1.0f) / raised<X>(of_head);

    const unsigned first_head = stretch.first_group / stretch.groups_each;
    const unsigned end_head = (stretch.first_group + stretch.groups - 1) / stretch.groups_each + 1;
    const unsigned computed = (stretch.computed + SIDE - 1) / SIDE * SIDE;
    const unsigned long long first_token = stretch.tile.sequence.first + unsigned(stretch.tile.start);
    unsigned char* const to = corner + lane / 4 * CORNER_PITCH + lane % 4 * 4;
#pragma unroll 1
    for (unsigned head = first_head; head < end_head; head++) {
        of_head.head = head;
        if (computed > 0) {
            TransposedBand<X, PRODUCTS>::fill(of_head, taps, window, stretch.tile, computed + window.width - 1,
                                              params.tiles.steps);
        }
        wait_for_copies();
        __syncthreads();
        // Groups of this head that the block has, counted from its first: their channels are neighbours.
        const unsigned before = head * stretch.groups_each;
        const unsigned begin = before > stretch.first_group ? before - stretch.first_group : 0;
        const unsigned end = min(before + stretch.groups_each - stretch.first_group, stretch.groups);
        const unsigned first_channel = channels[begin].first;
        const unsigned end_channel = channels[end - 1].first + channels[end - 1].count;
#pragma unroll 1
        for (unsigned output = warp * SIDE; output < stretch.outputs; output += warps * SIDE) {
            const bool computes = output < stretch.computed;
            TransposedBand<X, PRODUCTS> band;
            if (computes) {
                band.load(taps, output, window.width, &zero);
            }
            const unsigned char* rows = ring.memory + output * ring.pitch + begin * unsigned(sizeof(uint4));
#pragma unroll 1
            for (unsigned channel = first_channel; channel < end_channel; channel += CORNER_CHANNELS) {
                float2 values[2][2] = {};
                if (computes) {
                    // Where there is no second group, the first comes twice.
                    const unsigned second = channel + GROUP < end_channel ? unsigned(sizeof(uint4)) : 0;
                    const auto row = [&](unsigned k, unsigned group) { return rows + (k * ring.pitch + group * second); };
                    unsigned numbers[2][PRODUCTS][2];
#pragma unroll
                    for (unsigned n = 0; n < PRODUCTS; n++) {
                        unsigned both[2][2];
                        load_columns(both, unsigned(__cvta_generic_to_shared(row(n * SIDE + lane % SIDE, lane / SIDE))));
#pragma unroll
                        for (unsigned i = 0; i < 2; i++) {
                            numbers[0][n][i] = both[0][i];
                            numbers[1][n][i] = both[1][i];
                        }
                    }
                    const auto start = [&](unsigned half, unsigned group) {
                        const unsigned n = output + lane / 4 + 8 * half, c = channel + group * GROUP + lane % 4 * 2;
                        if (params.has_addend == 0 || n >= stretch.computed) {
                            return make_float2(0.0f, 0.0f);
                        }
                        const unsigned long long token = first_token + static_cast<unsigned long long>(n) * window.dilation;
                        const float* const of = addend + token * params.channels;
                        return make_float2(c < end_channel ? __ldg(of + c) : 0.0f,
                                           c + 1 < end_channel ? __ldg(of + c + 1) : 0.0f);
                    };
                    const auto plain = [&](unsigned half, unsigned group) {
                        const auto token = [&](unsigned k) { return row(k - output, group) + lane % 4 * (2 * sizeof(X)); };
                        const float2 sum = TransposedBand<X, PRODUCTS>::plain_sum(
                            of_head, taps, window, stretch.tile, output + lane / 4 + 8 * half, token);
                        const float2 from = start(half, group);
                        return PlainSum{false, make_float2(sum.x + from.x, sum.y + from.y)};
                    };
                    finish_band(values, numbers, band.band, false, start, [&](unsigned) { return unscale; }, plain);
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
                store_corner<X>(params.store_unit, corner, 0, min(end_channel - channel, CORNER_CHANNELS),
                                [&](unsigned row) -> X* {
                                    if (output + row >= stretch.outputs) {
                                        return nullptr;
                                    }
                                    const unsigned long long step = window.dilation * params.dx_stride;
                                    return dx + first_token * params.dx_stride + (output + row) * step + channel;
                                });
                __syncwarp();
            }
        }
        // The weights of this head are read.
        __syncthreads();
    }
}

#define ENTRY(NAME, PRODUCTS)                                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, blocks(PRODUCTS)) void NAME(                                      \
        const TOKEN* __restrict__ dy, const void* __restrict__ logits, const float* __restrict__ addend,               \
        const uint4* __restrict__ sequences, TOKEN* __restrict__ dx, const __grid_constant__ Params params) {          \
        gradient_of_x<TOKEN, PRODUCTS>(dy, logits, addend, sequences, dx, params);                                     \
    }

ENTRY(dynamic_conv_transposed_3, 3)
ENTRY(dynamic_conv_transposed_5, 5)
ENTRY(dynamic_conv_transposed_9, 9)
