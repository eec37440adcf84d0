// The gradient of a dynamic convolution's logits, as in `dynamic_conv_backward.cu`, by products of matrices, for numbers of 16
// bits, heads of 16 channels and more, and windows of up to 129 taps.
//
// module dynamic_conv_backward_band_f16 TOKEN=f16
// module dynamic_conv_backward_band_bf16 TOKEN=bf16
//
// Of 16 tokens, dy times the transposed x of the tokens that they reach is a matrix of 16 x (16 + K - 1), contracted over the
// channels of a head: what tap j of token i gets is number i + j of row i. The operands lie the way tensor cores want them, and
// numbers of 16 bits are exact. A block has a tile of tokens of one phase and some heads, or one whose channels go slab by slab
// where they are many. It brings in dy of its tokens and x with its halo, and a warp takes 16 tokens of a head at a time: the
// sums stay in its registers, and lie there as the taps of a band do (`shared/lane_logits.cuh`), four lanes to a token. So do
// the logits, which the warp brings into a corner of its own meanwhile; the softmax and its gradient are two exchanges more.
// What they make of the sums takes the places of the logits, and leaves row by row.
//
// A number of the matrix is made of one token of dy and one of x: what is infinite or NaN reaches no other tap and no other
// token. What is out of range is put to zero by selection.
//
// There is an entry for 3, 5 and 9 matrices in reach, K up to 33, 65 and 129.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 1024 channels in 16 heads, bf16,
// logits in f32, K = 31, on an H100 (as in `dynamic_conv_backward.cu`):
//   264 MB, 88 us. Tiles of 128 tokens read 23 % of x twice, mostly from L2. 24 products of 16 x 8 for 16 tokens and a head,
//   6 us. The emulator counts 102 instructions of a warp for each token and head, where multiply-adds take 702 (f32): 60 us of
//   issue, beside the bytes, with 16 warps a multiprocessor. Predicted 110 to 140 us.
//   K = 127: 666 MB, 222 us; 293 instructions, 171 us. Predicted 260 to 340 us.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/ring.cuh"
#include "shared/taps.cuh"
#include "shared/lane_logits.cuh"
#include "shared/logit_rows.cuh"

// Threads of a block, and blocks that a multiprocessor is to have registers for.
constexpr unsigned THREADS = 128;
__device__ constexpr unsigned blocks(unsigned products) { return products > 5 ? 2 : products > 3 ? 3 : 4; }

// The numbers of a call, in this order; the plan fills them.
//   width is at most 16 products - 15, and head_channels at least 16.
//   columns * block_groups is at least heads * ceil(head_channels / 8); block_groups are those of whole heads.
//   groups is block_groups; or less, where that is one head, and then steps is at most 16 for each warp.
//   rows is `steps` and 16 (products - 1) more.
//   logit_pitch is at least width, and 5 more than a multiple of 8.
//   load_unit divides the bytes of a head's channels, of 8 at most.
//   The block's memory has (rows + steps) * (groups | 1) * 16 bytes, and for each warp 16 * logit_pitch * 4 + KEPT_BYTES.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long dy_stride;
    unsigned long long logit_stride;
    unsigned long long gradient_stride;
    // `phases` is 1, and `steps` a multiple of 16.
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    // Whether logits are f32, and whether their gradients are.
    unsigned wide_logits;
    unsigned wide_gradients;
    // Groups of 8 channels of a block, and those that are in its memory at a time.
    unsigned block_groups;
    unsigned groups;
    // Rows of x that lie in the block's memory.
    unsigned rows;
    // Numbers from the logits of an output to those of the next.
    unsigned logit_pitch;
    // Bytes of a unit in which x and dy are read: 16, 4 or 2.
    unsigned load_unit;
    Dropout dropout;
};

// Brings in a slab: x of the tile and its halo, and dy of its tokens.
template <class Unit, class X>
__device__ void stage_slab(const X* x, const X* dy, const Ring& x_ring, const Ring& dy_ring, const Stretch& slab,
                           const Params& params, const Channels* channels) {
    const Tokens<X> from_x = {x, params.x_stride, nullptr, nullptr, 0, params.channels, 0};
    const Tokens<X> from_dy = {dy, params.dy_stride, nullptr, nullptr, 0, params.channels, 0};
    stage_chunk_by<Unit>(from_x, x_ring, slab, params.window, channels, 0, 0);
    Stretch own = slab;
    own.history_row = own.first_row = 0;
    own.end_row = slab.computed;
    own.rows = (slab.computed + SIDE - 1) / SIDE * SIDE;
    const Window itself = {1, params.window.dilation, 0, 0};
    stage_chunk_by<Unit>(from_dy, dy_ring, own, itself, channels, 0, 0);
}

