// The gradients of a light convolution's parameters: with g[h, j] = m[h, j] sum_t sum_c dy[t, c] x[t + j r - P, c] over the
// channels c of head h and the taps in range,
//
// dweight[h, j] = g[h, j], or w[h, j] (g[h, j] - sum_i w[h, i] g[h, i]) with a softmax; dbias[c] = sum_t dy[t, c]
//
// module light_conv_backward_f32 TOKEN=f32
// module light_conv_backward_f16 TOKEN=f16
// module light_conv_backward_bf16 TOKEN=bf16
//
// The gradient of x is a light convolution of dy by the mirrored filter: that is the kernels of the forward pass.
// `light_conv_backward_band.cu` makes the sums by products of matrices, where it can.
//
// `light_conv_sums` is for any number of heads, by multiply-adds. A block has `lanes` threads side by side on the channels,
// two each; `octets` of them on eight taps each; and `groups` along time. It walks over tiles of tokens, always the same
// ones: of each it brings dy, and x with its halo, into its memory, by the widest units that alignment allows. A thread keeps
// the sums of its taps in registers from the first tile to the last: for eight tokens it reads eight numbers of dy and 15 of
// x, for 64 multiply-adds of each of its channels. At last the block adds up what belongs to a head, always in the same order,
// and leaves a row of sums for it in scratch memory. More taps than a block has threads for are other blocks' work, which
// read the tokens again, mostly from the cache. Biases are summed on the way.
//
// `light_conv_parameters` adds up these rows, a block for each head, always in the same order, and goes back through the
// softmax. Nothing is added atomically: the same call gives the same bits.
//
// Softmax over the taps in range: tokens of which all taps are in range have one softmax, and their g are summed as above. Each
// of the others, at the ends of sequences, has a softmax of its own: `light_conv_ends`, a warp for a token and a head, which
// also leaves what that softmax is normalised by for the gradient of x. It is for few tokens.
//
// Taps out of range are left out by selection: neither a token nor a gradient that is infinite or NaN is multiplied there.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, on an
// H100 (as in `light_conv.cu`):
//   bytes:  bf16, 134 MB of x and dy, 45 us; f32, 268 MB, 89 us. Tiles of 168 tokens read 18 % of x twice at K = 31, 9 % of
//           all. Sums are 27 rows of blocks for each of 16 columns, 31 numbers each: nothing.
//   K = 31: 1.04 G multiply-adds, 36 us. The emulator counts 3.4 to 3.6 instructions of a warp for each token and channel,
//           copies, biases and the ends of blocks among them: 130 us of issue, and no copy of a tile overlaps with the
//           products of its own block, only with those of another. Predicted 140 to 190 us in f32, 1.4 to 1.8 times its
//           forward; heads that are narrower than tensor cores want are as slow in 16 bits. The gradient of x is what the
//           forward pass is.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/stage.cuh"
#include "shared/taps.cuh"
#include "shared/convolve.cuh"
#include "shared/ends.cuh"
#include "shared/light_conv_backward.cuh"
#include "shared/light_conv_parameters.cuh"

// The tile and channels of a block, for all its threads.
struct Work {
    Tile tile;
    unsigned first_channel;
    unsigned end_channel;
};

// Eight tokens and the taps of a thread.
struct Octet {
    // Where their rows of dy begin, and those of x that the first tap reads; each the first of eight.
    const unsigned char* dy;
    const unsigned char* x;
    unsigned pitch;
    unsigned gap;
    // Of the first token.
    int position;
    // Taps, from the first on.
    unsigned first;
    unsigned count;
};

// All taps are in range of all tokens.
template <class X>
__device__ void add_whole(float2 (&sums)[OCTET], const Octet& octet) {
    float2 dy[STEPS], x[STEPS + OCTET - 1];
#pragma unroll
    for (unsigned n = 0; n < STEPS; n++) {
        dy[n] = token_at<X>(octet.dy + n * octet.pitch);
    }
#pragma unroll
    for (unsigned i = 0; i < STEPS - 1; i++) {
        x[i] = token_at<X>(octet.x + i * octet.pitch);
    }
    const unsigned char* row = octet.x + (STEPS - 1) * octet.pitch;
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        if (j >= octet.count) {
            break;
        }
        x[STEPS - 1 + j] = token_at<X>(row);
        row += j == 0 ? octet.pitch + octet.gap : octet.pitch;
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            multiply_add(sums[j], dy[n], x[n + j]);
        }
    }
}

