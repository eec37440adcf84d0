// Fused attention: y_i = sum_j softmax_j(q_i k_j scale) v_j, in f32 (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// module attention_f32
//
// This is the form by multiply-adds: f32 never goes to the tensor cores. (16 bits do: `attention_mma.cu`.) A block has 64
// queries of a head, and walks over the keys from the first that one of them sees to the last, by tiles of 64. A tile is a
// row of slabs, each copied while the one before is used: first 16 channels after 16 of queries and keys, whose products are
// the scores (`shared/plain_product.cuh`), then some values after some, which are weighted (`shared/plain_values.cuh`). Scores
// are in registers, weights in the block's memory, sums in registers. What a query does not see has a weight that says so,
// and is left out.
//
// There is an entry for heads of up to 64, 128 and 256 channels. All have 41 KB of the block's memory, and at most 128
// registers: two blocks a multiprocessor.
//
// Traffic, in sectors of 32 bytes, where heads are whole sectors: y once; for each tile of queries, k and v as far as it
// sees, and q once for each tile of keys; lists of sequences once a block.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 16 heads of 64 channels, on an
// H100 (29 T multiply-adds/s, 3.0 TB/s): 275 G multiply-adds are 9.5 ms, 537 MB 0.18 ms. 64 multiply-adds of a warp, 16
// cycles, read 8 quads, 12 passes over the banks, which overlap; L2 gives 26 GB, 4.7 ms. Predicted 14 to 18 ms, 0.55 to 0.7
// of the floor; causal 7.5 to 9.5 ms.

#include "shared/attention.cuh"
#include "shared/online_softmax.cuh"
#include "shared/plain_values.cuh"

// The numbers of a call; the plan fills them.
using Params = Attention;

// Keys of a tile.
constexpr unsigned KEYS = 4 * SIDE;
constexpr unsigned WEIGHTS = weight_pitch(KEYS);

