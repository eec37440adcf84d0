// Filters of tokens as a band of a matrix: row i of output times column k of token is the weight that the convolution gives to
// token i of x for what token k of it makes, tap K - 1 - (k - i) of the latter. That is the transpose of the band that a forward
// pass has (`token_band.cuh`): for the gradient of x.
//
// The weights of a token are made once, for all outputs of a tile: some lanes have a row of logits, and what their softmax makes
// of them lies in the block's memory in parts of 16 bits (`band.cuh`), numbered by the outputs that they are for, so that
// matrices of 8 x 8 are whole quads of 16 bytes and come transposed (`ldmatrix`). Of the eights of outputs a row has those in
// which it has a tap: eight s lies in place s % eights, with zeros where there is no tap. Rows are an odd number of quads apart:
// matrices meet no bank twice, and neither does what is written where a row has four lanes; where it has more, some do.
//
// Outputs differ in the tokens that they read: a power of two for the weights of f16 is the same for all of a call, so that
// nothing depends on what an output does not read. With a softmax weights are at most 1, and 2^14 times them is what the parts
// hold: they are off by 2^-23 of themselves, or 2^-50. Logits of f16 are exact. Those in f32, without a softmax, are taken 2^10
// times; where parts would be off by more than 2^-22 they are NaN, which leaves their outputs to multiply-adds, and so do those
// of 64 and more, which are infinite then.
#pragma once

#include "band.cuh"
#include "convolve.cuh"
#include "ring.cuh"

// The weights of the tokens of a tile and of its halo, for a head.
struct TapQuads {
    unsigned char* memory;
    // Eights of a part.
    unsigned eights;
    // Bytes from row to row.
    unsigned pitch;
    // Of each row, what its weights are normalised by.
    Softmax* softmax;
};

// A token of the tile or its halo, in the way of the mirrored window.
struct TokenRow {
    int position;
    // Row of the call.
    unsigned token;
    // Taps in range of its own output, and those whose logits are read.
    Taps in_range;
    Taps read;

    __device__ TokenRow(const Window& mirrored, const Tile& tile, unsigned normalize, unsigned row, bool exists) {
        const Window own = {mirrored.width, mirrored.dilation, mirrored.reach - mirrored.left, mirrored.reach};
        const int length = tile.sequence.length;
        position = tile.start + int(row * own.dilation) - int(mirrored.left);
        token = tile.sequence.first + unsigned(position);
        in_range = read = Taps{0, 0};
        if (exists && position >= 0 && position < length) {
            in_range = Taps{first_tap(own, 0, position), end_tap(own, length, position)};
            in_range.end = max(in_range.begin, in_range.end);
            read = normalize == SOFTMAX ? Taps{0, own.width} : in_range;
        }
    }
};

// The logits of a call, for a head.
struct HeadLogits {
    const void* numbers;
    // Whether they are f32.
    unsigned wide;
    unsigned long long stride;
    unsigned head;
    unsigned normalize;
    Dropout dropout;
};

// How many times the weights lie in memory.
template <class X>
__device__ float raised(const HeadLogits& logits) {
    if (TapParts<X>::COUNT == 3) {
        return 1.0f;
    }
    return logits.normalize != NONE ? 0x1p14f : logits.wide != 0 ? 0x1p10f : 1.0f;
}

template <class X, unsigned PRODUCTS>
struct TransposedBand {
    // Lanes that have a row of weights, and pairs of weights of a lane.
    static constexpr unsigned ACROSS = PRODUCTS > 5 ? 16 : PRODUCTS > 3 ? 8 : 4;
    static constexpr unsigned PAIRS = 5;
    static constexpr unsigned QUADS = 3;
    static_assert(2 * PAIRS * ACROSS >= SIDE * (PRODUCTS - 1) + 1 + 7, "all taps, from the first of an eight on");
    static_assert(4 * QUADS * ACROSS >= SIDE * (PRODUCTS - 1) + 1, "all taps");

    Band<X, PRODUCTS> band;