// Some are not. Tokens of which not all taps are in range are left out where only `whole` windows count.
template <class X>
__device__ void add_some(float2 (&sums)[OCTET], const Octet& octet, const Window& window, int length, bool whole) {
#pragma unroll 1
    for (unsigned n = 0; n < STEPS; n++) {
        const int position = octet.position + int(n * window.dilation);
        const int right = int(window.reach - window.left);
        if (position >= length || (whole && (position < int(window.left) || position >= length - right))) {
            continue;
        }
        const float2 dy = token_at<X>(octet.dy + n * octet.pitch);
        int read = position + int(octet.first * window.dilation) - int(window.left);
#pragma unroll
        for (unsigned j = 0; j < OCTET; j++) {
            if (j < octet.count && read >= 0 && read < length) {
                multiply_add(sums[j], dy, token_at<X>(octet.x + bytes_to(n + j, octet.pitch, octet.gap)));
            }
            read += int(window.dilation);
        }
    }
}

template <class X>
__device__ void sums_of_tiles(const X* x, const X* dy, const uint4* sequences, float* scratch, const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Work work;
    const Tiles& tiles = params.tiles;
    const Window& window = params.window;
    const unsigned column = blockIdx.x % tiles.columns, rest = blockIdx.x / tiles.columns;
    const unsigned chunk = rest % params.chunks, block = rest / params.chunks;
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const unsigned pitch = params.lanes * unsigned(2 * sizeof(X));
    const Rows x_rows = {bytes, pitch, params.gap, params.of_phase};
    const Rows dy_rows = {bytes + params.dy_at, pitch, params.gap, params.of_dy_phase};
    const unsigned first_tap = chunk * params.taps;
    const unsigned taps = min(params.taps, window.width - first_tap);

    const unsigned lane = threadIdx.x % params.lanes, over = threadIdx.x / params.lanes;
    const unsigned octet = over % params.octets, group = over / params.octets;
    const unsigned channel = column * params.lanes * 2 + 2 * lane;
    const bool exists = group < params.groups && channel < params.channels;
    const bool has_taps = exists && params.wants_weight != 0 && octet * OCTET < taps;
    const bool has_bias = exists && params.wants_bias != 0 && octet == 0 && chunk == 0;
    float2 sums[OCTET] = {};
    float2 bias = make_float2(0.0f, 0.0f);

    const unsigned long long all = params.all_tiles;
    const unsigned begin = unsigned(block * all / params.blocks), end = unsigned((block + 1ull) * all / params.blocks);
#pragma unroll 1
    for (unsigned number = begin; number < end; number++) {
        // The last tile was read, and its place.
        __syncthreads();
        if (threadIdx.x == 0) {
            work.tile = tile_at(tiles, sequences, number, column);
        }
        __syncthreads();
        const Tile& tile = work.tile;
        const int length = tile.sequence.length;
        if (unsigned(tile.start) >= unsigned(length)) {
            continue;
        }
        const Tokens<X> gradients = {dy, params.dy_stride, nullptr, nullptr, 0, params.channels,
                                     column * params.lanes * 2};
        const Window own = {1, window.dilation, 0, 0};
        stage(params.load_unit, gradients, dy_rows, tiles, tile, own, 0, 0, 1);
        if (params.wants_weight != 0) {
            const Tokens<X> tokens = {x, params.x_stride, nullptr, nullptr, 0, params.channels,
                                      column * params.lanes * 2};
            stage(params.load_unit, tokens, x_rows, tiles, tile, window, 0, first_tap, taps);
        }
        wait_for_copies();
        __syncthreads();
#pragma unroll 1
        for (unsigned eight = group; eight < tiles.phases * tiles.steps / STEPS; eight += params.groups) {
            const Output output = output_at(tiles, tile, eight * STEPS);
            if (!exists || !output.exists || output.position >= length) {
                continue;
            }
            const unsigned offset = lane * unsigned(2 * sizeof(X));
            const unsigned char* const from = dy_rows.at(output.phase, output.step) + offset;
            const int last = output.position + int((STEPS - 1) * window.dilation);
            if (has_bias) {
#pragma unroll 1
                for (unsigned n = 0; n < STEPS && output.position + int(n * window.dilation) < length; n++) {
                    const float2 number = token_at<X>(from + n * pitch);
                    bias = make_float2(bias.x + number.x, bias.y + number.y);
                }
            }
            if (has_taps) {
                const Octet of = {from, x_rows.at(output.phase, output.step + octet * OCTET) + offset, pitch, params.gap,
                                  output.position, first_tap + octet * OCTET, min(OCTET, taps - octet * OCTET)};
                const bool whole = params.normalize == SOFTMAX_IN_RANGE;
                const unsigned in_range_from = ::first_tap(window, 0, output.position);
                const unsigned in_range_to = last < length ? end_tap(window, length, last) : 0;
                const bool inside = whole ? in_range_from == 0 && in_range_to == window.width
                                          : in_range_from <= of.first && in_range_to >= of.first + of.count;
                if (inside) {
                    add_whole<X>(sums, of);
                } else {
                    add_some<X>(sums, of, window, length, whole);
                }
            }
        }
    }

    // Sums of the block's channels, `taps` of each group; then those of the heads.
    float* const numbers = reinterpret_cast<float*>(memory);
    const unsigned row = 2 * params.lanes + 1, end_channel = min((column + 1) * params.lanes * 2, params.channels);
    const unsigned first_channel = column * params.lanes * 2;
    if (params.wants_weight != 0) {
        __syncthreads();
        if (group < params.groups) {
#pragma unroll
            for (unsigned j = 0; j < OCTET; j++) {
                float* const to = numbers + (group * params.taps + octet * OCTET + j) * row + 2 * lane;
                to[0] = sums[j].x;
                to[1] = sums[j].y;
            }
        }
        __syncthreads();
        const unsigned first_head = first_channel / params.head_channels;
        const unsigned heads = (end_channel - 1) / params.head_channels + 1 - first_head;
        float* const to = scratch + params.sums_at +
                          (static_cast<unsigned long long>(block) * tiles.columns + column) * params.column_heads *
                              window.width + first_tap;
#pragma unroll 1
        for (unsigned item = threadIdx.x; item < heads * taps; item += THREADS) {
            const unsigned head = item / taps, tap = item - head * taps;
            const unsigned head_begin = max((first_head + head) * params.head_channels, first_channel);
            const unsigned head_end = min((first_head + head + 1) * params.head_channels, end_channel);
            float sum = 0.0f;
#pragma unroll 1
            for (unsigned g = 0; g < params.groups; g++) {
                const float* const from = numbers + (g * params.taps + tap) * row - first_channel;
#pragma unroll 1
                for (unsigned c = head_begin; c < head_end; c++) {
                    sum += from[c];
                }
            }
            to[static_cast<unsigned long long>(head) * window.width + tap] = sum;
        }
    }
    if (params.wants_bias != 0 && chunk == 0) {
        __syncthreads();
        if (octet == 0 && group < params.groups) {
            numbers[group * row + 2 * lane] = bias.x;
            numbers[group * row + 2 * lane + 1] = bias.y;
        }
        __syncthreads();
        if (threadIdx.x < end_channel - first_channel) {
            float sum = 0.0f;
#pragma unroll 1
            for (unsigned g = 0; g < params.groups; g++) {
                sum += numbers[g * row + threadIdx.x];
            }
            const unsigned long long at = static_cast<unsigned long long>(block) * params.channels;
            scratch[params.biases_at + at + first_channel + threadIdx.x] = sum;
        }
    }
}

