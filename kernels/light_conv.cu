// Light convolution: y[t, c] = bias[c] + sum_j w[h(c), j] x[t + j r - P, c], w = normalize(weight).
//
// module light_conv_f32 TOKEN=f32
// module light_conv_f16 TOKEN=f16
// module light_conv_bf16 TOKEN=bf16
//
// This is the form by multiply-adds, for any number of heads. A block makes a tile of outputs: `lanes` threads side by side
// on the channels, two each, and `groups` of them along time, each with STEPS outputs a round. It copies the tokens of the
// tile and their halo into its memory once, by the widest units that alignment allows, normalises the filters of its heads
// meanwhile, and convolves round by round. The outputs of a round take the places of tokens that no later round reads, and
// leave by the same wide units. A window whose taps or tokens are more than the memory holds goes chunk by chunk, in one
// round.
//
// There is an entry for channels that come in pairs of one head (an even number of channels a head), and one for those
// that do not (`_split`); each for softmax over the taps in range (`_in_range`), whose code for the ends of sequences the
// others need not carry, and for the rest. K, dilation and alignment are numbers at run time.
//
// Banks of the block's memory: an octet of taps is 24 passes over them in f32 and 16 in the other types, and its 128
// multiply-adds take a multiprocessor 32 cycles. Threads of neighbouring groups that met the same banks would make that
// 72 and 40 passes where rows are 32 bytes, so rows that are narrower than the banks have gaps (shared/stage.cuh). The
// emulator then counts no conflict but these:
//   Rows that are no power of two: a block copies rows that are no whole octet, and where a pass reads the taps of heads
//   that are more than eight apart, two of them meet. Up to a tenth of all passes.
//   One channel a head: a thread's two heads are neighbours, so eight threads read every other quad and take two passes. A
//   tenth to a sixth of all passes at K = 3, up to a third at K = 127.
//   The ends of sequences: each thread reads the taps that are in range for it.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, bf16,
// on an H100 (3.35 TB/s; 132 multiprocessors of 128 lanes at 1.7 GHz, 29 T multiply-adds/s):
//   bytes:   134 MB at 3.0 TB/s, what a copy reaches: 45 us. The halo, 30 tokens to 256, adds 6 % of traffic to K = 31.
//   K = 3:   0.10 G multiply-adds, 4 us: memory alone. Predicted 50 to 55 us, 0.8 to 0.9 of the floor.
//   K = 31:  1.04 G multiply-adds, 36 us. An octet of taps is 128 of them among some 160 instructions (8 tokens and 2 quads
//            of taps from the block's memory, 16 conversions), and the last, of 7, has a branch a tap: 48 us of issue, under
//            which 3 to 4 blocks a multiprocessor hide most of the copies. Predicted 60 to 70 us, 0.65 to 0.75.
//   K = 127: 146 us of multiply-adds, about 190 us of issue. Predicted 200 us: that is the tensor cores' work.
// In f32 at K = 31: 268 MB, 89 us; the same instructions less the conversions. Predicted 100 to 110 us, 0.8 to 0.9.
// In f32 at K = 127: a tile is 512 tokens with a halo of 126, 1.13 of the bytes and 101 us, under 146 us of multiply-adds
// and 200 us or more of issue: the emulator counts 208 instructions an output, which is 240 us. Predicted 210 to 240 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/stage.cuh"
#include "shared/taps.cuh"
#include "shared/convolve.cuh"
#include "shared/in_range.cuh"
#include "shared/work.cuh"

constexpr unsigned THREADS = 256;

// The block's memory, under 48 KiB in all, so that two blocks fit where there are 100 KiB, three in 164 and four in 228:
// tokens, quads of taps, and the heads that a tile can touch.
constexpr unsigned TOKEN_BYTES = 39168;
constexpr unsigned TAP_QUADS = 576;
constexpr unsigned HEADS = 64;

// The numbers of a call, in this order; the plan fills them. A phase has steps + taps - 1 rows.
//   lanes * 2 channels are a row: a multiple of 16 bytes, and at most 128. Where it is less, gap is a row, and otherwise 0.
//   of_phase has room for them and for the gaps between them; phases * of_phase are at most TOKEN_BYTES.
//   taps is a multiple of 8, and taps / 4 * (heads | 1) at most TAP_QUADS, for as many heads as a row's channels can touch.
//   rounds * groups * STEPS are at least phases * steps; rounds is 1 unless width <= taps.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long y_stride;
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    // 0: none; otherwise softmax, over the taps that the entry says.
    unsigned normalize;
    unsigned has_bias;
    // Whether weights and biases are f32 beside tokens of 16 bits.
    unsigned wide;
    unsigned lanes;
    // THREADS / lanes.
    unsigned groups;
    unsigned rounds;
    // Taps of a chunk.
    unsigned taps;
    // Bytes of a unit in which x and history are read and y is written: 16, 8, 4 or 2, and no less than an element.
    unsigned load_unit;
    unsigned store_unit;
    // Of `Rows`, in bytes.
    unsigned gap;
    unsigned of_phase;
    // Whether this is the gradient of x: then x is the gradient of y, taps are counted from the last, and no token of the past
    // is read. Where softmax is over the taps in range, `history` is what `light_conv_backward.cu` leaves of the tokens at the
    // ends of sequences: end_rows of each sequence, of as many heads as there are.
    unsigned mirrored;
    unsigned end_rows;
    unsigned heads;
    Dropout dropout;
};

