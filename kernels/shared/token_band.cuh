// Filters of 16 outputs as a band of a matrix: row i of output times column k of token is tap k - i of output i.
//
// A warp has the logits of 16 outputs of one phase and one head, in f32. It makes the matrices of their band, and then, for
// each 8 channels of the head, their sums: `ceil((K + 15) / 16)` products for each of the parts that a tap is made of
// (`band.cuh`, where all outputs have one filter). A lane has taps of two outputs, and those of an output lie with four
// lanes, each once: a softmax needs two exchanges, and what the matrices hold is e^(logit - largest), of which the sums are
// divided by the total. f16 has a power of two for each output.
//
// Lanes read the logits where they lie in the block's memory, `tap` of output `row` at logits[row * pitch + tap]. Where the
// pitch is 5 more than a multiple of 8, no bank is met twice.
//
// Taps that are out of range are zeros of the band by selection, whatever their logits, and those tokens are zeros too. Of
// tokens, logits and taps that are infinite or NaN the sums tell, as they do in `light_conv_toeplitz.cu`: where one of them
// is not a number, they are made again without such tokens, and each output that has one in its window is made by
// multiply-adds, as are those whose taps parts cannot hold. An output has a row of the matrix for itself: its taps cannot
// spoil another.
#pragma once

#include "band.cuh"
#include "convolve.cuh"

// Of an output, what its lanes know.
struct TokenTaps {
    // Those in range.
    Taps in_range;
    // What is taken from its logits before e is raised to them.
    float largest;
    // What sums of its weights, so far as they are normalised, are to be multiplied by, and what those of the band.
    float scale;
    float band_scale;
    // Whether its weights are not to be had in parts.
    bool plain;
};

// Among the four lanes that have an output.
__device__ inline float largest_of_four(float number) {
    number = fmaxf(number, __shfl_xor_sync(0xffffffffu, number, 1));
    return fmaxf(number, __shfl_xor_sync(0xffffffffu, number, 2));
}

__device__ inline float total_of_four(float number) {
    number += __shfl_xor_sync(0xffffffffu, number, 1);
    return number + __shfl_xor_sync(0xffffffffu, number, 2);
}

// The number at an address of the block's memory, where there is one: without a branch.
__device__ inline float load_if(bool exists, unsigned address, float otherwise) {
    asm volatile("{ .reg .pred there; setp.ne.u32 there, %2, 0; @there ld.shared.f32 %0, [%1]; }"
                 : "+f"(otherwise)
                 : "r"(address), "r"(unsigned(exists))
                 : "memory");
    return otherwise;
}

// Bytes from an output to the next in the memory of what dropout keeps: a byte of four taps each.
constexpr unsigned KEPT_PITCH = 36;
constexpr unsigned KEPT_BYTES = SIDE * KEPT_PITCH;

// The logits of 16 outputs of a head.
struct Logits {
    const float* numbers;
    unsigned pitch;
    // Taps K: at most 16 (PRODUCTS - 1) + 1.
    unsigned width;
    unsigned normalize;
    Dropout dropout;
    unsigned head;
    // The row of the first output's token, and how many rows are from one to the next.
    unsigned token;
    unsigned token_step;
    // KEPT_BYTES of the warp's own memory, while the band is made.
    unsigned char* kept;

    // Puts what dropout keeps into memory: all lanes of a warp together.
    __device__ void mark_kept() const {
        const unsigned quads = (width + 3) / 4;
#pragma unroll 1
        for (unsigned item = threadIdx.x % WARP; item < SIDE * quads; item += WARP) {
            const unsigned output = item / quads, quad = item - output * quads;
            kept[output * KEPT_PITCH + quad] =
                static_cast<unsigned char>(dropout.kept(token + output * token_step, head, quad));
        }
        __syncwarp();
    }

    __device__ bool is_kept(unsigned output, unsigned tap) const {
        return dropout.threshold == 0 || (dropout.kept(token + output * token_step, head, tap / 4) >> tap % 4 & 1) != 0;
    }
};

template <class X, unsigned PRODUCTS>
struct TokenBand {
    Band<X, PRODUCTS> band;
    // Of outputs lane / 4 and lane / 4 + 8.
    TokenTaps taps[2];

    // All lanes of a warp together. `in_range(output)` says the taps of it that are in range: none, for one that there is
    // not, and then its logits are not read.
    template <class InRange>
    __device__ void load(const Logits& logits, InRange in_range) {
        if (logits.dropout.threshold != 0) {
            logits.mark_kept();
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            load_half(half, logits, in_range(threadIdx.x % WARP / 4 + 8 * half));
        }
        // What was marked is read.
        __syncwarp();
    }