    // Puts the weights of `rows` tokens into memory, for `outputs` outputs: all threads of a block together.
    template <class L>
    __device__ static void fill_of(const L* numbers, const HeadLogits& logits, const TapQuads& to, const Window& mirrored,
                                   const Tile& tile, unsigned rows, unsigned outputs) {
        const unsigned lane = threadIdx.x % ACROSS, at_once = blockDim.x / ACROSS, width = mirrored.width;
        const bool normal = logits.normalize != NONE;
        const float raised = ::raised<X>(logits);
        // Tap 0 of eight neighbouring rows is for outputs of one eight: what a warp writes together lies on different banks.
        const unsigned before = (1 - width) % 8;
        // The lane's first tap, counted from the eight's first output on, and how many are counted at all.
        const unsigned tap = 2 * lane - threadIdx.x / ACROSS % 8, counted = width + 7;
#pragma unroll 1
        for (unsigned base = 0; base < rows + before; base += at_once) {
            const unsigned row = base + threadIdx.x / ACROSS - before;
            const TokenRow of(mirrored, tile, logits.normalize, row, row < rows);
            const L* const from = numbers + (of.token * logits.stride +
                                             static_cast<unsigned long long>(logits.head) * width);
            // The first output of the eight that tap 0 is for.
            const int first = int(row - (width - 1)) & ~7;
            const unsigned count = of.read.end - of.read.begin;
            float2 weights[PAIRS];
            float largest = LOWEST;
#pragma unroll
            for (unsigned n = 0; n < PAIRS; n++) {
                const float otherwise = normal ? __int_as_float(0xff800000) : 0.0f;
                weights[n] = make_float2(otherwise, otherwise);
                if (2 * ACROSS * n >= counted) {
                    continue;
                }
                const unsigned at = tap + 2 * ACROSS * n;
                const auto logit = [&](unsigned at) {
                    return at - of.read.begin < count ? number(__ldg(from + at)) : otherwise;
                };
                weights[n] = make_float2(logit(at), logit(at + 1));
                largest = fmaxf(largest, fmaxf(weights[n].x, weights[n].y));
            }
            float scale = raised;
            if (normal) {
                float total = 0.0f;
                largest = across(largest, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
                for (unsigned n = 0; n < PAIRS; n++) {
                    if (2 * ACROSS * n >= counted) {
                        continue;
                    }
                    weights[n] = make_float2(exponential(weights[n].x - largest), exponential(weights[n].y - largest));
                    total += weights[n].x + weights[n].y;
                }
                total = across(total, [](float a, float b) { return a + b; });
                const float one = count > 0 ? 1.0f / total : 0.0f;
                scale = one * raised;
                if (row < rows && lane == 0) {
                    to.softmax[row] = Softmax{largest, one};
                }
            }
            unsigned kept = 0;
            if (logits.dropout.threshold != 0) {
                kept = kept_of(logits, of.token, width);
            }
            // Where the eight of the lane's first weights lies.
            unsigned place = modulo(unsigned(first / 8 + int(lane / 4) + int(32 * to.eights)), to.eights);
            unsigned char* const to_row = to.memory + row * to.pitch + lane % 4 * 4;
#pragma unroll
            for (unsigned n = 0; n < PAIRS; n++) {
                if (2 * ACROSS * n >= counted) {
                    break;
                }
                const unsigned at = tap + 2 * ACROSS * n, output = unsigned(first) + 2 * (lane + ACROSS * n);
                const unsigned in_range = of.in_range.end - of.in_range.begin;
                bool there[2] = {at - of.in_range.begin < in_range, at + 1 - of.in_range.begin < in_range};
                if (logits.dropout.threshold != 0) {
                    // All lanes ask, whether it is there or not.
                    const bool are_kept[2] = {is_kept(kept, at), is_kept(kept, at + 1)};
                    there[0] = there[0] && are_kept[0];
                    there[1] = there[1] && are_kept[1];
                }
                // In the eights where the row has a tap: output `row` is the last that it has one for.
                if (row < rows && output < outputs && output / 8 <= row / 8) {
                    const float2 pair = make_float2(there[0] ? weights[n].x * scale : 0.0f,
                                                    there[1] ? weights[n].y * scale : 0.0f);
                    PairParts<X> parts(pair);
                    if (!normal) {
                        parts.parts[0] = parts.marked(pair);
                    }
#pragma unroll
                    for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
                        *reinterpret_cast<unsigned*>(to_row + (part * to.eights + place) * 16) = parts.parts[part];
                    }
                }
                place += ACROSS / 4;
                place -= place >= to.eights ? to.eights : 0;
            }
        }
    }