// Adds the products of `groups` groups of channels: 16 rows of dy, and as many of x as they reach. Where there is no group left
// for the second half of a product, its numbers are those at `zero`.
template <class X, unsigned PRODUCTS>
__device__ void add_products(float (&sums)[2 * PRODUCTS][4], const unsigned char* dy, const unsigned char* x,
                             unsigned pitch, unsigned groups, const uint4* zero) {
    const unsigned lane = threadIdx.x % WARP;
    const auto address = [](const void* at) { return unsigned(__cvta_generic_to_shared(at)); };
    // Matrices of a row of four: tokens side by side for dy, channels for x.
    const unsigned of_dy = lane / 16, of_x = lane / 8 % 2;
    unsigned dy_row = address(dy) + lane % 16 * pitch + of_dy * 16;
    unsigned x_row = address(x) + (lane / 16 * 8 + lane % 8) * pitch + of_x * 16;
#pragma unroll 1
    for (unsigned group = 0; group < groups; group += 2) {
        unsigned a[4];
        load_matrices(a, group + of_dy < groups ? dy_row : address(zero));
        const bool exists = group + of_x < groups;
#pragma unroll
        for (unsigned n = 0; n < PRODUCTS; n++) {
            unsigned b[4];
            load_matrices(b, exists ? x_row + n * SIDE * pitch : address(zero));
            const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            multiply_matrices<X>(sums[2 * n], a, first);
            multiply_matrices<X>(sums[2 * n + 1], a, second);
        }
        dy_row += 32;
        x_row += 32;
    }
}

// Goes back through the weights of output lane / 4, or that and 8, from the sums of its taps, and puts the gradients of its logits
// where the logits were. Of an output that there is not no tap is `read`.
template <unsigned PRODUCTS>
__device__ void finish_half(unsigned half, const float (&sums)[2 * PRODUCTS][4], const Logits& logits, Taps in_range,
                            Taps read) {
    // Eights of columns in which there are taps of these outputs: the others have theirs 8 columns later.
    constexpr unsigned EIGHTS = 2 * PRODUCTS - 1;
    const bool normal = logits.normalize != NONE, drops = logits.dropout.threshold != 0;
    const unsigned first = unsigned(LaneWeights<EIGHTS>::first_tap());
    float2 gradients[EIGHTS];
#pragma unroll
    for (unsigned eight = 0; eight < EIGHTS; eight++) {
        const auto gradient = [&](unsigned tap, float sum) {
            const bool is_read = tap - in_range.begin < in_range.end - in_range.begin;
            if (!drops) {
                return is_read ? sum : 0.0f;
            }
            return is_read && logits.is_marked(half, tap) ? sum * logits.dropout.scale : 0.0f;
        };
        const unsigned tap = first + 8 * eight;
        gradients[eight].x = gradient(tap, sums[eight + half][2 * half]);
        gradients[eight].y = gradient(tap + 1, sums[eight + half][2 * half + 1]);
    }
    if (normal) {
        LaneWeights<EIGHTS> lane;
        lane.template load<false>(half, logits, read);
        float mean = 0.0f;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            lane.weights[eight].x *= lane.scale;
            lane.weights[eight].y *= lane.scale;
            mean = fmaf(lane.weights[eight].x, gradients[eight].x, mean);
            mean = fmaf(lane.weights[eight].y, gradients[eight].y, mean);
        }
        mean = total_of_four(mean);
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            gradients[eight].x = lane.weights[eight].x * (gradients[eight].x - mean);
            gradients[eight].y = lane.weights[eight].y * (gradients[eight].y - mean);
        }
        // All lanes of the output have read its logits.
        __syncwarp();
    }
    // As they are read: neighbouring outputs write the one and the other first.
    const unsigned odd = threadIdx.x % WARP / 4 % 2, count = read.end - read.begin;
    const unsigned to[2] = {logits.row(half) + 4 * (first + odd), logits.row(half) + 4 * (first + 1 - odd)};
#pragma unroll
    for (unsigned eight = 0; eight < EIGHTS; eight++) {
        const float2 pair = gradients[eight];
        const auto value = [&](unsigned tap, float gradient) { return tap - read.begin < count ? gradient : 0.0f; };
        const unsigned tap = first + 8 * eight;
        store_if(tap + odd < logits.width, to[0] + 32 * eight, value(tap + odd, odd != 0 ? pair.y : pair.x));
        store_if(tap + 1 - odd < logits.width, to[1] + 32 * eight, value(tap + 1 - odd, odd != 0 ? pair.x : pair.y));
    }
}

