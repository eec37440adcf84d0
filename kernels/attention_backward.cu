// The gradients of attention, by multiply-adds in f32, of numbers of any type: with p the weights of queries i over keys n,
// and D_i = dy_i y_i,
//   dv_n = sum_i p_in dy_i,  ds_in = p_in (dy_i v_n - D_i),  dq_i = scale sum_n ds_in k_n,  dk_n = scale sum_i ds_in q_i
// (Dao et al. 2022, appendix B).
//
// module attention_backward
//
// A gradient is a weighted sum of rows: `gradient` makes dq, dk or dv, whichever the call says. Its rows are those of the
// gradient, queries or keys, its columns those that are summed, keys or queries; seen from the keys, queries are what keys are
// seen from queries, with left and right exchanged. A block has 64 rows of a head and walks over the columns from the first
// that one of them sees to the last, 64 after 64: slabs of 16 channels of rows and columns make the scores, and with slabs of
// dy and v their gradients; weights go to the block's memory, and weigh rows that come in after them. Sums are in registers.
// What a row does not see is left out: never multiplied by zero.
//
// Before it, `statistics` leaves in scratch memory what weights are made from again, for each head and query: the largest
// score, one over the total, and D.
//
// Naive attention has its weights in memory (`attention_naive.cu`): `score_gradients` makes ds of them in place, after dv was
// made, and `weighted` makes sums of rows by what is in memory, for heads of any number of channels.
//
// Traffic, in sectors of 32 bytes, where heads are whole sectors: for each tile of rows, rows once for each tile of columns,
// columns as far as they see, what is weighted, and statistics of queries; the gradient once.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 16 heads of 64 channels, on an
// H100 (29 T multiply-adds/s, 3.0 TB/s): each product of scores is 137 G multiply-adds, 4.7 ms; statistics take one, dq and
// dk three, dv two, 43 ms in all, where eight would do. Slabs are not copied ahead: two blocks of a multiprocessor take
// turns. Predicted 80 to 110 ms.

#include "shared/attention_backward.cuh"

// Of the softmax where there are scores, and D where there are gradients of them: `rows` are q, dy and y.
extern "C" __global__ __launch_bounds__(THREADS, 2) void statistics(const void* q, const void* k, const void* dy,
                                                                   const void* y, const uint4* query_list,
                                                                   const uint4* key_list, float* numbers,
                                                                   const __grid_constant__ Params params) {
    __shared__ float4 slab_memory[2 * SLAB / 4];
    __shared__ Work shared_work;
    __shared__ Reach shared_reach;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
        shared_reach = reach_of(attention, shared_work, 0, TILE);
    }
    __syncthreads();
    const Work& work = shared_work;
    const Reach& reach = shared_reach;
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
    Softmax softmax[4];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        softmax[i].clear();
    }
    if (params.has_scores != 0) {
        const Factors factors = {{q, attention.q_stride, params.type}, {k, attention.k_stride, params.type}};
#pragma unroll 1
        for (int first = work.seen.begin; first < work.seen.end; first += int(TILE)) {
            float scores[4][4];
            clear(scores);
            factors.add(scores, reinterpret_cast<float*>(slab_memory), params, work, first);
            const bool all_seen = first >= reach.all_begin && first + int(TILE) <= reach.all_end;
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const Seen seen = seen_by(attention, work, int(my_row + i * SIDE));
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    const int at = first + int(my_column + j * SIDE);
                    const bool sees = all_seen || (at >= seen.begin && at < seen.end);
                    scores[i][j] = sees ? scores[i][j] * attention.scale : -infinity();
                }
                softmax[i].template weigh<4, SIDE>(scores[i], 0.0f);
            }
        }
    }
    const Typed gradients = {dy, params.row_gradient_stride, params.type};
    const Typed outputs = {y, attention.y_stride, params.type};
    const Statistics all = {numbers, attention.tiles.columns * params.score_rows};
#pragma unroll 1
    for (unsigned i = 0; i < 4; i++) {
        const int row = int(my_row + i * SIDE);
        float mean = 0.0f;
        if (params.has_gradients != 0 && row < work.queries) {
#pragma unroll 1
            for (unsigned channel = my_column; channel < attention.head_channels; channel += SIDE) {
                const unsigned at = work.head * attention.head_channels + channel;
                mean = fmaf(number_at(gradients, work.first_query + unsigned(row), at),
                            number_at(outputs, work.first_query + unsigned(row), at), mean);
            }
        }
#pragma unroll
        for (unsigned lanes = 1; lanes < SIDE; lanes *= 2) {
            mean += __shfl_xor_sync(0xffffffffu, mean, lanes);
        }
        if (params.has_gradients != 0 && row < work.queries && my_column == 0) {
            all.mean(work.head * params.score_rows + work.first_query + unsigned(row)) = mean;
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        softmax[i].template finish<SIDE>();
        const int row = int(my_row + i * SIDE);
        if (params.has_scores != 0 && row < work.queries && my_column == 0) {
            const unsigned long long at = work.head * params.score_rows + work.first_query + unsigned(row);
            // Where all scores are -infinity, weights are zero over zero.
            all.largest(at) = softmax[i].base == -infinity() ? 0.0f : softmax[i].base;
            all.share(at) = 1.0f / softmax[i].total;
        }
    }
}

