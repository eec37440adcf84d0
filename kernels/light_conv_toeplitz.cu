// Light convolution: y[t, c] = bias[c] + sum_j w[h(c), j] x[t + j r - P, c], w = normalize(weight).
//
// module light_conv_toeplitz_f16 TOKEN=f16
// module light_conv_toeplitz_bf16 TOKEN=bf16
//
// This is the form by products of matrices, for numbers of 16 bits, heads of 16 channels and more, and windows of up to 129
// taps. All channels of a head share a filter, so that 16 outputs of 8 channels are a band of taps, 16 x (16 + K - 1), times
// as many tokens: ceil((K + 15) / 16) products for each of the parts that a tap is made of (`shared/band.cuh`).
//
// A warp has 8 channels of one head. It makes the matrices of the band once and keeps them in registers, and so it does with
// the tokens, of which each tile of 16 outputs loads 16. The warps of a block have 64 channels side by side, or 32, and walk
// along time together: tokens pass through a ring in the block's memory (`shared/ring.cuh`), a chunk ahead of the products,
// and the outputs of a chunk take the places of tokens that no later output reads, and leave by the widest units that
// alignment allows. So a token is read once, and once more where it is in the halo of a walk. Where a head's channels are
// no multiple of 8, its last group is filled up with zeros; a dilated window sees one phase, whose tokens are as good as
// neighbours; where a call has fewer channels than a block, the warps left over only copy.
//
// A product multiplies what is out of range by zero, and a zero times a token that is infinite or NaN is NaN. What is not
// of the sequence is zero in the ring. Of the sequence's own tokens that may be so, the sums tell: where one of a tile's is
// not a number, the tile is made again without such tokens, and each output that has one in its window is made by
// multiply-adds. The others keep the bits that they have when no such token is near. The same multiply-adds make all outputs
// of a head whose taps parts cannot hold (infinite, NaN, or too far apart for f16), and the edges of a softmax over the taps
// in range where its taps are too far apart for the sum to be divided by their total, as it is elsewhere.
//
// There is an entry for 2, 3, 5 and 9 products. K, normalisation, dilation and alignment are numbers at run time.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, bf16,
// on an H100 (3.35 TB/s; 132 multiprocessors at 1.7 GHz, 4 instructions a cycle each):
//   bytes:   134 MB at 3.0 TB/s, what a copy reaches: 45 us. Walks of 480 tokens at K = 31, and of 1024 at K = 127, read
//            6 and 12 % of the tokens twice: 46 and 48 us, less what the cache has.
//   K = 3, 31: a tile of 128 outputs is 6 or 9 products among some 100 instructions of a warp, and 35 more for its share of
//            copies and of the walk's beginning: 39 us of issue beside the bytes. Three blocks hold 24 warps, and 36 KiB of
//            tokens on their way. Predicted 52 to 62 us, 0.75 to 0.85 of the floor.
//   K = 127: 27 products, at 6 to 7 cycles of a quarter of a multiprocessor each, are 50 to 58 us: as long as the bytes, and
//            12 warps overlap them less well. Predicted 65 to 85 us, 0.55 to 0.7. In f16, with 18, 55 to 70 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/ring.cuh"
#include "shared/taps.cuh"
#include "shared/band.cuh"
#include "shared/convolve.cuh"

// Groups of 8 channels that a block has at most. Each is a warp's own. Where a band takes so many registers that a
// multiprocessor holds 12 warps, they are of three blocks.
__device__ constexpr unsigned most_groups(unsigned products) { return products > 5 ? 4 : 8; }

// The ring: under 48 KiB together with the bands.
__device__ constexpr unsigned ring_bytes(unsigned products) { return products > 5 ? 36864 : 41472; }

// Heads that 8 groups of channels can touch, two groups a head or more.
constexpr unsigned HEADS = 5;

