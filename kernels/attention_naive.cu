// Naive attention: scores of all queries and keys in memory, softmax in place, values by their weights; in f32.
//
// module attention_naive_f32
//
// The baseline that people write, three launches, for heads of any number of channels. Scores are f32, [heads, queries,
// longest sequence of keys]; the softmax of scores is of this module for all types.
//   Scores are made by tiles of 64 queries and 64 keys, but for those that no query of a tile sees.
//   The softmax has a block for eight rows, one after another. It reads a row three times, of which two hit the cache that
//   a multiprocessor has for as many rows as it has blocks.
//   Values are weighted by tiles of 64 queries and 64 channels, 32 keys after 32.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 16 heads of 64 channels, on an
// H100 (29 T multiply-adds/s, 3.0 TB/s): 275 G multiply-adds are 9.5 ms; scores are 8.6 GB, written, read, written and read,
// 11.5 ms. Predicted: scores 6 to 8 ms (products), softmax 6 to 7 (bytes), values 7 to 9 (products), 19 to 24 ms in all.

#include "shared/naive_attention.cuh"
#include "shared/online_softmax.cuh"
#include "shared/plain_values.cuh"
#include "shared/reduced.cuh"

using Params = NaiveAttention;

// The logarithms of the weights to the base two, of 64 queries and 64 keys: those that no query of the tile sees are not
// made.
template <unsigned ROWS>
__device__ void make_scores(const float* q, const float* k, const uint4* query_list, const uint4* key_list, float* scores,
                            const Params& params) {
    constexpr unsigned TILE = ROWS * SIDE;
    __shared__ float4 memory[2][2][TILE * PITCH / 4];
    __shared__ Work shared_work;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
    const int first_key = int(work.part * TILE);
    if (first_key >= work.seen.end || first_key + int(TILE) <= work.seen.begin) {
        return;
    }
    const unsigned channels = attention.head_channels;
    const unsigned first_channel = work.head * channels;
    const float* const queries = q + work.first_query * attention.q_stride + first_channel;
    const float* const keys =
        k + (work.first_key + static_cast<unsigned long long>(first_key)) * attention.k_stride + first_channel;
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned my_row = warp % 4 * 4 + lane / 8;
    const unsigned my_column = warp / 4 * 8 + lane % 8;
    float sums[ROWS][ROWS];
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
#pragma unroll
        for (unsigned j = 0; j < ROWS; j++) {
            sums[i][j] = 0.0f;
        }
    }
    const unsigned steps = (channels + DEPTH - 1) / DEPTH;
    for (unsigned step = 0; step <= steps; step++) {
        wait_for_copies();
        // What the step before copied is there for all, and what this one copies to was read by all.
        __syncthreads();
        if (step < steps) {
            float* const to = reinterpret_cast<float*>(memory[step % 2][0]);
            stage_rows<DEPTH, THREADS>(attention.q_unit, to, TILE, queries, attention.q_stride, 0, work.queries,
                                       step * DEPTH, channels);
            stage_rows<DEPTH, THREADS>(attention.k_unit, to + TILE * PITCH, TILE, keys, attention.k_stride, 0,
                                       work.keys - first_key, step * DEPTH, channels);
        }
        if (step > 0) {
            const float* const rows = reinterpret_cast<const float*>(memory[(step - 1) % 2][0]);
            add_products<DEPTH, SIDE, SIDE>(sums, rows + my_row * PITCH, rows + (TILE + my_column) * PITCH);
        }
    }
    float* const to = scores + first_score(params, work) + first_key;
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
#pragma unroll
        for (unsigned j = 0; j < ROWS; j++) {
            const int row = int(my_row + i * SIDE), key = int(my_column + j * SIDE);
            if (row < work.queries && first_key + key < work.keys) {
                to[row * params.score_stride + key] = sums[i][j] * attention.scale;
            }
        }
    }
}

