// Naive attention: scores of all queries and keys in memory, softmax in place, values by their weights; q, k, v and y of 16
// bits, scores of f32.
//
// module attention_naive_f16 TOKEN=f16
// module attention_naive_bf16 TOKEN=bf16
//
// The baseline that people write, as `attention_naive.cu` says, on tensor cores: scores by tiles of 128 queries and 128 keys,
// one product (`shared/product.cuh`); values by tiles of 128 queries and 64 channels, 32 keys after 32, with weights of two or
// three parts (`shared/weighted.cuh`, also for what happens where a value is infinite or NaN).
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, 16 heads of 64 channels, on an
// H100 (494 T multiply-adds/s of 16 bits, 3.0 TB/s): 275 G multiply-adds are 0.56 ms; scores are 8.6 GB, written, read,
// written and read, 11.5 ms. Products, four times 137 G at mma.sync's 0.6 of the peak, are 1.9 ms under that. Predicted:
// scores 3 to 3.5 ms, softmax 6 to 7, values 3 to 3.8, 12 to 14 ms in all. (PyTorch keeps scores of 16 bits: half the bytes,
// and weights that are off by 2^-9.)

#include "shared/naive_attention.cuh"
#include "shared/product.cuh"
#include "shared/store_tile.cuh"
#include "shared/weighted.cuh"
#include "shared/matrix_rows.cuh"

using Params = NaiveAttention;

// The logarithms of the weights to the base two, of 128 queries and 128 keys: those that no query of the tile sees are not
// made.
template <class X>
__device__ void make_scores(const X* q, const X* k, const uint4* query_list, const uint4* key_list, float* scores,
                            const Params& params) {
    using Tile = Shape<128, 128, 2, 2>;
    // Three would leave no room for what the block knows of its work.
    constexpr unsigned STAGES = 2;
    constexpr unsigned SLAB_BYTES = Tile::ROWS * DEPTH * sizeof(X);
    constexpr unsigned BYTES = STAGES * 2 * SLAB_BYTES;
    __shared__ uint4 memory[BYTES / sizeof(uint4)];
    __shared__ Work shared_work;
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
    const int first_key = int(work.part * Tile::COLUMNS);
    if (first_key >= work.seen.end || first_key + int(Tile::COLUMNS) <= work.seen.begin) {
        return;
    }
    const unsigned channels = attention.head_channels;
    const unsigned keys = unsigned(work.keys - first_key);
    const unsigned long long key_row = work.first_key + static_cast<unsigned long long>(first_key);
    Stager<X, Tile::ROWS, Tile::THREADS> query_slabs(
        {q + work.first_query * attention.q_stride + work.head * channels, attention.q_stride, unsigned(work.queries),
         channels, attention.q_unit});
    Stager<X, Tile::COLUMNS, Tile::THREADS> key_slabs(
        {k + key_row * attention.k_stride + work.head * channels, attention.k_stride, keys, channels, attention.k_unit});
    Product<X, X, Tile> product;
    product.clear();
    stream_slabs<STAGES>(
        (channels + DEPTH - 1) / DEPTH,
        [&](unsigned stage, unsigned slab) {
            query_slabs.copy(bytes + stage * 2 * SLAB_BYTES, slab * DEPTH);
            key_slabs.copy(bytes + (stage * 2 + 1) * SLAB_BYTES, slab * DEPTH);
        },
        [&](unsigned stage) {
            product.add(SlabRows<Tile>{bytes + stage * 2 * SLAB_BYTES}, bytes + (stage * 2 + 1) * SLAB_BYTES);
        });
    // The last slab was used by all.
    __syncthreads();
    const Outputs<float> outputs = {scores + first_score(params, work) + first_key, params.score_stride,
                                    unsigned(work.queries), keys, params.score_unit};
    store_tile<BYTES>(bytes, product, outputs, [&](unsigned) {
        return [&](unsigned, float2 sums) {
            return make_float2(sums.x * attention.scale, sums.y * attention.scale);
        };
    });
}

// What weights are raised by.
template <class X>
constexpr float RAISED = WeightParts<X>::RAISE == 0.0f ? 1.0f : 16384.0f;

// The weight that a walk gives a key: none if it is not seen; a walk that counts, one.
__device__ inline float weight_of(float weight, unsigned walk) {
    if (walk > FINITE) {
        return weight >= 0.0f ? 1.0f : 0.0f;
    }
    return weight == UNSEEN ? 0.0f : weight;
}