// The numbers of a call, in this order; the plan fills them.
//   width is at most 16 products - 15, and head_channels at least 16.
//   groups is at most `most_groups`, and columns * groups at least heads * ceil(head_channels / 8).
//   chunk is a multiple of 16. rows is a whole number of chunks: two, and what (products - 1) * 16 rows take. The rows, of
//   (groups | 1) * 16 bytes each, are at most `ring_bytes`.
//   load_unit and store_unit divide the bytes of a head's channels, of 8 at most.
//   blocks are of most_groups * 32 threads.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long y_stride;
    // `phases` is 1, and `steps` a multiple of 16: what a block walks. A phase is a tile.
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    // 0: none, 1: softmax over all taps, 2: over those in range.
    unsigned normalize;
    unsigned has_bias;
    // Whether weights and biases are f32.
    unsigned wide;
    // Groups of 8 channels that a block has at most.
    unsigned groups;
    // Rows of tokens that lie in the block's memory, and rows of a chunk.
    unsigned rows;
    unsigned chunk;
    // Bytes of a unit in which x and history are read and y is written: 16, 8, 4 or 2.
    unsigned load_unit;
    unsigned store_unit;
    // Whether taps are counted from the last: the gradient of x, whose x is the gradient of y.
    unsigned mirrored;
    unsigned unused;
    Dropout dropout;
};

// What multiply-adds for an output want to know.
template <class X>
struct Plain {
    const Params& params;
    const Stretch& stretch;
    const Ring& ring;
    Filters<X> filters;
    TapMemory taps;
    // Bytes from the beginning of a row to the lane's two channels.
    unsigned offset;

    __device__ Taps in_range(unsigned output) const {
        const Window& window = params.window;
        const int position = stretch.tile.start + int(output * window.dilation);
        return Taps{first_tap(window, stretch.past, position),
                    end_tap(window, stretch.tile.sequence.length, position)};
    }

    // The total of the weights over the taps that are in range of an output.
    __device__ float total(unsigned head, unsigned output) const {
        const Taps some = in_range(output);
        float total = 0.0f;
#pragma unroll 1
        for (unsigned tap = some.begin; tap < some.end; tap++) {
            total += taps.at(head, tap);
        }
        return total;
    }

    // The sum for an output, its row of tokens being in place `place` of the ring. At the edge the weights are those of a
    // softmax over the taps in range.
    __device__ float2 sum(unsigned head, unsigned output, unsigned place, bool edge) const {
        const Taps some = in_range(output);
        float largest = LOWEST, total = 0.0f;
        if (edge) {
#pragma unroll 1
            for (unsigned tap = some.begin; tap < some.end; tap++) {
                largest = fmaxf(largest, filters.at(head, tap));
            }
#pragma unroll 1
            for (unsigned tap = some.begin; tap < some.end; tap++) {
                total += expf(filters.at(head, tap) - largest);
            }
        }
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 1
        for (unsigned tap = some.begin; tap < some.end; tap++) {
            unsigned row = place + tap;
            row = row < ring.rows ? row : row - ring.rows;
            const float2 token = token_at<X>(ring.memory + row * ring.pitch + offset);
            const float weight = edge ? dropped(expf(filters.at(head, tap) - largest) / total, filters.factor(head, tap))
                                      : taps.at(head, tap);
            multiply_add(sum, make_float2(weight, weight), token);
        }
        return sum;
    }
};

// What a pair of channels has besides its band.
struct alignas(16) Finish {
    float bias;
    float second_bias;
    // The head, counted from the first.
    unsigned head;
    // Outputs to be made: none where there are no such channels.
    unsigned outputs;
};

