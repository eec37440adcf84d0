// Dynamic convolution with given logits: y[t, c] = bias[c] + sum_j normalize(logits)[t, h(c), j] x[t + j r - P, c].
//
// module dynamic_conv_f32 TOKEN=f32
// module dynamic_conv_f16 TOKEN=f16
// module dynamic_conv_bf16 TOKEN=bf16
//
// This is the form by multiply-adds, for any number of heads, and any window. A block makes a tile of outputs, as in
// `light_conv.cu`: `lanes` threads side by side on the channels, two each, and `groups` of them along time, each with STEPS
// outputs. It copies the tokens of the tile and their halo into its memory once, by the widest units that alignment allows;
// meanwhile all its threads bring in the logits of its outputs and heads, some lanes for a row of K, and normalise them
// there, once for all channels of a head (`shared/token_taps.cuh`). The outputs take the places of tokens, and leave by the
// same wide units. A window whose taps or tokens are more than the memory holds goes chunk by chunk; a softmax then reads
// the logits three times.
//
// There is an entry for channels that come in pairs of one head (an even number of channels a head), and one for those
// that do not (`_split`). K, normalisation, dilation, alignment and the type of the logits, which are of x's type or f32,
// are numbers at run time.
//
// Banks of the block's memory: those of a warp who read taps read neighbouring rows, an odd number of quads apart. Some are
// met twice where rows of few taps are written, several by a warp, and where neighbouring channels are of two heads: up to a
// third of all passes at K = 3, a seventh at K = 31.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, f32,
// on an H100 (as in `light_conv.cu`):
//   K = 31:  268 MB of tokens and 65 MB of logits at 3.0 TB/s, 111 us; half a head to a block reads logits twice, from the
//            cache. 36 us of multiply-adds, of which each four taps of 8 outputs take 8 quads of taps and 4 tokens from the
//            block's memory: 16 passes to 64 instructions, which is half of what it gives. Predicted 140 to 180 us.
//   K = 3:   268 MB and 6 MB, 91 us. Predicted 105 to 130 us.
// In bf16 with heads narrower than 16 channels the taps are most of what is read: 8 channels a head at K = 31 are 4 numbers
// of logits for each of x; 67 MB of x and y in 512 channels come with 130 MB of logits, 66 us. Predicted 110 to 160 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/stage.cuh"
#include "shared/taps.cuh"
#include "shared/convolve.cuh"
#include "shared/token_taps.cuh"
#include "shared/work.cuh"

constexpr unsigned THREADS = 256;

// The numbers of a call, in this order; the plan fills them. A phase has steps + taps - 1 rows.
//   lanes * 2 channels are a row: a multiple of 16 bytes, and at most 128. Where it is less, gap is a row, and otherwise 0.
//   of_phase has room for them and for the gaps between them.
//   taps is all K, or a multiple of 8.
//   groups * STEPS are at least phases * steps.
//   tap_pitch is odd, and at least ceil(taps / 4). heads is as many as a row's channels can touch.
//   The block's memory has phases * of_phase bytes for tokens, taps_at of them; (outputs + outputs / 8 * tap_gap) * heads
//   rows of tap_pitch * 16 bytes for taps, to softmax_at; and, unless taps is K, as many times 8 bytes.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long y_stride;
    unsigned long long logit_stride;
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    unsigned has_bias;
    // Whether biases are f32 beside tokens of 16 bits, and whether logits are.
    unsigned wide;
    unsigned wide_logits;
    unsigned lanes;
    // At most THREADS / lanes.
    unsigned groups;
    // Taps of a chunk.
    unsigned taps;
    // Lanes that bring in the logits of a row: a power of two, at most 32.
    unsigned across;
    unsigned heads;
    unsigned tap_pitch;
    unsigned tap_gap;
    unsigned taps_at;
    unsigned softmax_at;
    // Bytes of a unit in which x and history are read and y is written: 16, 8, 4 or 2, and no less than an element.
    unsigned load_unit;
    unsigned store_unit;
    // Of `Rows`, in bytes.
    unsigned gap;
    unsigned of_phase;
    // Whether this is the gradient of x: then x is the gradient of y, taps are counted from the last and are those of the
    // tokens that they read, and no token of the past is read. Biases may be ADDENDS then, numbers of f32 for every token.
    unsigned mirrored;
    Dropout dropout;
};

// What `has_bias` may be besides.
constexpr unsigned ADDENDS = 2;

