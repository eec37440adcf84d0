// The filters of heads as bands of a matrix: row i of output times column k of token is tap k - i.
//
// In the block's memory a band is the parts of its taps, one after another: OF_PART numbers of each part, with 15 zeros
// before the first tap and zeros after the last, so that tap k - i is number k - i + 15. A warp has a head to itself.
//
// f16 has too few exponents for any f32. All taps of a head are scaled by a power of two that brings the largest to
// between 2^14 and 2^15, and sums are scaled back. A tap is then off by 2^-23 of itself, or by 2^-36, which is 2^-50 of the
// largest: less than an f16 output can show where the largest is below 2. Otherwise, where a tap would be off by more than
// 2^-22 of itself, the head is left to multiply-adds; so it is where a tap is infinite or NaN. Taps given in f16 are exact.
// bf16 has the exponents of f32: in three parts a tap is off by 2^-26 of itself, or next to nothing.
#pragma once

#include "halves.cuh"
#include "mma.cuh"
#include "taps.cuh"

struct Head {
    // What sums are to be multiplied by.
    float unscale;
    // Whether its taps are not to be had in parts.
    unsigned plain;
    // Whether all taps are near enough in size that a sum over some of them can be divided by their total.
    unsigned even;
};

template <class X>
struct Scale;

template <>
struct Scale<f16> {
    static constexpr float PLAIN_FROM = 2.0f;
    // The power of two for taps of which this is the largest.
    static __device__ int power(float largest) {
        const int exponent = int(__float_as_uint(largest) >> 23) - 127;
        const int power = min(14 - exponent, 100);
        return largest <= 65504.0f ? max(power, 0) : power;
    }
};

template <>
struct Scale<bf16> {
    static constexpr float PLAIN_FROM = LARGEST;
    static __device__ int power(float) { return 0; }
};

__device__ inline float power_of_two(int power) { return __uint_as_float(unsigned(power + 127) << 23); }

// A band as matrices A for a lane: that of product n holds columns 16 n and on.
template <class X, unsigned PRODUCTS>
struct Band {
    // Numbers of a part, and of all.
    static constexpr unsigned OF_PART = (PRODUCTS + 1) * SIDE;
    static constexpr unsigned NUMBERS = TapParts<X>::COUNT * OF_PART;
    unsigned parts[TapParts<X>::COUNT][PRODUCTS][4];

    __device__ void load(const unsigned short* band) {
        const unsigned g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
        for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
            const unsigned short* numbers = band + part * OF_PART + SIDE - 1 + 2 * t - g;
            // By 8 columns: rows from 8 on have what the others have 8 columns before.
#pragma unroll
            for (int eighth = -1; eighth < 2 * int(PRODUCTS); eighth++) {
                const unsigned pair = numbers[8 * eighth] | unsigned(numbers[8 * eighth + 1]) << 16;
                if (eighth % 2 == 0) {
                    parts[part][eighth / 2][0] = parts[part][eighth / 2][3] = pair;
                    continue;
                }
                if (eighth > 0) {
                    parts[part][eighth / 2][2] = pair;
                }
                if (eighth + 1 < 2 * int(PRODUCTS)) {
                    parts[part][(eighth + 1) / 2][1] = pair;
                }
            }
        }
    }

    // The sums for 16 outputs of 8 channels, of the tokens in as many matrices.
    __device__ void convolve(float (&sums)[4], const unsigned (&tokens)[PRODUCTS][2]) const {
        float of_parts[TapParts<X>::COUNT][4] = {};
#pragma unroll
        for (unsigned n = 0; n < PRODUCTS; n++) {
#pragma unroll
            for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
                multiply_matrices<X>(of_parts[part], parts[part][n], tokens[n]);
            }
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            sums[i] = of_parts[TapParts<X>::COUNT - 1][i];
#pragma unroll
            for (unsigned part = TapParts<X>::COUNT - 1; part > 0; part--) {
                sums[i] = fmaf(sums[i], 1.0f / Half<X>::PRECISION, of_parts[part - 1][i]);
            }
        }
    }
};

// Of an output by products without the tokens that are infinite or NaN, and one by multiply-adds with them: where the latter
// is a number, there is no such token in the window, and the products are what they are without any such token near.
__device__ inline float chosen(bool left_over, float products, float plain) {
    return !left_over && fabsf(products) <= LARGEST && fabsf(plain) <= LARGEST ? products : plain;
}

// An output of two channels by multiply-adds, and whether its weights are not to be had in parts.
struct PlainSum {
    bool left_over;
    float2 value;
};