template <class X, unsigned PRODUCTS>
__device__ void light_conv(const X* x, const void* weight, const void* bias, const X* history, const uint4* sequences,
                           X* y, const Params& params) {
    constexpr unsigned GROUPS = most_groups(PRODUCTS);
    constexpr unsigned NUMBERS = Band<X, PRODUCTS>::NUMBERS;
    __shared__ uint4 token_memory[ring_bytes(PRODUCTS) / sizeof(uint4)];
    // As many taps as a band of so many products holds.
    __shared__ float4 tap_memory[PRODUCTS * SIDE / 4 * HEADS];
    __shared__ unsigned short bands[HEADS * NUMBERS];
    __shared__ Head about[HEADS];
    __shared__ Finish finish[GROUPS * 4];
    __shared__ Channels channels[GROUPS];
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
    const Ring ring = {reinterpret_cast<unsigned char*>(token_memory), params.groups,
                       (params.groups | 1) * unsigned(sizeof(uint4)), params.rows, params.chunk};
    const Tokens<X> tokens = {x, params.x_stride, history, y, params.y_stride, params.channels, 0};
    const unsigned chunks = ring.rows / ring.chunk;
    for (unsigned chunk = 0; chunk < chunks; chunk++) {
        stage_chunk(params.load_unit, tokens, ring, stretch, window, channels, chunk, chunk);
        end_group();
    }

    const unsigned first_head = stretch.first_group / stretch.groups_each;
    const unsigned end_head = (stretch.first_group + stretch.groups - 1) / stretch.groups_each + 1;
    const Filters<X> filters = {{weight, params.wide}, first_head, end_head - first_head, window.width, params.mirrored,
                                params.dropout};
    const TapMemory taps = {tap_memory, HEADS};
    fill(filters, taps, params.normalize != NONE, static_cast<const Softmax*>(nullptr), 0, window.width);
    make_bands<X, PRODUCTS>(taps, filters.heads, window.width, bands, about);
    wait_for_groups<1>();
    __syncthreads();

    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Band<X, PRODUCTS> band;
    {
        // The head of this warp's group, counted from the first.
        const unsigned group = min(warp, stretch.groups - 1);
        const unsigned head = (stretch.first_group + group) / stretch.groups_each - first_head;
        band.load(bands + head * NUMBERS);
        if (lane < 4) {
            const Channels of = channels[group];
            const Parameters<X> biases = {bias, params.wide};
            const auto bias_of = [&](unsigned channel) {
                return params.has_bias != 0 && channel < of.count ? biases.at(of.first + channel) : 0.0f;
            };
            const unsigned outputs = warp < stretch.groups ? stretch.computed : 0;
            finish[warp * 4 + lane] = Finish{bias_of(2 * lane), bias_of(2 * lane + 1), head, outputs};
        }
        __syncwarp();
    }
    // Lanes 4 apart have the same two channels.
    const unsigned pair = warp * 4 + lane % 4;
    const Plain<X> plain = {params, stretch, ring, filters, taps, pair * 4};

    // Tokens of PRODUCTS matrices, of which a tile of outputs leaves one behind; and where this lane's row of the next one
    // begins.
    unsigned b[PRODUCTS][2];
    const unsigned rows = unsigned(__cvta_generic_to_shared(ring.memory));
    const unsigned first_row = rows + lane % SIDE * ring.pitch + warp * unsigned(sizeof(uint4));
    unsigned next = first_row;
    const auto load_next = [&](unsigned (&b)[2]) {
        load_columns(b, next);
        next += SIDE * ring.pitch;
        next = next < rows + ring.rows * ring.pitch ? next : next - ring.rows * ring.pitch;
    };
    if (finish[pair].outputs > 0) {
#pragma unroll
        for (unsigned n = 0; n + 1 < PRODUCTS; n++) {
            load_next(b[n]);
        }
    }
    // Where the chunk lies in the ring, in chunks.
    unsigned turn = 0;
    for (unsigned chunk = 0;; chunk++) {
        const unsigned first = chunk * ring.chunk;
        const unsigned end = min(first + ring.chunk, finish[pair].outputs);
        unsigned char* to = ring.memory + (turn * ring.chunk + lane / 4) * ring.pitch + plain.offset;
#pragma unroll 1
        for (unsigned output = first; output < end; output += SIDE) {
            load_next(b[PRODUCTS - 1]);
            // A softmax over the taps in range is another one there.
            const bool edge = params.normalize == SOFTMAX_IN_RANGE &&
                              (output < stretch.history_row || output + SIDE - 1 >= stretch.whole_end);
            const unsigned head = finish[pair].head;
            // What is left after a dropout does not tell the total of all.
            const bool uneven = about[head].even == 0 || params.dropout.threshold != 0;
            const bool left_over = about[head].plain != 0 || (edge && uneven);
            float sums[4];
            // Whether they are made without the tokens that are infinite or NaN.
            bool without = false;
#pragma unroll 1
            for (;;) {
                band.convolve(sums, b);
                bool wanting = left_over;
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    wanting |= !(fabsf(sums[i]) <= LARGEST);
                }
                if (without || !__any_sync(0xffffffffu, wanting)) {
                    break;
                }
                without = true;
#pragma unroll
                for (unsigned n = 0; n < PRODUCTS; n++) {
                    b[n][0] = finite<X>(b[n][0]);
                    b[n][1] = finite<X>(b[n][1]);
                }
            }
            float scale[2] = {about[head].unscale, about[head].unscale};
            if (edge) {
#pragma unroll 1
                for (unsigned i = 0; i < 2; i++) {
                    const float total = plain.total(head, output + lane / 4 + 8 * i);
                    const float whole = total > 0.0f ? about[head].unscale / total : 0.0f;
                    scale[0] = scale[1];
                    scale[1] = whole;
                }
            }
            const float2 start = make_float2(finish[pair].bias, finish[pair].second_bias);
            float2 values[2];
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                values[i].x = fmaf(sums[2 * i], scale[i], start.x);
                values[i].y = fmaf(sums[2 * i + 1], scale[i], start.y);
            }
            if (without) {
                const unsigned place = turn * ring.chunk + (output - first);
#pragma unroll 1
                for (unsigned i = 0; i < 2; i++) {
                    const float2 sum = plain.sum(head, output + lane / 4 + 8 * i, place + lane / 4 + 8 * i, edge);
                    const float2 value = make_float2(chosen(left_over, values[0].x, sum.x + start.x),
                                                     chosen(left_over, values[0].y, sum.y + start.y));
                    values[0] = values[1];
                    values[1] = value;
                }
                next = first_row + place * ring.pitch;
#pragma unroll
                for (unsigned n = 0; n < PRODUCTS; n++) {
                    load_next(b[n]);
                }
            }
            // The others have read what this one overwrites.
            __syncwarp();
            *reinterpret_cast<typename Pair<X>::Word*>(to) = Pair<X>::rounded(values[0]);
            *reinterpret_cast<typename Pair<X>::Word*>(to + 8 * ring.pitch) = Pair<X>::rounded(values[1]);
            to += SIDE * ring.pitch;
#pragma unroll
            for (unsigned n = 0; n + 1 < PRODUCTS; n++) {
                b[n][0] = b[n + 1][0];
                b[n][1] = b[n + 1][1];
            }
        }
        __syncthreads();
        store_chunk(params.store_unit, tokens, ring, stretch, window.dilation, channels, chunk, turn);
        if (first + ring.chunk >= stretch.outputs) {
            break;
        }
        // A thread brings in what it stored itself, where the units are the same.
        if (params.load_unit != params.store_unit) {
            __syncthreads();
        }
        stage_chunk(params.load_unit, tokens, ring, stretch, window, channels, chunk + chunks, turn);
        turn = turn + 1 < chunks ? turn + 1 : 0;
        end_group();
        wait_for_groups<1>();
        __syncthreads();
    }
}

#define ENTRY(NAME, PRODUCTS)                                                                                          \
    extern "C" __global__                                                                                              \
    __launch_bounds__(most_groups(PRODUCTS) * WARP, PRODUCTS == 5 ? 2 : 3) void NAME(                                  \
        const TOKEN* __restrict__ x, const void* __restrict__ weight, const void* __restrict__ bias,                   \
        const TOKEN* __restrict__ history, const uint4* __restrict__ sequences, TOKEN* __restrict__ y,                 \
        const __grid_constant__ Params params) {                                                                       \
        light_conv<TOKEN, PRODUCTS>(x, weight, bias, history, sequences, y, params);                                   \
    }

// By the number of products: K up to 17, 33, 65 and 129.
ENTRY(light_conv_2, 2)
ENTRY(light_conv_3, 3)
ENTRY(light_conv_5, 5)
ENTRY(light_conv_9, 9)