template <unsigned QUADS>
__device__ void attend(const float* q, const float* k, const float* v, const uint4* query_list, const uint4* key_list,
                       float* y, const Params& params) {
    constexpr unsigned WIDTH = QUADS * 64;
    // Two slabs, one that is filled and one that is read: DEPTH channels of the queries and as many of the keys, or values.
    constexpr unsigned SLAB = 2 * QUERIES * PITCH;
    constexpr unsigned VALUES = 2048 / WIDTH;
    static_assert(VALUES * WIDTH <= SLAB && KEYS % VALUES == 0, "values have room");
    __shared__ float4 slabs[2][SLAB / 4];
    __shared__ float4 weight_memory[QUERIES * WEIGHTS / 4];
    __shared__ Work shared_work;
    __shared__ Reach shared_reach;
    float* const weights = reinterpret_cast<float*>(weight_memory);

    if (threadIdx.x == 0) {
        shared_work = work_of(params, query_list, key_list);
        shared_reach = reach_of(params, shared_work, 0, QUERIES);
    }
    __syncthreads();
    const Work& work = shared_work;
    const Reach& reach = shared_reach;
    if (work.rows == 0) {
        return;
    }
    // Lanes of half a warp have a row.
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
    const unsigned depths = (params.head_channels + DEPTH - 1) / DEPTH;
    const unsigned first_channel = work.head * params.head_channels;
    const int length = work.seen.end - work.seen.begin;

    const auto copy_slab = [&](float* to, int key, unsigned slab) {
        const unsigned long long row = work.first_key + unsigned(work.seen.begin + key);
        const unsigned rows = unsigned(length - key);
        if (slab < depths) {
            const unsigned channel = slab * DEPTH;
            stage_rows<DEPTH, THREADS>(params.q_unit, to, QUERIES, q + work.first_query * params.q_stride + first_channel,
                                       params.q_stride, 0, work.queries, channel, params.head_channels);
            stage_rows<DEPTH, THREADS>(params.k_unit, to + QUERIES * PITCH, KEYS, k + row * params.k_stride + first_channel,
                                       params.k_stride, 0, rows, channel, params.head_channels);
        } else {
            const unsigned first = (slab - depths) * VALUES;
            stage_whole<WIDTH>(params.v_unit, to, WIDTH, VALUES, v + (row + first) * params.v_stride + first_channel,
                               params.v_stride, rows > first ? rows - first : 0, params.head_channels);
        }
    };
    Softmax softmax[4];
    float scores[4][4];
    float4 sums[4][QUADS];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        softmax[i].clear();
#pragma unroll
        for (unsigned c = 0; c < QUADS; c++) {
            sums[i][c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
    // The slab that is copied, and which of the two it is; the one before it is used.
    const unsigned all = depths + KEYS / VALUES;
    unsigned slab = 0, turn = 0;
#pragma unroll 1
    for (int key = 0; length > 0; turn ^= 1) {
        wait_for_copies();
        // What the step before copied is there for all, and what this one copies to was read by all.
        __syncthreads();
        if (key < length) {
            copy_slab(reinterpret_cast<float*>(slabs[turn]), key, slab);
        }
        // The slab before.
        const bool first_of_tile = slab == 0;
        const int of = first_of_tile ? key - int(KEYS) : key;
        const unsigned used = first_of_tile ? all - 1 : slab - 1;
        slab = slab + 1 < all ? slab + 1 : 0;
        key = slab == 0 ? key + int(KEYS) : key;
        if (of < 0) {
            continue;
        }
        const float* const from = reinterpret_cast<const float*>(slabs[turn ^ 1]);
        const int first = work.seen.begin + of;
        const bool all_seen = first >= reach.all_begin && first + int(KEYS) <= reach.all_end;
        if (used >= depths) {
            add_values<QUADS, WEIGHTS>(sums, weights + my_row * WEIGHTS + (used - depths) * VALUES, from + my_column * 4,
                                       VALUES, all_seen);
            if (used + 1 == all && of + int(KEYS) >= length) {
                break;
            }
            continue;
        }
        if (used == 0) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    scores[i][j] = 0.0f;
                }
            }
        }
        add_products<DEPTH, SIDE, SIDE>(scores, from + my_row * PITCH, from + QUERIES * PITCH + my_column * PITCH);
        if (used + 1 < depths) {
            continue;
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const Seen seen = seen_by(params, work, int(my_row + i * SIDE));
            bool sees[4];
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                const int at = first + int(my_column + j * SIDE);
                sees[j] = all_seen || (at >= seen.begin && at < seen.end);
                scores[i][j] = sees[j] ? scores[i][j] * params.scale : -infinity();
            }
            const float factor = softmax[i].template weigh<4, SIDE>(scores[i], 0.0f);
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                weights[(my_row + i * SIDE) * WEIGHTS + my_column + j * SIDE] = sees[j] ? scores[i][j] : UNSEEN;
            }
#pragma unroll
            for (unsigned c = 0; c < QUADS; c++) {
                sums[i][c].x *= factor, sums[i][c].y *= factor, sums[i][c].z *= factor, sums[i][c].w *= factor;
            }
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        softmax[i].template finish<SIDE>();
        const int row = int(my_row + i * SIDE);
        if (row < work.rows) {
            const Seen seen = seen_by(params, work, row);
            const unsigned channel = my_column * 4;
            store_row(y + (work.first_query + row) * params.y_stride + first_channel + channel, sums[i],
                      1.0f / softmax[i].total, row < work.queries && seen.begin < seen.end,
                      int(params.head_channels) - int(channel), params.y_unit);
        }
    }
}

#define ENTRY(NAME, BLOCKS, QUADS)                                                                                     \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void NAME(                                                \
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,                         \
        const uint4* __restrict__ query_list, const uint4* __restrict__ key_list, float* __restrict__ y,               \
        const __grid_constant__ Params params) {                                                                       \
        attend<QUADS>(q, k, v, query_list, key_list, y, params);                                                       \
    }

ENTRY(attention_64, 2, 1)
ENTRY(attention_128, 2, 2)
ENTRY(attention_256, 2, 4)
