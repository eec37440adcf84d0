// Values weighted with f32 numbers between 0 and 1, on tensor cores.
//
// A weight is as many 16-bit numbers as it takes to be as good as in f32: bf16 has 8 bits, so three, whatever the size of
// the weight. f16 has 11 bits and few exponents: two, of weights that are raised by 2^14. They are the weight to 23 bits
// from 2^-16 on, and below to 2^-39 of the largest that there can be, which times the largest value of f16 is far under the
// least that is normal. (Two parts of bf16 are off by up to 2^-17 of a term, a hundred times what an f32 sum of few terms
// may be off, and it shows where terms cancel.)
//
// A product multiplies what a query does not see by zero, and zero times a value that is infinite or NaN is NaN. So where a
// sum is no number, the block makes its sums again from values without such numbers, and then sees which outputs have one
// in sight: as sums of ones where the value is +infinity or NaN, and once more for -infinity. In sight is what a query sees,
// however small its weight; where scores are at hand, but for a score of -infinity.
#pragma once

#include "attention.cuh"
#include "halves.cuh"
#include "parts.cuh"
#include "store_tile.cuh"
#include "matrix_rows.cuh"

// The four matrices of a 16 x 16 tile of weights, in parts.
template <class X>
struct WeightParts;

template <>
struct WeightParts<bf16> {
    static constexpr unsigned COUNT = 3;
    // Weights are raised by two to the power of this.
    static constexpr float RAISE = 0.0f;
    unsigned of[COUNT][4];

    __device__ void set(unsigned n, float2 weights) {
        const Parts all = parts(weights);
        of[0][n] = all.high, of[1][n] = all.middle, of[2][n] = all.low;
    }
};

template <>
struct WeightParts<f16> {
    static constexpr unsigned COUNT = 2;
    static constexpr float RAISE = 14.0f;
    unsigned of[COUNT][4];

    __device__ void set(unsigned n, float2 weights) {
        const __half2 high = __float22half2_rn(weights);
        const float2 rounded = __half22float2(high);
        const __half2 low = __float22half2_rn(make_float2(weights.x - rounded.x, weights.y - rounded.y));
        of[0][n] = *reinterpret_cast<const unsigned*>(&high);
        of[1][n] = *reinterpret_cast<const unsigned*>(&low);
    }
};

// Adds to 16 x WIDTH sums the values of 16 rows from `row` on, a multiple of 16, weighted.
template <class X, unsigned WIDTH>
__device__ void add_weighted(float (&sums)[WIDTH / 8][4], const WeightParts<X>& weights, const unsigned char* values,
                             unsigned row) {
    const unsigned lane = thread_anew() % 32;
    const unsigned memory = unsigned(__cvta_generic_to_shared(values));
    const unsigned first = place<X, WIDTH>(lane % 16, lane / 16 * 8);
#pragma unroll
    for (unsigned n = 0; n < WIDTH / 8; n += 2) {
        unsigned columns[2][2];
        load_columns(columns, memory + (first ^ place<X, WIDTH>(row, n * 8)));
#pragma unroll
        for (unsigned part = 0; part < WeightParts<X>::COUNT; part++) {
            multiply_matrices<X>(sums[n], weights.of[part], columns[0]);
            multiply_matrices<X>(sums[n + 1], weights.of[part], columns[1]);
        }
    }
}

// What a walk over the values makes: sums of them as they are, of those that are numbers, or of ones in the place of those
// that are infinite or NaN.
constexpr unsigned ALL = 0;
constexpr unsigned FINITE = 1;
constexpr unsigned ABOVE = 2;
constexpr unsigned BELOW = 3;

template <class X>
__device__ unsigned changed(unsigned bits, unsigned walk) {
    constexpr unsigned INFINITE = Half<X>::EXPONENTS & 0xffffu;
    const bool is_finite = (bits & INFINITE) != INFINITE;
    if (walk == FINITE) {
        return is_finite ? bits : 0;
    }
    const bool is_nan = !is_finite && (bits & 0x7fffu) != INFINITE;
    const bool counts = is_nan || bits == (walk == ABOVE ? INFINITE : INFINITE | 0x8000u);
    return counts ? Half<X>::bits(Half<X>::rounded(1.0f)) : 0;
}

// Makes of BYTES of values what a walk wants. All threads of the block take part, and wait for one another afterwards.
template <class X, unsigned BYTES, unsigned THREADS>
__device__ void change(unsigned char* values, unsigned walk) {
#pragma unroll 1
    for (unsigned at = threadIdx.x; at < BYTES / sizeof(unsigned); at += THREADS) {
        unsigned* word = reinterpret_cast<unsigned*>(values) + at;
        *word = changed<X>(*word & 0xffffu, walk) | changed<X>(*word >> 16, walk) << 16;
    }
}

// Puts +infinity, -infinity or NaN where one is in sight of an output: `count` is of the walk ABOVE, or of BELOW, which
// comes after it.
template <class X>
__device__ void set_infinite(X* y, float count, unsigned walk) {
    if (count > 0.0f) {
        const bool both = walk == BELOW && number(*y) == infinity();
        *y = Half<X>::rounded(both ? infinity() - infinity() : walk == ABOVE ? infinity() : -infinity());
    }
}

// Whether the sums of row i of a lane's two are numbers.
template <unsigned SUMS>
__device__ bool are_finite(const float (&sums)[SUMS][4], unsigned i) {
    // Zero times a number is zero.
    float check = 0.0f;
#pragma unroll
    for (unsigned n = 0; n < SUMS; n++) {
        check = fmaf(sums[n][2 * i], 0.0f, check);
        check = fmaf(sums[n][2 * i + 1], 0.0f, check);
    }
    return check == 0.0f;
}

// Stores a warp's 16 rows from `warp_row` on: sums times `scale` where they are used, and zero elsewhere; or what a walk
// that counts found out. The strip is for this warp alone, and nobody needs what lies there.
template <class X, unsigned WIDTH>
__device__ void store_weighted(const Outputs<X>& outputs, unsigned char* strip, unsigned warp_row, unsigned walk,
                               const float (&sums)[WIDTH / 8][4], const float (&scale)[2], const bool (&used)[2]) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        const float by = walk > FINITE ? 1.0f : scale[i];
#pragma unroll
        for (unsigned n = 0; n < WIDTH / 8; n++) {
            const float2 values = make_float2(used[i] ? sums[n][2 * i] * by : 0.0f,
                                              used[i] ? sums[n][2 * i + 1] * by : 0.0f);
            *reinterpret_cast<typename Pair<X>::Word*>(
                strip + place<X, WIDTH>(lane / 4 + 8 * i, n * 8 + lane % 4 * 2)) = Pair<X>::rounded(values);
        }
    }
    __syncwarp();
    if (walk <= FINITE) {
        store_rows<SIDE, WIDTH>(outputs, strip, warp_row, 0);
        return;
    }
#pragma unroll 1
    for (unsigned at = lane; at < SIDE * WIDTH; at += 32) {
        const unsigned row = at / WIDTH, channel = at % WIDTH;
        if (warp_row + row < outputs.rows && channel < outputs.columns) {
            const float count = number(*reinterpret_cast<const X*>(strip + place<X, WIDTH>(row, channel)));
            set_infinite(outputs.first + (warp_row + row) * outputs.stride + channel, count, walk);
        }
    }
}