// The weighted values of 128 queries, in WIDTH channels. A warp has 16 queries.
template <class X, unsigned WIDTH>
__device__ void add_values(const float* scores, const X* v, const uint4* query_list, const uint4* key_list, X* y,
                           const Params& params) {
    constexpr unsigned WARPS = 8, KEYS = 32;
    constexpr unsigned WEIGHT_BYTES = SIDE * WARPS * KEYS * sizeof(float);
    constexpr unsigned VALUE_BYTES = KEYS * WIDTH * sizeof(X);
    constexpr unsigned BYTES = 2 * (WEIGHT_BYTES + VALUE_BYTES);
    __shared__ uint4 memory[BYTES / sizeof(uint4)];
    __shared__ Work shared_work;
    __shared__ Reach reaches[WARPS];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    const Attention& attention = params.attention;
    if (threadIdx.x == 0) {
        shared_work = work_of(attention, query_list, key_list);
    }
    __syncthreads();
    const Work& work = shared_work;
    if (work.rows == 0) {
        return;
    }
    const unsigned lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * SIDE;
    if (lane == 0) {
        reaches[threadIdx.x / 32] = reach_of(attention, work, int(warp_row), int(SIDE));
    }
    const unsigned channels = min(WIDTH, attention.head_channels - work.part * WIDTH);
    const unsigned first_channel = work.head * attention.head_channels + work.part * WIDTH;
    // From a whole number of tiles on, so that rows of scores are read by whole units.
    const int begin = work.seen.begin / int(KEYS) * int(KEYS);
    const auto copy_tile = [&](int key, unsigned char* to) {
        const Matrix<float> weights = {scores + first_score(params, work) + key, params.score_stride,
                                       unsigned(work.queries), unsigned(work.keys - key), params.score_unit};
        copy_rows<float, KEYS>(to, weights, SIDE * WARPS);
        const unsigned long long row = work.first_key + static_cast<unsigned long long>(key);
        const Matrix<X> values = {v + row * attention.v_stride + first_channel, attention.v_stride,
                                  unsigned(work.seen.end - key), channels, attention.v_unit};
        copy_rows<X, WIDTH>(to + WEIGHT_BYTES, values, KEYS);
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
        unsigned turn = 0;
#pragma unroll 1
        for (int key = begin - int(KEYS); key < work.seen.end; key += int(KEYS), turn ^= 1) {
            wait_for_copies();
            // This tile is there for all, and the one before it was used by all.
            __syncthreads();
            if (key + int(KEYS) < work.seen.end) {
                copy_tile(key + int(KEYS), bytes + turn * (BYTES / 2));
            }
            if (key < begin) {
                continue;
            }
            unsigned char* const weights = bytes + (turn ^ 1) * (BYTES / 2);
            unsigned char* const values = weights + WEIGHT_BYTES;
            if (walk != ALL) {
                change<X, VALUE_BYTES, 32 * WARPS>(values, walk);
                __syncthreads();
            }
            const Reach reach = reaches[threadIdx.x / 32];
            if (key >= reach.end || key + int(KEYS) <= reach.begin) {
                continue;
            }
            const unsigned first = place<float, KEYS>(warp_row + lane / 4, lane % 4 * 2);
#pragma unroll
            for (unsigned n = 0; n < KEYS; n += SIDE) {
                WeightParts<X> parts;
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    const unsigned char* from = weights + (first ^ place<float, KEYS>(0, n + i / 2 * 8)) +
                                                i % 2 * place<float, KEYS>(8, 0);
                    float2 pair = *reinterpret_cast<const float2*>(from);
                    pair.x = weight_of(pair.x, walk), pair.y = weight_of(pair.y, walk);
                    parts.set(i, make_float2(pair.x * RAISED<X>, pair.y * RAISED<X>));
                }
                add_weighted<X, WIDTH>(sums, parts, values, n);
            }
        }
        // Queries that see a key: the outputs of the others are zero.
        bool used[2];
        bool wanting = false;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const int row = int(warp_row + lane / 4 + 8 * i);
            const Seen seen = seen_by(attention, work, row);
            used[i] = row < work.queries && seen.begin < seen.end;
            wanting |= used[i] && !are_finite(sums, i);
        }
        // All have done with the last tile, too.
        const bool again = __syncthreads_or(wanting);
        if (walk == ALL && again) {
            continue;
        }
        const Outputs<X> outputs = {y + work.first_query * attention.y_stride + first_channel, attention.y_stride,
                                    unsigned(work.rows), channels, attention.y_unit};
        const float scale[2] = {1.0f / RAISED<X>, 1.0f / RAISED<X>};
        unsigned char* const strip = bytes + warp_row * unsigned(WIDTH * sizeof(X));
        store_weighted<X, WIDTH>(outputs, strip, warp_row, walk, sums, scale, used);
        if (walk == ALL || walk == BELOW) {
            return;
        }
        __syncthreads();
    }
}

extern "C" __global__ __launch_bounds__(128, 2) void attention_scores(
    const TOKEN* __restrict__ q, const TOKEN* __restrict__ k, const uint4* __restrict__ query_list,
    const uint4* __restrict__ key_list, float* __restrict__ scores, const __grid_constant__ Params params) {
    make_scores(q, k, query_list, key_list, scores, params);
}

extern "C" __global__ __launch_bounds__(256, 2) void attention_values(
    const float* __restrict__ scores, const TOKEN* __restrict__ v, const uint4* __restrict__ query_list,
    const uint4* __restrict__ key_list, TOKEN* __restrict__ y, const __grid_constant__ Params params) {
    add_values<TOKEN, 64>(scores, v, query_list, key_list, y, params);
}