    __device__ static void fill(const HeadLogits& logits, const TapQuads& to, const Window& mirrored, const Tile& tile,
                                unsigned rows, unsigned outputs) {
        if (logits.wide != 0) {
            fill_of(static_cast<const float*>(logits.numbers), logits, to, mirrored, tile, rows, outputs);
        } else {
            fill_of(static_cast<const X*>(logits.numbers), logits, to, mirrored, tile, rows, outputs);
        }
    }

    // What all lanes of a row have, taken together.
    template <class Both>
    __device__ static float across(float number, Both both) {
#pragma unroll
        for (unsigned lane = ACROSS / 2; lane > 0; lane /= 2) {
            number = both(number, __shfl_xor_sync(0xffffffffu, number, lane));
        }
        return number;
    }

    // What dropout keeps of a row: four bits for each quad of taps, quad q with lane q % ACROSS.
    __device__ static unsigned kept_of(const HeadLogits& logits, unsigned token, unsigned width) {
        unsigned kept = 0;
#pragma unroll 1
        for (unsigned n = 0; n < QUADS; n++) {
            const unsigned quad = threadIdx.x % ACROSS + n * ACROSS;
            if (4 * quad < width) {
                kept |= logits.dropout.kept(token, logits.head, quad) << 4 * n;
            }
        }
        return kept;
    }

    // All lanes of a warp together.
    __device__ static bool is_kept(unsigned kept, unsigned tap) {
        const unsigned quad = tap / 4, bits = __shfl_sync(0xffffffffu, kept, quad % ACROSS, ACROSS);
        return (bits >> (quad / ACROSS * 4 + tap % 4) & 1) != 0;
    }

    // Of numbers below 4096.
    __device__ static unsigned modulo(unsigned number, unsigned by) { return number - quotient(number, by) * by; }

    // The band of the 16 outputs from `output` on. All lanes of a warp together. `zero` is a quad of zeros.
    __device__ void load(const TapQuads& from, unsigned output, unsigned width, const uint4* zero) {
        const unsigned lane = threadIdx.x % WARP;
        // Matrices of a row of four: eights of outputs side by side, and those of the next 8 tokens below.
        const unsigned eight = output / 8 + lane / 8 % 2, first = output + lane / 16 * 8 + lane % 8;
        const unsigned of_part = from.eights * 16;
        const auto address = [](const void* at) { return unsigned(__cvta_generic_to_shared(at)); };
        const unsigned row = address(from.memory) + first * from.pitch + modulo(eight, from.eights) * 16;
#pragma unroll
        for (unsigned n = 0; n < PRODUCTS; n++) {
            const unsigned token = first + n * SIDE;
            // Whether the eight has a tap of it.
            const bool has = eight * 8 <= token && eight * 8 + 7 + (width - 1) >= token;
#pragma unroll
            for (unsigned part = 0; part < TapParts<X>::COUNT; part++) {
                unsigned both[2][2];
                load_columns(both, has ? row + n * SIDE * from.pitch + part * of_part : address(zero));
                band.parts[part][n][0] = both[0][0];
                band.parts[part][n][1] = both[0][1];
                band.parts[part][n][2] = both[1][0];
                band.parts[part][n][3] = both[1][1];
            }
        }
    }

    // The sum of an output by multiply-adds, for two channels. `token(k)` says where the two channels of row k lie.
    template <class Token>
    __device__ static float2 plain_sum(const HeadLogits& logits, const TapQuads& from, const Window& mirrored,
                                       const Tile& tile, unsigned output, Token token) {
        const Parameters<X> numbers = {logits.numbers, logits.wide};
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 1
        for (unsigned k = output; k < output + mirrored.width; k++) {
            const TokenRow of(mirrored, tile, logits.normalize, k, true);
            const unsigned tap = mirrored.width - 1 - (k - output);
            if (tap - of.in_range.begin >= of.in_range.end - of.in_range.begin) {
                continue;
            }
            float weight = numbers.at(of.token * logits.stride +
                                      static_cast<unsigned long long>(logits.head) * mirrored.width + tap);
            if (logits.normalize != NONE) {
                const Softmax softmax = from.softmax[k];
                weight = exponential(weight - softmax.largest) * softmax.total;
            }
            weight = dropped(weight, logits.dropout.factor(of.token, logits.head, tap));
            multiply_add(sum, make_float2(weight, weight), token_at<X>(token(k)));
        }
        return sum;
    }
};