    __device__ void load_half(unsigned half, const Logits& logits, Taps in_range) {
        // Eights of columns in which there are taps of these outputs: the others have theirs 8 columns later.
        constexpr unsigned EIGHTS = 2 * PRODUCTS - 1;
        // Whether weights are scaled so that their parts hold them: three parts hold any.
        constexpr bool SCALED = TapParts<X>::COUNT < 3;
        const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const bool normal = logits.normalize != NONE;
        const unsigned taps_in_range = in_range.begin < in_range.end ? in_range.end - in_range.begin : 0;
        // Those that are read.
        const bool all = logits.normalize == SOFTMAX && taps_in_range > 0;
        const Taps some = all ? Taps{0, logits.width} : Taps{in_range.begin, in_range.begin + taps_in_range};
        // The lane's first tap, and the next; neighbouring outputs read the one and the other first.
        const int first = 2 * t - g, odd = g % 2;
        const unsigned row = unsigned(__cvta_generic_to_shared(logits.numbers)) +
                             4 * ((g + 8 * half) * logits.pitch + unsigned(first));
        const unsigned from[2] = {row + 4 * odd, row + 4 - 4 * odd};
        const unsigned place[2] = {unsigned(first + odd) - some.begin, unsigned(first + 1 - odd) - some.begin};
        const unsigned count = some.end - some.begin;

        float2 weights[EIGHTS];
        float largest = LOWEST, size = 0.0f;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            const float otherwise = normal ? __int_as_float(0xff800000) : 0.0f;
            const float one = load_if(place[0] + 8 * eight < count, from[0] + 32 * eight, otherwise);
            const float other = load_if(place[1] + 8 * eight < count, from[1] + 32 * eight, otherwise);
            largest = fmaxf(largest, fmaxf(one, other));
            if (SCALED) {
                size = fmaxf(size, fmaxf(fabsf(one), fabsf(other)));
            }
            weights[eight] = odd != 0 ? make_float2(other, one) : make_float2(one, other);
        }
        TokenTaps& of = taps[half];
        of = TokenTaps{{in_range.begin, in_range.begin + taps_in_range}, 0.0f, 1.0f, 1.0f, false};
        if (normal) {
            of.largest = largest_of_four(largest);
            float total = 0.0f;
#pragma unroll
            for (unsigned eight = 0; eight < EIGHTS; eight++) {
                float2& pair = weights[eight];
                pair = make_float2(exponential(pair.x - of.largest), exponential(pair.y - of.largest));
                total += pair.x + pair.y;
            }
            total = total_of_four(total);
            // Where no tap is in range there is none to divide.
            of.scale = taps_in_range > 0 ? 1.0f / total : 0.0f;
            size = 1.0f;
            // Taps that are part of the softmax, and out of range.
            if (__any_sync(0xffffffffu, all && taps_in_range < logits.width)) {
                const unsigned tap = unsigned(first) - in_range.begin;
#pragma unroll
                for (unsigned eight = 0; eight < EIGHTS; eight++) {
                    weights[eight].x = tap + 8 * eight < taps_in_range ? weights[eight].x : 0.0f;
                    weights[eight].y = tap + 1 + 8 * eight < taps_in_range ? weights[eight].y : 0.0f;
                }
            }
        } else if (SCALED) {
            size = largest_of_four(size);
        }
        if (logits.dropout.threshold != 0) {
            const unsigned char* const kept = logits.kept + (unsigned(g) + 8 * half) * KEPT_PITCH;
            const auto is_kept = [&](unsigned tap) {
                return tap - in_range.begin < taps_in_range && (kept[tap / 4] >> tap % 4 & 1) != 0;
            };
            bool any = false;
#pragma unroll
            for (unsigned eight = 0; eight < EIGHTS; eight++) {
                const unsigned tap = unsigned(first) + 8 * eight;
                const bool is[2] = {is_kept(tap), is_kept(tap + 1)};
                weights[eight].x = is[0] ? weights[eight].x : 0.0f;
                weights[eight].y = is[1] ? weights[eight].y : 0.0f;
                any = any || is[0] || is[1];
            }
            // What is all dropped is zero, whatever it was normalised by.
            of.scale = total_of_four(any ? 1.0f : 0.0f) > 0.0f ? of.scale * logits.dropout.scale : 0.0f;
        }
        float raised = 1.0f;
        of.band_scale = of.scale;
        if (SCALED) {
            const int power = Scale<X>::power(fminf(size, LARGEST));
            raised = power_of_two(power);
            of.band_scale = of.scale * power_of_two(-power);
        }
        bool off = false;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            float2 weight = weights[eight];
            if (SCALED) {
                weight = make_float2(weight.x * raised, weight.y * raised);
            }
            const PairParts<X> pair(weight);
            off = off || pair.is_off(weight);
#pragma unroll
            for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
                // Their eights begin with the first column, or with the ninth.
                const unsigned column = eight + half;
                band.parts[part][column / 2][column % 2 * 2 + half] = pair.parts[part];
                if (eight == 0) {
                    const unsigned empty = half == 0 ? EIGHTS : 0;
                    band.parts[part][empty / 2][empty % 2 * 2 + half] = 0;
                }
            }
        }
        // Taps that are infinite or NaN make sums that are not numbers: those need no word here.
        if (SCALED && !normal) {
            of.plain = total_of_four(off ? 1.0f : 0.0f) > 0.0f && size >= Scale<X>::PLAIN_FROM;
        }
    }

    // The sum of an output by multiply-adds, for two channels. `token(k)` says where the two channels of row k lie.
    template <class Token>
    __device__ static float2 plain_sum(const TokenTaps& of, unsigned output, const Logits& logits, Token token) {
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 1
        for (unsigned tap = of.in_range.begin; tap < of.in_range.end; tap++) {
            const float logit = logits.numbers[output * logits.pitch + tap];
            float weight = logits.normalize == NONE ? logit : exponential(logit - of.largest);
            weight = logits.is_kept(output, tap) ? weight : 0.0f;
            multiply_add(sum, make_float2(weight, weight), token_at<X>(token(output + tap)));
        }
        return sum;
    }

    // For 8 channels: `start` and the sums of outputs lane / 4 and lane / 4 + 8 in channels 2 (lane % 4) and the next.
    // `row(k)` says where the 8 channels of row k lie in the block's memory, at a multiple of 16 bytes: row k is what tap j of
    // output k - j reads, zeros where that is no token, and there are 16 PRODUCTS of them. All lanes of a warp together.
    template <class Row>
    __device__ void convolve(float2 (&values)[2], const Logits& logits, float2 start, Row row) const {
        const unsigned lane = threadIdx.x % WARP;
        unsigned tokens[1][PRODUCTS][2];
#pragma unroll
        for (unsigned n = 0; n < PRODUCTS; n++) {
            load_columns(tokens[0][n], unsigned(__cvta_generic_to_shared(row(n * SIDE + lane % SIDE))));
        }
        float2 of[1][2];
        const float2 starts[1] = {start};
        finish(of, tokens, logits, starts, [&](unsigned k, unsigned) { return row(k); });
        values[0] = of[0][0];
        values[1] = of[0][1];
    }

    // The same for two groups of 8 channels: `row(k, group)`.
    template <class Row>
    __device__ void convolve_two(float2 (&values)[2][2], const Logits& logits, const float2 (&starts)[2], Row row) const {
        const unsigned lane = threadIdx.x % WARP;
        unsigned tokens[2][PRODUCTS][2];
#pragma unroll
        for (unsigned n = 0; n < PRODUCTS; n++) {
            unsigned both[2][2];
            load_columns(both, unsigned(__cvta_generic_to_shared(row(n * SIDE + lane % SIDE, lane / SIDE))));
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                tokens[0][n][i] = both[0][i];
                tokens[1][n][i] = both[1][i];
            }
        }
        finish(values, tokens, logits, starts, row);
    }

    // The sums for tokens that are loaded.
    template <unsigned GROUPS, class Row>
    __device__ void finish(float2 (&values)[GROUPS][2], unsigned (&tokens)[GROUPS][PRODUCTS][2], const Logits& logits,
                           const float2 (&starts)[GROUPS], Row row) const {
        float sums[GROUPS][4];
        // Whether they are made without the tokens that are infinite or NaN.
        bool without = false;
#pragma unroll 1
        for (;;) {
            bool wanting = taps[0].plain || taps[1].plain;
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
                values[group][half].x = fmaf(sums[group][2 * half], taps[half].band_scale, starts[group].x);
                values[group][half].y = fmaf(sums[group][2 * half + 1], taps[half].band_scale, starts[group].y);
            }
        }
        if (!without) {
            return;
        }
        const unsigned lane = threadIdx.x % WARP;
#pragma unroll 1
        for (unsigned i = 0; i < 2 * GROUPS; i++) {
            // The first of all, which then becomes the last.
            const unsigned half = i % 2, group = i / 2;
            const TokenTaps of = half == 0 ? taps[0] : taps[1];
            const float2 start = group == 0 ? starts[0] : starts[GROUPS - 1];
            const auto token = [&](unsigned k) { return row(k, group) + lane % 4 * (2 * sizeof(X)); };
            const float2 sum = plain_sum(of, lane / 4 + 8 * half, logits, token);
            const float2 value = make_float2(chosen(of.plain, values[0][0].x, fmaf(sum.x, of.scale, start.x)),
                                             chosen(of.plain, values[0][0].y, fmaf(sum.y, of.scale, start.y)));
#pragma unroll
            for (unsigned next = 1; next < 2 * GROUPS; next++) {
                values[(next - 1) / 2][(next - 1) % 2] = values[next / 2][next % 2];
            }
            values[GROUPS - 1][1] = value;
        }
    }
};
