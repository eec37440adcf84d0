// What the kernels of attention's backward pass have in common: what they are told, slabs of rows and columns, products of
// them, and sums of rows.
#pragma once

#include "attention.cuh"
#include "naive_attention.cuh"
#include "online_softmax.cuh"
#include "plain_values.cuh"
#include "typed.cuh"

// Rows of a tile, and columns.
constexpr unsigned TILE = 4 * SIDE;
constexpr unsigned SLAB = TILE * PITCH;
constexpr unsigned WEIGHTS = weight_pitch(TILE);

// The numbers of a call, in this order; the plan fills them. Its queries are rows and its keys columns: q_stride is that of
// the rows and k_stride that of the columns that scores are made of, v_stride that of what is weighted, y_stride that of the
// gradient.
struct Params {
    Attention attention;
    // Elements from one row to the next, of what gradients of scores are made of.
    unsigned long long row_gradient_stride;
    unsigned long long column_gradient_stride;
    // From one row of scores to the next, and rows of a head, in memory.
    unsigned long long score_stride;
    unsigned long long score_rows;
    // What sums are multiplied by.
    float factor;
    // 0: f32, 1: f16, 2: bf16.
    unsigned type;
    // Whether scores are made, or their gradients; whether columns are queries.
    unsigned has_scores;
    unsigned has_gradients;
    unsigned by_key;
    // Whether all rows are whole quads, each aligned to its size.
    unsigned wide;
};

// Brings in four numbers of a row that is there, or what is there of them; zero where nothing is.
__device__ inline void stage_some(float* to, const Typed& tensor, unsigned wide, bool there, unsigned row, unsigned channel,
                                  unsigned count) {
    if (wide != 0 || !there) {
        *reinterpret_cast<float4*>(to) = there ? quad_at(tensor, row, channel) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        return;
    }
#pragma unroll 1
    for (unsigned n = 0; n < 4; n++) {
        to[n] = n < count ? number_at(tensor, row, channel + n) : 0.0f;
    }
}

// Brings in DEPTH channels from `channel` on of TILE rows, of which `rows` are there, and `channels` channels.
__device__ inline void stage_slab(float* to, const Typed& tensor, unsigned wide, unsigned first_row, unsigned rows,
                                  unsigned channel, unsigned channels) {
    constexpr unsigned QUADS = DEPTH / 4;
    static_assert(TILE * QUADS == THREADS, "a quad for each thread");
    const unsigned row = spread(threadIdx.x / QUADS), at = threadIdx.x % QUADS * 4;
    stage_some(to + row * PITCH + at, tensor, wide, row < rows && at < channels, first_row + row, channel + at,
               channels - at);
}

// Brings in `count` rows of WIDTH channels without a gap.
template <unsigned WIDTH>
__device__ void stage_values(float* to, unsigned count, const Typed& tensor, unsigned wide, unsigned first_row,
                             unsigned rows, unsigned channel, unsigned channels) {
#pragma unroll 1
    for (unsigned unit = threadIdx.x; unit < count * WIDTH / 4; unit += THREADS) {
        const unsigned row = unit / (WIDTH / 4), at = unit % (WIDTH / 4) * 4;
        stage_some(to + unit * 4, tensor, wide, row < rows && at < channels, first_row + row, channel + at, channels - at);
    }
}

// What scores, or their gradients, are products of.
struct Factors {
    Typed rows;
    Typed columns;

    // Adds the products of all channels of a head, for the tile of columns from `first` on; `slabs` has room for two.
    __device__ void add(float (&sums)[4][4], float* slabs, const Params& params, const Work& work, int first) const {
        const unsigned channels = params.attention.head_channels, head = work.head * channels;
        const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE;
#pragma unroll 1
        for (unsigned channel = 0; channel < channels; channel += DEPTH) {
            __syncthreads();
            stage_slab(slabs, rows, params.wide, work.first_query, unsigned(work.queries), head + channel,
                       channels - channel);
            stage_slab(slabs + SLAB, columns, params.wide, work.first_key + unsigned(first),
                       unsigned(work.seen.end - first), head + channel, channels - channel);
            __syncthreads();
            add_products<DEPTH, SIDE, SIDE>(sums, slabs + my_row * PITCH, slabs + SLAB + my_column * PITCH);
        }
    }
};