template <unsigned QUADS>
__device__ void make_gradient(const Factors& scoring, const Factors& grading, const Typed& values, const float* numbers,
                              const uint4* row_list, const uint4* column_list, void* to, const Params& params) {
    constexpr unsigned WIDTH = QUADS * 64;
    // Slabs, or values, or sums on their way out; and how many columns come in at once to be weighted.
    constexpr unsigned NUMBERS = 4096, VALUES = NUMBERS / WIDTH;
    static_assert(2 * SLAB <= NUMBERS && QUADS * THREADS * 4 <= NUMBERS, "all have room");
    __shared__ float4 memory[NUMBERS / 4];
    __shared__ float of_queries[3 * TILE];
    __shared__ float4 weight_memory[TILE * WEIGHTS / 4];
    __shared__ Work shared_work;
    __shared__ Reach shared_reach;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, row_list, column_list);
        shared_reach = reach_of(attention, shared_work, 0, TILE);
    }
    __syncthreads();
    const Work& work = shared_work;
    const Reach& reach = shared_reach;
    if (work.rows == 0) {
        return;
    }
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
    const unsigned channels = attention.head_channels, head = work.head * channels;
    float* const summands = reinterpret_cast<float*>(memory);
    float* const weights = reinterpret_cast<float*>(weight_memory);
    const Statistics statistics = {const_cast<float*>(numbers), attention.tiles.columns * params.score_rows};
    const Sight sight(attention, work);
    float4 sums[4][QUADS];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
#pragma unroll
        for (unsigned c = 0; c < QUADS; c++) {
            sums[i][c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
#pragma unroll 1
    for (int first = work.seen.begin; first < work.seen.end; first += int(TILE)) {
        const bool all_seen = first >= reach.all_begin && first + int(TILE) <= reach.all_end;
        // What is known of the queries of the tile, for all after the next barrier.
        const unsigned query = params.by_key != 0 ? work.first_key + unsigned(first) : work.first_query;
        const int queries = params.by_key != 0 ? work.seen.end - first : work.queries;
        if (threadIdx.x < TILE && int(threadIdx.x) < queries) {
            const unsigned long long at = work.head * params.score_rows + query + threadIdx.x;
            of_queries[threadIdx.x] = statistics.largest(at);
            of_queries[TILE + threadIdx.x] = statistics.share(at);
            of_queries[2 * TILE + threadIdx.x] = params.has_gradients != 0 ? statistics.mean(at) : 0.0f;
        }
        // From scores, and then from their gradients.
#pragma unroll 1
        for (unsigned turn = 0; turn <= params.has_gradients; turn++) {
            float products[4][4];
            clear(products);
            const Factors factors = {turn == 0 ? scoring.rows : grading.rows, turn == 0 ? scoring.columns : grading.columns};
            factors.add(products, summands, params, work, first);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
                    const unsigned row = my_row + i * SIDE, column = my_column + j * SIDE;
                    float* const weight = &weights[row * WEIGHTS + column];
                    if (int(row) >= work.queries || !(all_seen || sight.has(i, first + int(column)))) {
                        *weight = 0.0f;
                        continue;
                    }
                    const float* known = &of_queries[params.by_key != 0 ? column : row];
                    if (turn == 0) {
                        *weight = exp2_of(products[i][j] * attention.scale - known[0]) * known[TILE];
                    } else {
                        *weight *= products[i][j] - known[2 * TILE];
                    }
                }
            }
        }
#pragma unroll 1
        for (unsigned part = 0; part < TILE && first + int(part) < work.seen.end; part += VALUES) {
            // What lay there was read by all.
            __syncthreads();
            const int column = first + int(part);
            stage_values<WIDTH>(summands, VALUES, values, params.wide, work.first_key + unsigned(column),
                                unsigned(work.seen.end - column), head, channels);
            // So are weights written by all.
            __syncthreads();
            add_seen<QUADS>(sums, weights + my_row * WEIGHTS + part, summands + my_column * 4, column, VALUES, all_seen,
                            sight);
        }
        // The next tile brings slabs to where values are, and weights to where they are.
        __syncthreads();
    }
    store_sums<QUADS>(to, sums, memory, params, work, head, channels);
}

#define ENTRY(NAME, BLOCKS, QUADS)                                                                                     \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void NAME(                                                \
        const void* rows, const void* columns, const void* row_gradients, const void* column_gradients,                \
        const void* values, const float* numbers, const uint4* row_list, const uint4* column_list, void* to,           \
        const __grid_constant__ Params params) {                                                                       \
        const Attention& attention = params.attention;                                                                 \
        const Factors scoring = {{rows, attention.q_stride, params.type}, {columns, attention.k_stride, params.type}}; \
        const Factors grading = {{row_gradients, params.row_gradient_stride, params.type},                             \
                                 {column_gradients, params.column_gradient_stride, params.type}};                      \
        const Typed summands = {values, attention.v_stride, params.type};                                              \
        make_gradient<QUADS>(scoring, grading, summands, numbers, row_list, column_list, to, params);                  \
    }