template <class X, unsigned PRODUCTS>
__device__ void gradients_of_logits(const X* x, const X* dy, const void* logits, const uint4* sequences, void* gradients,
                                    const Params& params) {
    extern __shared__ uint4 memory[];
    __shared__ Channels channels[THREADS];
    __shared__ Stretch stretch;
    __shared__ uint4 zero;

    if (threadIdx.x == 0) {
        stretch = stretch_of(params.tiles, sequences, params.window, params.channels, params.head_channels,
                             params.block_groups, PRODUCTS);
        // There is no past.
        stretch.history_row = stretch.first_row;
        zero = uint4();
    }
    __syncthreads();
    if (stretch.outputs == 0) {
        return;
    }
    const Window& window = params.window;
    const unsigned pitch = (params.groups | 1) * unsigned(sizeof(uint4)), steps = params.tiles.steps;
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const Ring x_ring = {bytes, params.groups, pitch, params.rows, params.rows};
    const Ring dy_ring = {bytes + params.rows * pitch, params.groups, pitch, steps, steps};

    const unsigned warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    unsigned char* const corner = dy_ring.memory + steps * pitch + warp * (SIDE * params.logit_pitch * 4 + KEPT_BYTES);
    float* const rows = reinterpret_cast<float*>(corner + KEPT_BYTES);
    // Head and token are those of the outputs at hand.
    Logits of_head = {rows, params.logit_pitch, window.width, params.normalize, params.dropout, 0, 0, window.dilation,
                      corner};
    const unsigned first_head = stretch.first_group / stretch.groups_each;
    const unsigned heads = stretch.groups / stretch.groups_each;
    const unsigned units = (stretch.outputs + SIDE - 1) / SIDE * heads;
    const unsigned slabs = (stretch.groups + params.groups - 1) / params.groups;
    const unsigned long long first_token = stretch.tile.sequence.first + unsigned(stretch.tile.start);

#pragma unroll 1
    for (unsigned first = 0; first < units; first += warps) {
        const unsigned unit = first + warp;
        const unsigned head = unit % heads, output = unit / heads * SIDE;
        const bool computes = unit < units && output < stretch.computed;
        const auto rows_of = [&](unsigned long long stride, unsigned end) {
            const unsigned long long token = first_token + static_cast<unsigned long long>(output) * window.dilation;
            const unsigned long long of_head = static_cast<unsigned long long>(first_head + head) * window.width;
            return LogitRows{token * stride + of_head, window.dilation * stride, min(end - output, SIDE), window.width};
        };
        if (computes && params.normalize != NONE) {
            // Those of the last unit have left.
            __syncwarp();
            stage_logits<X>(logits, params.wide_logits, rows_of(params.logit_stride, stretch.computed), rows,
                            params.logit_pitch);
        }
        float sums[2 * PRODUCTS][4] = {};
#pragma unroll 1
        for (unsigned slab = 0; slab < slabs; slab++) {
            // Several slabs are those of one head, of which a warp has one unit: they come in once.
            if (first == 0) {
                Stretch of_slab = stretch;
                of_slab.first_group += slab * params.groups;
                of_slab.groups = min(params.groups, stretch.groups - slab * params.groups);
                // The last slab was read.
                __syncthreads();
                if (threadIdx.x < params.groups) {
                    channels[threadIdx.x] = channels_of(of_slab, threadIdx.x);
                }
                __syncthreads();
                if (params.load_unit == 16) {
                    stage_slab<uint4>(x, dy, x_ring, dy_ring, of_slab, params, channels);
                } else if (params.load_unit == 4) {
                    stage_slab<unsigned>(x, dy, x_ring, dy_ring, of_slab, params, channels);
                } else {
                    stage_slab<unsigned short>(x, dy, x_ring, dy_ring, of_slab, params, channels);
                }
                wait_for_copies();
                __syncthreads();
            }
            if (computes) {
                const unsigned at = slabs > 1 ? 0 : head * stretch.groups_each * unsigned(sizeof(uint4));
                const unsigned groups = slabs > 1 ? min(params.groups, stretch.groups - slab * params.groups)
                                                  : stretch.groups_each;
                add_products<X, PRODUCTS>(sums, dy_ring.memory + output * pitch + at, x_ring.memory + output * pitch + at,
                                          pitch, groups, &zero);
            }
        }
        if (unit >= units) {
            continue;
        }
        if (computes) {
            of_head.head = first_head + head;
            of_head.token = unsigned(first_token) + output * window.dilation;
            // The logits are there, or those of the last unit have left.
            __syncwarp();
            if (params.dropout.threshold != 0) {
                of_head.mark_kept();
            }
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned n = output + threadIdx.x % WARP / 4 + 8 * half;
                const int position = stretch.tile.start + int(n * window.dilation);
                Taps in_range = {first_tap(window, 0, position), end_tap(window, stretch.tile.sequence.length, position)};
                in_range.end = max(in_range.begin, in_range.end);
                Taps read = params.normalize == SOFTMAX ? Taps{0, window.width} : in_range;
                if (n >= stretch.computed) {
                    in_range = read = Taps{0, 0};
                }
                finish_half<PRODUCTS>(half, sums, of_head, in_range, read);
            }
            __syncwarp();
        }
        store_logits<X>(gradients, params.wide_gradients, rows_of(params.gradient_stride, stretch.outputs),
                        computes ? stretch.computed - output : 0, rows, params.logit_pitch);
    }
}

#define ENTRY(NAME, PRODUCTS)                                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, blocks(PRODUCTS)) void NAME(                                      \
        const TOKEN* __restrict__ x, const TOKEN* __restrict__ dy, const void* __restrict__ logits,                    \
        const uint4* __restrict__ sequences, void* __restrict__ gradients, const __grid_constant__ Params params) {    \
        gradients_of_logits<TOKEN, PRODUCTS>(x, dy, logits, sequences, gradients, params);                             \
    }

ENTRY(dynamic_conv_logits_3, 3)
ENTRY(dynamic_conv_logits_5, 5)
ENTRY(dynamic_conv_logits_9, 9)