// Weights in the place of scores, row by row: UNSEEN where a query does not see a key.
__device__ void normalize_scores(const uint4* query_list, const uint4* key_list, float* scores, const Params& params) {
    __shared__ Work shared_work;
    __shared__ float shared[THREADS / 32];
    if (threadIdx.x == 0) {
        shared_work = work_of(params.attention, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
#pragma unroll 1
    for (int row = 0; row < work.queries; row++) {
        float* const of = scores + first_score(params, work) + row * params.score_stride;
        const Seen seen = seen_by(params.attention, work, row);
        const int first = seen.begin + int(threadIdx.x);
        float largest = -infinity();
        for (int key = first; key < seen.end; key += THREADS) {
            largest = fmaxf(largest, of[key]);
        }
        largest = reduced_in_block<THREADS / 32>(largest, shared, [](float a, float b) { return fmaxf(a, b); });
        float total = 0.0f;
        for (int key = first; key < seen.end; key += THREADS) {
            total += exp2_of(of[key] - largest);
        }
        total = reduced_in_block<THREADS / 32>(total, shared, [](float a, float b) { return a + b; });
        const float whole = 1.0f / total;
        // Up to a whole quad: that is how they are read.
        for (int key = int(threadIdx.x); key < (work.keys + 3) / 4 * 4; key += THREADS) {
            const bool sees = key >= seen.begin && key < seen.end;
            of[key] = sees ? exp2_of(of[key] - largest) * whole : UNSEEN;
        }
    }
}

// The weighted values of 64 queries, in 64 channels.
__device__ void add_weighted_values(const float* scores, const float* v, const uint4* query_list, const uint4* key_list,
                                    float* y, const Params& params) {
    constexpr unsigned KEYS = 32, WIDTH = 64, WEIGHTS = weight_pitch(KEYS);
    __shared__ float4 weight_memory[2][QUERIES * WEIGHTS / 4];
    __shared__ float4 value_memory[2][KEYS * WIDTH / 4];
    __shared__ Work shared_work;
    __shared__ Reach shared_reach;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
        shared_reach = reach_of(attention, shared_work, 0, shared_work.queries);
    }
    __syncthreads();
    const Work& work = shared_work;
    const Reach& reach = shared_reach;
    if (work.rows == 0) {
        return;
    }
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
    const unsigned first_channel = work.head * attention.head_channels + work.part * WIDTH;
    const unsigned channels = attention.head_channels - work.part * WIDTH;
    // From a whole number of tiles on, so that rows of scores are read by whole units.
    const int begin = work.seen.begin / int(KEYS) * int(KEYS);
    const float* const from = scores + first_score(params, work);
    float4 sums[4][1];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        sums[i][0] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    unsigned turn = 0;
#pragma unroll 1
    for (int key = begin; key < work.seen.end + int(KEYS); key += int(KEYS), turn ^= 1) {
        wait_for_copies();
        // What the step before copied is there for all, and what this one copies to was read by all.
        __syncthreads();
        if (key < work.seen.end) {
            const unsigned rows = unsigned(work.seen.end - key);
            // Weights of keys that there are not are zero.
            stage_whole<KEYS>(params.score_unit, reinterpret_cast<float*>(weight_memory[turn]), WEIGHTS, QUERIES, from + key,
                             params.score_stride, work.queries, work.keys - key);
            stage_whole<WIDTH>(attention.v_unit, reinterpret_cast<float*>(value_memory[turn]), WIDTH, KEYS,
                              v + (work.first_key + static_cast<unsigned long long>(key)) * attention.v_stride + first_channel,
                              attention.v_stride, rows, channels);
        }
        if (key > begin) {
            const int first = key - int(KEYS);
            const bool all_seen = first >= reach.all_begin && first + int(KEYS) <= reach.all_end;
            add_values<1, WEIGHTS>(sums, reinterpret_cast<const float*>(weight_memory[turn ^ 1]) + my_row * WEIGHTS,
                                   reinterpret_cast<const float*>(value_memory[turn ^ 1]) + my_column * 4, KEYS, all_seen);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        const int row = int(my_row + i * SIDE);
        if (row < work.rows) {
            const Seen seen = seen_by(attention, work, row);
            const unsigned channel = my_column * 4;
            store_row(y + (work.first_query + row) * attention.y_stride + first_channel + channel, sums[i], 1.0f,
                      row < work.queries && seen.begin < seen.end, int(channels) - int(channel), attention.y_unit);
        }
    }
}

extern "C" __global__ __launch_bounds__(THREADS, 4) void attention_scores(
    const float* __restrict__ q, const float* __restrict__ k, const uint4* __restrict__ query_list,
    const uint4* __restrict__ key_list, float* __restrict__ scores, const __grid_constant__ Params params) {
    make_scores<4>(q, k, query_list, key_list, scores, params);
}

extern "C" __global__ __launch_bounds__(THREADS) void attention_softmax(
    const uint4* __restrict__ query_list, const uint4* __restrict__ key_list, float* __restrict__ scores,
    const __grid_constant__ Params params) {
    normalize_scores(query_list, key_list, scores, params);
}

extern "C" __global__ __launch_bounds__(THREADS, 2) void attention_values(
    const float* __restrict__ scores, const float* __restrict__ v, const uint4* __restrict__ query_list,
    const uint4* __restrict__ key_list, float* __restrict__ y, const __grid_constant__ Params params) {
    add_weighted_values(scores, v, query_list, key_list, y, params);
}
