// Fused attention: y_i = sum_j softmax_j(q_i k_j scale) v_j, in f16 and bf16 (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// module attention_f16 TOKEN=f16
// module attention_bf16 TOKEN=bf16
//
// A block has 128 queries of a head (64 where heads have more than 128 channels), 16 a warp, and keeps them in registers. It
// walks over the keys from the first that one of them sees to the last, tile by tile: while one tile of keys and values is
// worked on, the next is copied. A warp makes the scores of its queries, turns them into weights against the largest score so
// far, and adds the weighted values to its sums, which stay in registers too: scores are never in memory. Tiles that none of
// its queries sees it leaves out. The outputs leave through the block's memory by the widest units that alignment allows.
//
// A weight is two f16 numbers, or three of bf16, so it is as good as in f32 (`shared/weighted.cuh`): three products in all
// for f16, four for bf16, where attention that rounds its weights takes two. What a query does not see is left out of the
// softmax by selection. The values of keys that no query of a block sees are zero. Where one that some see and some do not
// is infinite or NaN, a sum is no number; then the block walks again, without such values, and twice more to see whom they
// concern: those who see such a key with a score that is not -infinity, however small the weight. Sums of values near the
// end of bf16's range may overflow before they are divided by the total.
//
// There is an entry for heads of up to 64, 128 and 256 channels; fewer are filled up with zeros. Keys of a tile are as many
// as registers allow: 48, 32 and 16. The block's memory is 24.7, 32.9 and 32.9 KB; registers let a multiprocessor have two
// blocks (16 warps), one (8) and two (8).
//
// Traffic, in sectors of 32 bytes, where heads are whole sectors: q and y once; k and v once for each tile of queries, as far
// as it sees; lists of sequences once a block.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 16 heads of 64 channels, bf16, on
// an H100 (494 T multiply-adds/s of 16 bits; 132 multiprocessors at 1.7 GHz, 4 instructions a cycle each; 3.0 TB/s):
//   floor:   2 x 137 G multiply-adds, 0.56 ms; 268 MB, 0.09 ms. Causal, half of the products: 0.28 ms.
//   bf16:    four products are 1.11 ms at the peak, 1.85 ms at the 0.6 of it that mma.sync reaches. Some 17 instructions for
//            each score and lane (4 of them products, 6 that make parts of weights) are 1.25 ms of issue, and exponentials
//            0.6 ms; with 16 warps a multiprocessor most of that is under the products. Tiles read 4.3 GB from L2, 0.8 ms.
//            Predicted 2.2 to 2.8 ms, 0.2 to 0.25 of the floor; causal 1.2 to 1.5 ms.
//   f16:     three products, 1.39 ms at mma.sync's rate. Predicted 1.7 to 2.2 ms; causal 0.9 to 1.2 ms.
// In heads of 128 channels (8 of them) with one block of 8 warps less is hidden: predicted a quarter more.

#include "shared/attention.cuh"
#include "shared/element.cuh"
#include "shared/online_softmax.cuh"
#include "shared/scores.cuh"
#include "shared/weighted.cuh"
#include "shared/matrix_rows.cuh"

// The numbers of a call; the plan fills them.
using Params = Attention;