ENTRY(gradient_64, 2, 1)
ENTRY(gradient_128, 2, 2)
ENTRY(gradient_256, 1, 4)

// Of naive attention: ds in the place of weights, for 64 queries and 64 keys.
extern "C" __global__ __launch_bounds__(THREADS, 2) void score_gradients(const void* dy, const void* v,
                                                                        const float* numbers, const uint4* query_list,
                                                                        const uint4* key_list, float* scores,
                                                                        const __grid_constant__ Params params) {
    __shared__ float4 slab_memory[2 * SLAB / 4];
    __shared__ Work shared_work;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
    const int first = int(work.part * TILE);
    if (first >= work.seen.end || first + int(TILE) <= work.seen.begin) {
        return;
    }
    const Factors factors = {{dy, params.row_gradient_stride, params.type},
                             {v, params.column_gradient_stride, params.type}};
    float gradients[4][4];
    clear(gradients);
    factors.add(gradients, reinterpret_cast<float*>(slab_memory), params, work, first);
    const Statistics statistics = {const_cast<float*>(numbers),
                                   attention.tiles.columns / attention.parts * params.score_rows};
    const Sight sight(attention, work);
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = my_row + i * SIDE;
        const unsigned long long at = work.head * params.score_rows + work.first_query + row;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            const int column = first + int(my_column + j * SIDE);
            if (int(row) < work.queries && sight.has(i, column)) {
                float& score = scores[at * params.score_stride + unsigned(column)];
                score *= gradients[i][j] - statistics.mean(at);
            }
        }
    }
}

// Of naive attention: 64 rows and 64 channels of a gradient, by weights that are in memory. Seen from keys, these lie the
// other way.
extern "C" __global__ __launch_bounds__(THREADS, 2) void weighted(const float* scores, const void* values,
                                                                 const uint4* row_list, const uint4* column_list,
                                                                 void* to, const __grid_constant__ Params params) {
    constexpr unsigned WIDTH = 64;
    __shared__ float4 memory[TILE * WIDTH / 4];
    __shared__ float4 weight_memory[TILE * WEIGHTS / 4];
    __shared__ Work shared_work;
    __shared__ Reach shared_reach;
    __shared__ unsigned shared_start;
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        const Tile tile = tile_of(attention.tiles, row_list);
        shared_work = work_on(attention, tile, column_list);
        shared_reach = reach_of(attention, shared_work, 0, TILE);
        shared_start = unsigned(tile.start);
    }
    __syncthreads();
    const Work& work = shared_work;
    const Reach& reach = shared_reach;
    if (work.rows == 0) {
        return;
    }
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
    const unsigned first_channel = work.part * WIDTH, channels = attention.head_channels - first_channel;
    const unsigned channel = work.head * attention.head_channels + first_channel;
    float* const summands = reinterpret_cast<float*>(memory);
    float* const weights = reinterpret_cast<float*>(weight_memory);
    const Typed from = {values, attention.v_stride, params.type};
    const Sight sight(attention, work);
    float4 sums[4][1];
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        sums[i][0] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll 1
    for (int first = work.seen.begin; first < work.seen.end; first += int(TILE)) {
        __syncthreads();
        const unsigned columns = unsigned(work.seen.end - first);
        // Neighbours read what lies side by side.
#pragma unroll 1
        for (unsigned number = threadIdx.x; number < TILE * TILE; number += THREADS) {
            const unsigned across = number % TILE, down = number / TILE;
            const unsigned row = params.by_key != 0 ? across : down, column = params.by_key != 0 ? down : across;
            const Seen seen = seen_by(attention, work, int(row));
            const int position = first + int(column);
            float weight = 0.0f;
            if (int(row) < work.queries && position >= seen.begin && position < seen.end) {
                const unsigned query = params.by_key != 0 ? work.first_key + unsigned(position) : work.first_query + row;
                const unsigned key = params.by_key != 0 ? shared_start + row : unsigned(position);
                weight = scores[(work.head * params.score_rows + query) * params.score_stride + key];
            }
            weights[row * WEIGHTS + column] = weight;
        }
        stage_values<WIDTH>(summands, TILE, from, params.wide, work.first_key + unsigned(first), columns, channel, channels);
        __syncthreads();
        const bool all_seen = first >= reach.all_begin && first + int(TILE) <= reach.all_end;
        add_seen<1>(sums, weights + my_row * WEIGHTS, summands + my_column * 4, first, TILE, all_seen, sight);
    }
    store_sums<1>(to, sums, memory, params, work, channel, channels);
}