// Tokens at the ends of sequences. A lane has every 32nd tap.
template <class X>
__device__ void ends_of_sequences(const X* x, const X* dy, const void* weight, const uint4* sequences, float* scratch,
                                  const Params& params) {
    const unsigned lane = threadIdx.x % WARP, number = blockIdx.x * WARPS + threadIdx.x / WARP;
    const unsigned head = number % params.heads, warp = number / params.heads;
    if (warp >= params.end_warps) {
        return;
    }
    const Window& window = params.window;
    const Tiles& tiles = params.tiles;
    const Parameters<X> logits = {weight, params.wide};
    const unsigned long long first_logit = static_cast<unsigned long long>(head) * window.width;
    const unsigned long long row = static_cast<unsigned long long>(warp) * params.heads + head;
    float* const sums = scratch + params.ends_at + row * 2 * window.width;
    float* const gradients = sums + window.width;
    if (params.wants_weight != 0) {
#pragma unroll 1
        for (unsigned tap = lane; tap < window.width; tap += WARP) {
            sums[tap] = 0.0f;
        }
    }
    const unsigned long long all = static_cast<unsigned long long>(tiles.sequences) * params.end_rows;
    const unsigned long long end = (warp + 1) * all / params.end_warps;
#pragma unroll 1
    for (unsigned long long item = warp * all / params.end_warps; item < end; item++) {
        const unsigned index = unsigned(item / params.end_rows);
        const unsigned at_end = unsigned(item - static_cast<unsigned long long>(index) * params.end_rows);
        const Sequence sequence = sequence_at(tiles, sequences, index);
        const Ends ends(window.left, window.reach - window.left, sequence.length);
        if (at_end >= ends.count(sequence.length)) {
            continue;
        }
        const int position = ends.position(at_end);
        const Taps taps = {first_tap(window, 0, position), end_tap(window, sequence.length, position)};
        if (taps.begin >= taps.end) {
            continue;
        }
        // A tap is always the same lane's.
        const unsigned first = taps.begin / WARP * WARP + lane;
        const unsigned begin = first < taps.begin ? first + WARP : first;
        float largest = LOWEST, total = 0.0f;
#pragma unroll 1
        for (unsigned tap = begin; tap < taps.end; tap += WARP) {
            largest = fmaxf(largest, logits.at(first_logit + tap));
        }
        largest = warp_largest(largest);
#pragma unroll 1
        for (unsigned tap = begin; tap < taps.end; tap += WARP) {
            total += expf(logits.at(first_logit + tap) - largest);
        }
        const float scale = 1.0f / warp_total(total);
        if (params.wants_x != 0 && lane == 0) {
            const EndRows rows = {nullptr, params.end_rows, params.heads};
            float* const to = scratch + rows.place(index, at_end, head);
            to[0] = largest;
            to[1] = scale;
        }
        if (params.wants_weight == 0) {
            continue;
        }
        const unsigned channel = head * params.head_channels;
        const X* const of_token = dy + (sequence.first + unsigned(position)) * params.dy_stride + channel;
        float mean = 0.0f;
#pragma unroll 1
        for (unsigned tap = begin; tap < taps.end; tap += WARP) {
            const unsigned read = unsigned(position + int(tap * window.dilation) - int(window.left));
            const X* const token = x + (sequence.first + read) * params.x_stride + channel;
            float gradient = 0.0f;
#pragma unroll 4
            for (unsigned c = 0; c < params.head_channels; c++) {
                gradient = fmaf(::number(__ldg(of_token + c)), ::number(__ldg(token + c)), gradient);
            }
            gradient = dropped(gradient, params.dropout.factor(0, head, tap));
            gradients[tap] = gradient;
            mean = fmaf(expf(logits.at(first_logit + tap) - largest) * scale, gradient, mean);
        }
        mean = warp_total(mean);
#pragma unroll 1
        for (unsigned tap = begin; tap < taps.end; tap += WARP) {
            const float of_tap = expf(logits.at(first_logit + tap) - largest) * scale;
            sums[tap] = fmaf(of_tap, gradients[tap] - mean, sums[tap]);
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 2) void light_conv_sums(
    const TOKEN* __restrict__ x, const TOKEN* __restrict__ dy, const uint4* __restrict__ sequences,
    float* __restrict__ scratch, const __grid_constant__ Params params) {
    sums_of_tiles<TOKEN>(x, dy, sequences, scratch, params);
}

extern "C" __global__ __launch_bounds__(THREADS) void light_conv_ends(
    const TOKEN* __restrict__ x, const TOKEN* __restrict__ dy, const void* __restrict__ weight,
    const uint4* __restrict__ sequences, float* __restrict__ scratch, const __grid_constant__ Params params) {
    ends_of_sequences<TOKEN>(x, dy, weight, sequences, scratch, params);
}

extern "C" __global__ __launch_bounds__(THREADS) void light_conv_parameters(
    const void* __restrict__ weight, const uint4* __restrict__ sequences, float* scratch, void* __restrict__ dweight,
    void* __restrict__ dbias, const __grid_constant__ Params params) {
    parameters_of<TOKEN>(weight, sequences, scratch, dweight, dbias, params);
}