template <class X, bool SPLIT>
__device__ void dynamic_conv(const X* x, const void* logits, const void* bias, const X* history, const uint4* sequences,
                             X* y, const Params& params) {
    extern __shared__ uint4 memory[];
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
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const Rows rows = {bytes, params.lanes * unsigned(2 * sizeof(X)), params.gap, params.of_phase};
    const TokenTapRows tap_rows = {reinterpret_cast<float4*>(bytes + params.taps_at), params.tap_pitch, params.heads,
                                   params.tap_gap};
    const auto tokens = [&] {
        return Tokens<X>{x, params.x_stride, history, y, params.y_stride, params.channels, work.first_channel};
    };

    const unsigned group = threadIdx.x / params.lanes;
    const unsigned lane = threadIdx.x % params.lanes;
    const unsigned channel = work.first_channel + 2 * lane;
    const Output output = output_at(tiles, work.tile, group * STEPS);
    const bool writes = group < params.groups && channel < work.end_channel && output.exists &&
                        output.position < work.tile.sequence.room;
    const bool computes = writes && output.position < work.tile.sequence.length;
    unsigned char* words = rows.at(output.phase, output.step) + lane * unsigned(2 * sizeof(X));
    Place place = {words, rows.pitch, rows.gap, output.position, {0, 0}};
    OutputRows<SPLIT> weights = {nullptr, nullptr, params.heads * params.tap_pitch};
    float2 sums[STEPS];
    if (computes) {
        // The second channel of the last pair may not exist: it is computed as one of the first's head, and not stored.
        const unsigned second = min(channel + 1, work.end_channel - 1);
        const auto row_of = [&](unsigned channel) {
            const unsigned head = channel / params.head_channels - work.first_head;
            return tap_rows.quads + tap_rows.row(group * STEPS, head) * tap_rows.pitch;
        };
        weights.first = row_of(channel);
        weights.second = SPLIT ? row_of(second) : weights.first;
        float2 start = make_float2(0.0f, 0.0f);
        if (params.has_bias == 1) {
            const Parameters<X> biases = {bias, params.wide};
            start = make_float2(biases.at(channel), biases.at(second));
        }
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            sums[n] = start;
            const int position = output.position + int(n * tiles.dilation);
            if (params.has_bias == ADDENDS && position < work.tile.sequence.length) {
                const unsigned long long token = work.tile.sequence.first + unsigned(position);
                const float* const addends = static_cast<const float*>(bias) + token * params.channels;
                sums[n] = make_float2(__ldg(addends + channel), __ldg(addends + second));
            }
        }
    }
#pragma unroll 1
    for (unsigned first = work.taps.begin; first < work.taps.end; first += params.taps) {
        const unsigned count = min(params.taps, work.taps.end - first);
        if (first > work.taps.begin) {
            __syncthreads();
        }
        stage(params.load_unit, tokens(), rows, tiles, work.tile, window, work.past, first, count);
        const TokenLogits<X> of = {{logits, params.wide_logits}, params.logit_stride, window.width, params.normalize,
                                   params.dropout};
        const TokenRows filled = {tiles, window, work.tile, work.past, work.first_head, work.heads};
        if (params.mirrored != 0) {
            fill_mirrored(of, filled, tap_rows, params.across, first, count);
        } else {
            fill(of, filled, tap_rows, reinterpret_cast<Softmax*>(bytes + params.softmax_at), params.across,
                 work.taps.begin, first, count);
        }
        wait_for_copies();
        __syncthreads();
        if (computes) {
            accumulate<X, SPLIT>(sums, place, weights, window, work.past, work.tile.sequence.length, first, count);
        }
    }
    // The tokens are read: outputs may take their places.
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
    __syncthreads();
    store(params.store_unit, tokens(), rows, tiles, work.tile);
}

#define ENTRY(NAME, SPLIT)                                                                                             \
    extern "C" __global__ __launch_bounds__(THREADS, 2) void NAME(                                                     \
        const TOKEN* __restrict__ x, const void* __restrict__ logits, const void* __restrict__ bias,                   \
        const TOKEN* __restrict__ history, const uint4* __restrict__ sequences, TOKEN* __restrict__ y,                 \
        const __grid_constant__ Params params) {                                                                       \
        dynamic_conv<TOKEN, SPLIT>(x, logits, bias, history, sequences, y, params);                                    \
    }

ENTRY(dynamic_conv, false)
ENTRY(dynamic_conv_split, true)
