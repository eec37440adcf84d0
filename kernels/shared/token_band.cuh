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
#include "lane_logits.cuh"

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
        const bool normal = logits.normalize != NONE;
        const unsigned taps_in_range = in_range.begin < in_range.end ? in_range.end - in_range.begin : 0;
        // Those that are read.
        const bool all = logits.normalize == SOFTMAX && taps_in_range > 0;
        LaneWeights<EIGHTS> lane;
        float2 (&weights)[EIGHTS] = lane.weights;
        const Taps some = {in_range.begin, in_range.begin + taps_in_range};
        lane.template load<SCALED>(half, logits, all ? Taps{0, logits.width} : some);
        const unsigned first = unsigned(LaneWeights<EIGHTS>::first_tap());
        TokenTaps& of = taps[half];
        of = TokenTaps{some, lane.largest, lane.scale, lane.scale, false};
        float size = lane.size;
        if (normal) {
            size = 1.0f;
            // Taps that are part of the softmax, and out of range.
            if (__any_sync(0xffffffffu, all && taps_in_range < logits.width)) {
                const unsigned tap = first - in_range.begin;
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
            const auto is_kept = [&](unsigned tap) {
                return tap - in_range.begin < taps_in_range && logits.is_marked(half, tap);
            };
            bool any = false;
#pragma unroll
            for (unsigned eight = 0; eight < EIGHTS; eight++) {
                const unsigned tap = first + 8 * eight;
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
        const auto start = [&](unsigned, unsigned group) { return starts[group]; };
        finish_band(values, tokens, band, taps[0].plain || taps[1].plain, start,
                    [&](unsigned half) { return taps[half].band_scale; },
                    [&](unsigned half, unsigned group) {
                        const TokenTaps of = half == 0 ? taps[0] : taps[1];
                        const float2 start = group == 0 ? starts[0] : starts[GROUPS - 1];
                        const unsigned lane = threadIdx.x % WARP;
                        const auto token = [&](unsigned k) { return row(k, group) + lane % 4 * (2 * sizeof(X)); };
                        const float2 sum = plain_sum(of, lane / 4 + 8 * half, logits, token);
                        return PlainSum{of.plain, make_float2(fmaf(sum.x, of.scale, start.x), fmaf(sum.y, of.scale, start.y))};
                    });
    }
};