// WIDTH channels of a head at most, and KEYS of a tile. A warp has 16 queries.
template <class X, unsigned WIDTH, unsigned KEYS, unsigned WARPS>
__device__ void attend(const X* q, const X* k, const X* v, const uint4* query_list, const uint4* key_list, X* y,
                       const Params& params) {
    constexpr unsigned THREADS = 32 * WARPS;
    constexpr unsigned QUERIES = SIDE * WARPS;
    constexpr unsigned TILE_BYTES = KEYS * WIDTH * sizeof(X);
    constexpr unsigned QUERY_BYTES = QUERIES * WIDTH * sizeof(X);
    // Two tiles of keys, two of values. The queries come first, and the outputs last, in the same place.
    constexpr unsigned BYTES = 4 * TILE_BYTES;
    static_assert(QUERY_BYTES <= BYTES, "queries and outputs have room");
    __shared__ uint4 memory[BYTES / sizeof(uint4)];
    __shared__ Work shared_work;
    __shared__ Reach reaches[WARPS];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);

    if (threadIdx.x == 0) {
        shared_work = work_of(params, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
    if (work.rows == 0) {
        return;
    }
    const unsigned lane = threadIdx.x % 32;
    const unsigned warp_row = threadIdx.x / 32 * SIDE;
    if (lane == 0) {
        reaches[threadIdx.x / 32] = reach_of(params, work, int(warp_row), int(SIDE));
    }

    unsigned queries[WIDTH / SIDE][4];
    // Copies the tile of queries, or one of keys and one of values, of which those that no query of the block sees are zero.
    const auto copy_tile = [&](bool of_queries, int at) {
        const unsigned first = unsigned(work.seen.begin + at);
        const unsigned long long row = of_queries ? work.first_query : work.first_key + static_cast<unsigned long long>(first);
        unsigned char* to = of_queries ? bytes : bytes + unsigned(at) / KEYS % 2 * (2 * TILE_BYTES);
#pragma unroll 1
        for (unsigned which = of_queries ? 2 : 0;; which++) {
            const unsigned long long stride = which == 0 ? params.k_stride : which == 1 ? params.v_stride : params.q_stride;
            const X* const tensor = which == 0 ? k : which == 1 ? v : q;
            const Matrix<X> rows = {tensor + row * stride + work.head * params.head_channels, stride,
                                    unsigned(of_queries ? work.queries : work.seen.end - int(first)), params.head_channels,
                                    which == 0 ? params.k_unit : which == 1 ? params.v_unit : params.q_unit};
            copy_rows<X, WIDTH>(to, rows, of_queries ? QUERIES : KEYS);
            if (which > 0) {
                break;
            }
            to += TILE_BYTES;
        }
    };

    float sums[WIDTH / 8][4];
#pragma unroll 1
    for (unsigned walk = ALL;; walk++) {
#pragma unroll
        for (unsigned n = 0; n < WIDTH / 8; n++) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                sums[n][i] = 0.0f;
            }
        }
        Softmax softmax[2];
        softmax[0].clear();
        softmax[1].clear();
#pragma unroll 1
        for (int at = walk == ALL ? -2 * int(KEYS) : -int(KEYS); at < work.seen.end - work.seen.begin; at += int(KEYS)) {
            wait_for_copies();
            // This tile is there for all, and the one before it was used by all.
            __syncthreads();
            if (at == -int(KEYS) && walk == ALL) {
                const unsigned first = place<X, WIDTH>(warp_row + lane % 16, lane / 16 * 8);
#pragma unroll
                for (unsigned n = 0; n < WIDTH / SIDE; n++) {
                    load_matrices(queries[n], bytes + (first ^ place<X, WIDTH>(0, n * SIDE)));
                }
                // The first keys come to the place of the queries.
                __syncthreads();
            }
            if (at + int(KEYS) < work.seen.end - work.seen.begin) {
                copy_tile(at < -int(KEYS), at + int(KEYS));
            }
            if (at < 0) {
                continue;
            }
            unsigned char* const keys = bytes + unsigned(at) / KEYS % 2 * (2 * TILE_BYTES);
            unsigned char* const values = keys + TILE_BYTES;
            if (walk != ALL) {
                change<X, TILE_BYTES, THREADS>(values, walk);
                __syncthreads();
            }
            const int first = work.seen.begin + at;
            const Reach reach = reaches[threadIdx.x / 32];
            if (first >= reach.end || first + int(KEYS) <= reach.begin) {
                continue;
            }
            float scores[KEYS / 8][4];
            multiply_keys<X, WIDTH, KEYS>(scores, queries, keys);
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    scores[n][i] *= params.scale;
                }
            }
            if (first < reach.all_begin || first + int(KEYS) > reach.all_end) {
                hide<KEYS>(scores, params, work, int(warp_row), first);
            }
            if (walk > FINITE) {
                // What is seen, and not weighted by exactly zero, counts.
#pragma unroll
                for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (unsigned i = 0; i < 4; i++) {
                        scores[n][i] = scores[n][i] > -infinity() ? 0.0f : scores[n][i];
                    }
                }
            }
            float factor[2];
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                float row[KEYS / 4];
#pragma unroll
                for (unsigned n = 0; n < KEYS / 4; n++) {
                    row[n] = scores[n / 2][2 * i + n % 2];
                }
                factor[i] = softmax[i].template weigh<KEYS / 4, 4>(row, WeightParts<X>::RAISE);