// Outputs lane / 4 and lane / 4 + 8 of a band in channels 2 (lane % 4) and the next of GROUPS groups of 8, one or two, of tokens
// that are loaded: the sums times `scale(half)`, and `start(half, group)`. Where one of them is no number, or `any_plain`, they
// are made again without tokens that are infinite or NaN, and as `plain(half, group)`, which tells which of the two is right.
// All lanes of a warp together.
template <class X, unsigned PRODUCTS, unsigned GROUPS, class Start, class Scale, class Plain>
__device__ void finish_band(float2 (&values)[GROUPS][2], unsigned (&tokens)[GROUPS][PRODUCTS][2],
                            const Band<X, PRODUCTS>& band, bool any_plain, Start start, Scale scale, Plain plain) {
    float sums[GROUPS][4];
    bool without = false;
#pragma unroll 1
    for (;;) {
        bool wanting = any_plain;
#pragma unroll
        for (unsigned group = 0; group < GROUPS; group++) {
            band.convolve(sums[group], tokens[group]);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                wanting |= !(fabsf(sums[group][i]) <= LARGEST);
            }
        }
        if (without || !__any_sync(0xffffffffu, wanting)) {
            break;
        }
        without = true;
#pragma unroll
        for (unsigned group = 0; group < GROUPS; group++) {
#pragma unroll
            for (unsigned n = 0; n < PRODUCTS; n++) {
                tokens[group][n][0] = finite<X>(tokens[group][n][0]);
                tokens[group][n][1] = finite<X>(tokens[group][n][1]);
            }
        }
    }
#pragma unroll
    for (unsigned group = 0; group < GROUPS; group++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const float2 from = start(half, group);
            values[group][half].x = fmaf(sums[group][2 * half], scale(half), from.x);
            values[group][half].y = fmaf(sums[group][2 * half + 1], scale(half), from.y);
        }
    }
    if (!without) {
        return;
    }
#pragma unroll 1
    for (unsigned i = 0; i < 2 * GROUPS; i++) {
        // The first of all, which then becomes the last.
        const PlainSum of = plain(i % 2, i / 2);
        const float2 value = make_float2(chosen(of.left_over, values[0][0].x, of.value.x),
                                         chosen(of.left_over, values[0][0].y, of.value.y));
#pragma unroll
        for (unsigned next = 1; next < 2 * GROUPS; next++) {
            values[(next - 1) / 2][(next - 1) % 2] = values[next / 2][next % 2];
        }
        values[GROUPS - 1][1] = value;
    }
}

// Writes the bands of heads whose taps are in memory, each by the warp that filled them.
template <class X, unsigned PRODUCTS>
__device__ void make_bands(const TapMemory& memory, unsigned heads, unsigned width, unsigned short* bands,
                           Head* about) {
    constexpr unsigned OF_PART = Band<X, PRODUCTS>::OF_PART, NUMBERS = Band<X, PRODUCTS>::NUMBERS;
    const unsigned lane = threadIdx.x % WARP;
    __syncwarp();
#pragma unroll 1
    for (unsigned head = threadIdx.x / WARP; head < heads; head += blockDim.x / WARP) {
        float largest = 0.0f;
        bool infinite = false, uneven = false, off = false;
#pragma unroll 1
        for (unsigned tap = lane; tap < width; tap += WARP) {
            const float size = fabsf(memory.at(head, tap));
            largest = fmaxf(largest, size);
            uneven = uneven || !(size >= 0x1p-20f);
        }
        largest = warp_largest(largest);
        const int power = Scale<X>::power(fminf(largest, LARGEST));
        const float scale = power_of_two(power);
#pragma unroll 1
        for (unsigned at = lane; at < OF_PART; at += WARP) {
            const unsigned tap = at - (SIDE - 1);
            const float weight = tap < width ? memory.at(head, tap) * scale : 0.0f;
            const TapParts<X> parts(weight);
            // Also where the first part is infinite and the weight is not.
            infinite = infinite || !(fabsf(number(parts.parts[0])) <= LARGEST);
            off = off || !(fabsf(parts.off) <= fabsf(weight) * (0x1p-22f * TapParts<X>::RAISED));
#pragma unroll
            for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
                bands[head * NUMBERS + part * OF_PART + at] = Half<X>::bits(parts.parts[part]);
            }
        }
        off = __any_sync(0xffffffffu, off);
        const bool plain = __any_sync(0xffffffffu, infinite) || off && largest >= Scale<X>::PLAIN_FROM;
        uneven = __any_sync(0xffffffffu, uneven);
        if (lane == 0) {
            about[head] = Head{power_of_two(-power), plain, !uneven};
        }
    }
}
