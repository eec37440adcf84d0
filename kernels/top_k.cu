// The k largest numbers of rows, and where they stand: values fall, and of equal ones that with the lower index comes first. NaN
// is larger than every number.
//
// module top_k
//
// A block has a row. The k largest are found one after another: each time the whole row is read, mostly from the second cache,
// and the largest taken of those that rank after the last one. A number and its index are one number of 64 bits, so that there is
// one order for all, and no order in which blocks or threads come can change it. Rows are read by units of 16 bytes, and what
// lies before the first whole one and after the last by single numbers.
//
// Floor and prediction, written before the first run on a GPU. 512 rows of 50,265 logits in bf16 on an H100 (3.0 TB/s), the five
// largest by their logarithmic softmax: 51 MB, 17 us. Six times that from the second cache (5.5 TB/s), 310 MB, is 56 us; eight
// operations a number each time are 1.2 G, 40 us of the integer pipes. Predicted: 90 to 130 us.

#include "shared/element.cuh"
#include "shared/reduced.cuh"

constexpr unsigned THREADS = 512;
constexpr unsigned WARPS = THREADS / 32;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one row to the next.
    unsigned long long x_stride;
    unsigned long long values_stride;
    unsigned vocabulary;
    unsigned k;
    unsigned has_values;
    unsigned log_softmax;
};

// The bits of a number that numbers are in the order of, with the largest for NaN, and the same for both zeros.
template <class X>
__device__ inline unsigned rank_of(X x) {
    const float value = number(x);
    const unsigned bits = __float_as_uint(value);
    const unsigned rank = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return value != value ? 0xffffffffu : value == 0.0f ? 0x80000000u : rank;
}

// A rank, and then the lower index.
__device__ inline unsigned long long key_of(unsigned rank, unsigned index) {
    return static_cast<unsigned long long>(rank) << 32 | ~index;
}

__device__ inline unsigned index_of(unsigned long long key) { return ~unsigned(key); }

__device__ inline unsigned long long largest_in_warp(unsigned long long key) {
#pragma unroll
    for (unsigned lanes = 16; lanes > 0; lanes /= 2) {
        key = max(key, __shfl_xor_sync(0xffffffffu, key, lanes));
    }
    return key;
}

// Calls `body` with each number of a row that is this thread's, and its index.
template <class X, class Body>
__device__ inline void for_each(const X* row, unsigned vocabulary, Body body) {
    constexpr unsigned EACH = 16 / sizeof(X);
    // Numbers before the first unit.
    const unsigned apart = unsigned(reinterpret_cast<unsigned long long>(row) / sizeof(X) % EACH);
    const unsigned head = min(vocabulary, (EACH - apart) % EACH);
    const unsigned units = (vocabulary - head) / EACH;
    const unsigned tail = head + units * EACH;
    if (threadIdx.x < head) {
        body(__ldg(row + threadIdx.x), threadIdx.x);
    }
#pragma unroll 1
    for (unsigned unit = threadIdx.x; unit < units; unit += THREADS) {
        const unsigned first = head + unit * EACH;
        const uint4 words = __ldg(reinterpret_cast<const uint4*>(row + first));
        const X* numbers = reinterpret_cast<const X*>(&words);
#pragma unroll
        for (unsigned n = 0; n < EACH; n++) {
            body(numbers[n], first + n);
        }
    }
    if (threadIdx.x < vocabulary - tail) {
        body(__ldg(row + tail + threadIdx.x), tail + threadIdx.x);
    }
}

template <class X>
__device__ inline void top_k(const X* x, float* values, unsigned* tokens, const Params& params) {
    __shared__ unsigned long long keys[WARPS];
    __shared__ float sums[WARPS];
    const X* const row = x + blockIdx.x * params.x_stride;
    unsigned* const to_tokens = tokens + static_cast<unsigned long long>(blockIdx.x) * params.k;
    float* const to_values = values + blockIdx.x * params.values_stride;
    // What is taken next is less than the last.
    unsigned long long last = ~0ull;
    float largest = 0.0f, log_sum = 0.0f;
#pragma unroll 1
    for (unsigned j = 0; j < params.k; j++) {
        unsigned long long best = 0;
        for_each(row, params.vocabulary, [&](X x, unsigned index) {
            const unsigned long long key = key_of(rank_of(x), index);
            // The first of all may be a NaN at index 0, whose key is the largest there is.
            best = key > best && (key < last || j == 0) ? key : best;
        });
        best = largest_in_warp(best);
        if (threadIdx.x % 32 == 0) {
            keys[threadIdx.x / 32] = best;
        }
        __syncthreads();
        last = keys[0];
#pragma unroll 1
        for (unsigned warp = 1; warp < WARPS; warp++) {
            last = max(last, keys[warp]);
        }
        __syncthreads();
        if (params.log_softmax != 0 && j == 0) {
            largest = number(__ldg(row + index_of(last)));
            float sum = 0.0f;
            for_each(row, params.vocabulary, [&](X x, unsigned) { sum += expf(number(x) - largest); });
            log_sum = logf(reduced_in_block<WARPS>(sum, sums, [](float a, float b) { return a + b; }));
        }
        if (threadIdx.x == 0) {
            const unsigned index = index_of(last);
            to_tokens[j] = index;
            if (params.has_values != 0) {
                const float value = number(__ldg(row + index));
                to_values[j] = params.log_softmax != 0 ? value - largest - log_sum : value;
            }
        }
    }
}

#define ENTRY(NAME, X)                                                                                                 \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(const X* __restrict__ x, float* __restrict__ values,    \
                                                               unsigned* __restrict__ tokens,                          \
                                                               const __grid_constant__ Params params) {                \
        top_k<X>(x, values, tokens, params);                                                                           \
    }

ENTRY(top_k_f32, f32)
ENTRY(top_k_f16, f16)
ENTRY(top_k_bf16, bf16)