#pragma unroll
                for (unsigned n = 0; n < KEYS / 4; n++) {
                    scores[n / 2][2 * i + n % 2] = row[n];
                }
            }
            if (__any_sync(0xffffffffu, !(factor[0] == 1.0f && factor[1] == 1.0f))) {
#pragma unroll
                for (unsigned n = 0; n < WIDTH / 8; n++) {
#pragma unroll
                    for (unsigned i = 0; i < 4; i++) {
                        sums[n][i] *= factor[i / 2];
                    }
                }
            }
#pragma unroll
            for (unsigned n = 0; n < KEYS / 8; n += 2) {
                WeightParts<X> weights;
                weights.set(0, make_float2(scores[n][0], scores[n][1]));
                weights.set(1, make_float2(scores[n][2], scores[n][3]));
                weights.set(2, make_float2(scores[n + 1][0], scores[n + 1][1]));
                weights.set(3, make_float2(scores[n + 1][2], scores[n + 1][3]));
                add_weighted<X, WIDTH>(sums, weights, values, n * 8);
            }
        }
        // Queries that see a key: the outputs of the others are zero.
        bool used[2];
        float scale[2];
        bool wanting = false;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            softmax[i].template finish<4>();
            scale[i] = 1.0f / softmax[i].total;
            const int row = int(warp_row + lane / 4 + 8 * i);
            const Seen seen = seen_by(params, work, row);
            used[i] = row < work.queries && seen.begin < seen.end;
            wanting |= used[i] && scale[i] == scale[i] && !are_finite(sums, i);
        }
        // All have done with the last tile, too.
        const bool again = __syncthreads_or(wanting);
        if (walk == ALL && again) {
            continue;
        }
        const Outputs<X> outputs = {y + work.first_query * params.y_stride + work.head * params.head_channels,
                                    params.y_stride, unsigned(work.rows), params.head_channels, params.y_unit};
        unsigned char* const strip = bytes + warp_row * unsigned(WIDTH * sizeof(X));
        store_weighted<X, WIDTH>(outputs, strip, warp_row, walk, sums, scale, used);
        if (walk == ALL || walk == BELOW) {
            return;
        }
        __syncthreads();
    }
}

#define ENTRY(NAME, BLOCKS, WIDTH, KEYS, WARPS)                                                                        \
    extern "C" __global__ __launch_bounds__(32 * WARPS, BLOCKS) void NAME(                                             \
        const TOKEN* __restrict__ q, const TOKEN* __restrict__ k, const TOKEN* __restrict__ v,                         \
        const uint4* __restrict__ query_list, const uint4* __restrict__ key_list, TOKEN* __restrict__ y,               \
        const __grid_constant__ Params params) {                                                                       \
        attend<TOKEN, WIDTH, KEYS, WARPS>(q, k, v, query_list, key_list, y, params);                                   \
    }

ENTRY(attention_64, 2, 64, 48, 8)
ENTRY(attention_128, 1, 128, 32, 8)
ENTRY(attention_256, 2, 256, 16, 4)