template <class X, bool SPLIT, bool IN_RANGE>
__device__ void light_conv(const X* x, const void* weight, const void* bias, const X* history, const uint4* sequences,
                           X* y, const Params& params) {
    __shared__ uint4 token_memory[TOKEN_BYTES / sizeof(uint4)];
    __shared__ float4 tap_memory[TAP_QUADS];
    __shared__ Softmax softmax[HEADS];
    __shared__ Work work;

    if (threadIdx.x == 0) {
        work = work_of(params.tiles, params.window, sequences, params.channels, params.head_channels, params.lanes * 2,
                       params.taps);
    }
    __syncthreads();
    if (unsigned(work.tile.start) >= unsigned(work.tile.sequence.room)) {
        return;
    }
    const Tiles& tiles = params.tiles;
    const Window& window = params.window;
    const Rows rows = {reinterpret_cast<unsigned char*>(token_memory), params.lanes * unsigned(2 * sizeof(X)), params.gap,
                       params.of_phase};
    const TapMemory memory = {tap_memory, work.heads | 1};
    const auto tokens = [&] {
        return Tokens<X>{x, params.x_stride, history, y, params.y_stride, params.channels, work.first_channel};
    };
    const auto filters = [&] {
        return Filters<X>{{weight, params.wide}, work.first_head, work.heads, window.width, params.mirrored,
                          params.dropout};
    };
    if (window.width > params.taps && params.normalize != NONE) {
        measure(filters(), softmax);
    }

    for (unsigned round = 0; round < params.rounds; round++) {
        const unsigned group = threadIdx.x / params.lanes;
        const unsigned lane = threadIdx.x % params.lanes;
        const unsigned channel = work.first_channel + 2 * lane;
        const Output output = output_at(tiles, work.tile, (round * params.groups + group) * STEPS);
        const bool writes = group < params.groups && channel < work.end_channel && output.exists &&
                            output.position < work.tile.sequence.room;
        const bool computes = writes && output.position < work.tile.sequence.length;
        unsigned char* words = rows.at(output.phase, output.step) + lane * unsigned(2 * sizeof(X));
        Place place = {words, rows.pitch, rows.gap, output.position, {0, 0}};
        float2 sums[STEPS];
        if (computes) {
            // The second channel of the last pair may not exist: it is computed as one of the first's head, and not stored.
            const unsigned second = min(channel + 1, work.end_channel - 1);
            place.heads[0] = channel / params.head_channels - work.first_head;
            place.heads[1] = SPLIT ? second / params.head_channels - work.first_head : place.heads[0];
            float2 start = make_float2(0.0f, 0.0f);
            if (params.has_bias != 0) {
                const Parameters<X> biases = {bias, params.wide};
                start = make_float2(biases.at(channel), biases.at(second));
            }
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                sums[n] = start;
            }
        }
        EdgeSoftmax<SPLIT> edge;
        bool at_edge = false;
        if constexpr (IN_RANGE) {
            if (params.mirrored != 0) {
                at_edge = computes && !all_within(window, work.tile.sequence.length, output.position);
            } else {
                at_edge = computes && !all_in_range(window, work.past, work.tile.sequence.length, output.position);
            }
            if (at_edge && params.mirrored == 0) {
                measure_edge(edge, filters(), place, window, work.past, work.tile.sequence.length);
            }
        }
        for (unsigned first = work.taps.begin; first < work.taps.end; first += params.taps) {
            const unsigned count = min(params.taps, work.taps.end - first);
            if (round == 0) {
                if (first > work.taps.begin) {
                    __syncthreads();
                }
                stage(params.load_unit, tokens(), rows, tiles, work.tile, window, work.past, first, count);
                fill(filters(), memory, params.normalize != NONE, softmax, first, count);
                wait_for_copies();
                __syncthreads();
            }
            if (IN_RANGE && at_edge && params.mirrored != 0) {
                const EndRows ends = {reinterpret_cast<const float*>(history), params.end_rows, params.heads};
                accumulate_mirrored<X, SPLIT>(sums, ends, filters(), memory, place, window, work.tile, first, count);
            } else if (IN_RANGE && at_edge) {
                accumulate_edge<X>(sums, edge, filters(), place, window, work.past, work.tile.sequence.length, first,
                                   count);
            } else if (computes) {
                accumulate<X, SPLIT>(sums, place, memory, window, work.past, work.tile.sequence.length, first, count);
            }
        }
        // The tokens of this round are read: outputs may take their places.
        __syncthreads();
        if (writes) {
            int position = output.position;
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                // Zero in the padding.
                const float2 value = position < work.tile.sequence.length ? sums[n] : make_float2(0.0f, 0.0f);
                *reinterpret_cast<typename Pair<X>::Word*>(words + n * rows.pitch) = Pair<X>::rounded(value);
                position += int(tiles.dilation);
            }
        }
    }
    __syncthreads();
    store(params.store_unit, tokens(), rows, tiles, work.tile);
}

#define ENTRY(NAME, SPLIT, IN_RANGE)                                                                                   \
    extern "C" __global__ __launch_bounds__(THREADS, IN_RANGE ? 2 : 3) void NAME(                                      \
        const TOKEN* __restrict__ x, const void* __restrict__ weight, const void* __restrict__ bias,                   \
        const TOKEN* __restrict__ history, const uint4* __restrict__ sequences, TOKEN* __restrict__ y,                 \
        const __grid_constant__ Params params) {                                                                       \
        light_conv<TOKEN, SPLIT, IN_RANGE>(x, weight, bias, history, sequences, y, params);                 \
    }

ENTRY(light_conv, false, false)
ENTRY(light_conv_split, true, false)
ENTRY(light_conv_in_range, false, true)
ENTRY(light_conv_split_in_range, true, true)