__device__ inline void clear(float (&sums)[4][4]) {
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            sums[i][j] = 0.0f;
        }
    }
}

// What is known of each head and query: planes of numbers.
struct Statistics {
    float* numbers;
    // Of a plane: heads times queries.
    unsigned long long plane;

    __device__ float& largest(unsigned long long at) const { return numbers[at]; }
    // One over the total.
    __device__ float& share(unsigned long long at) const { return numbers[plane + at]; }
    __device__ float& mean(unsigned long long at) const { return numbers[2 * plane + at]; }
};

// The columns that a thread's rows see.
struct Sight {
    Seen rows[4];

    __device__ Sight(const Attention& attention, const Work& work) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            rows[i] = seen_by(attention, work, int(threadIdx.x / SIDE + i * SIDE));
        }
    }

    __device__ bool has(unsigned i, int column) const { return column >= rows[i].begin && column < rows[i].end; }
};

// Adds `count` columns from `column` on, a multiple of four: those that a row sees, weighted.
template <unsigned QUADS>
__device__ void add_seen(float4 (&sums)[4][QUADS], const float* weights, const float* values, int column, unsigned count,
                         bool all_seen, const Sight& sight) {
    if (all_seen) {
        add_values<QUADS, WEIGHTS>(sums, weights, values, count, true);
        return;
    }
#pragma unroll 1
    for (unsigned n = 0; n < count; n++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (!sight.has(i, column + int(n))) {
                continue;
            }
            const float weight = weights[i * SIDE * WEIGHTS + n];
#pragma unroll
            for (unsigned c = 0; c < QUADS; c++) {
                multiply_add(sums[i][c], weight, *reinterpret_cast<const float4*>(values + n * (QUADS * 64) + c * 64));
            }
        }
    }
}

// Stores the thread's sums: zero where a row sees nothing, or is padding.
template <unsigned QUADS>
__device__ void store_sums(void* to, const float4 (&sums)[4][QUADS], float4* memory, const Params& params,
                           const Work& work, unsigned channel, unsigned channels) {
    // All have done with what lies there.
    __syncthreads();
    // Through memory of the thread's own: a loop over registers would be as many times the text.
    float4* const mine = memory + threadIdx.x;
    const unsigned my_row = threadIdx.x / SIDE, my_column = threadIdx.x % SIDE * 4;
#pragma unroll 1
    for (unsigned turn = 0; turn < 4; turn++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (i != turn) {
                continue;
            }
#pragma unroll
            for (unsigned c = 0; c < QUADS; c++) {
                const float4& quad = sums[i][c];
                const float by = params.factor;
                mine[c * THREADS] = make_float4(quad.x * by, quad.y * by, quad.z * by, quad.w * by);
            }
        }
        const int row = int(my_row + turn * SIDE);
        const Seen seen = seen_by(params.attention, work, row);
        const bool used = row < work.queries && seen.begin < seen.end;
        const unsigned long long first = (work.first_query + unsigned(row)) * params.attention.y_stride + channel;
#pragma unroll 1
        for (unsigned c = 0; c < QUADS; c++) {
            const unsigned at = my_column + c * 64;
            if (row >= work.rows || at >= channels) {
                continue;
            }
            if (params.wide != 0) {
                const float4 quad = used ? mine[c * THREADS] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                store_quad(to, params.type, first + at, quad);
                continue;
            }
            const float* numbers = reinterpret_cast<const float*>(&mine[c * THREADS]);
#pragma unroll 1
            for (unsigned n = 0; n < min(4, channels - at); n++) {
                store_number(to, params.type, first + at + n, used ? numbers[n] : 0.0f);
            }
        }
    }
}
