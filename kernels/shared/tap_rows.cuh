// Taps that each output has for itself, by multiply-adds: logits in the block's memory are normalised in place, and then
// convolved.
//
// The taps of an output are a row, head after head. Those that are out of range are left out by selection: their weights are
// zero, as are the tokens that they would read.
#pragma once

#include "convolve.cuh"

// In f32. The pitch, in numbers, is odd: threads that have a row each meet no bank twice.
struct TapRows {
    float* first;
    unsigned pitch;

    __device__ float* at(unsigned row, unsigned number) const { return first + row * pitch + number; }
};

// Normalises the taps of an output and a head. `in_range` are those that read a token.
__device__ inline void normalize_taps(float* taps, unsigned width, unsigned normalize, Taps in_range) {
    if (normalize != NONE) {
        const Taps over = normalize == SOFTMAX ? Taps{0, width} : in_range;
        float largest = LOWEST, total = 0.0f;
#pragma unroll 1
        for (unsigned tap = over.begin; tap < over.end; tap++) {
            largest = fmaxf(largest, taps[tap]);
        }
#pragma unroll 1
        for (unsigned tap = over.begin; tap < over.end; tap++) {
            const float weight = __expf(taps[tap] - largest);
            taps[tap] = weight;
            total += weight;
        }
        const float scale = 1.0f / total;
#pragma unroll 1
        for (unsigned tap = in_range.begin; tap < in_range.end; tap++) {
            taps[tap] *= scale;
        }
    }
#pragma unroll 1
    for (unsigned tap = 0; tap < width; tap++) {
        if (tap < in_range.begin || tap >= in_range.end) {
            taps[tap] = 0.0f;
        }
    }
}

// Drops taps of an output and a head that are normalised.
__device__ inline void drop_taps(float* taps, unsigned width, const Dropout& dropout, unsigned token, unsigned head) {
#pragma unroll 1
    for (unsigned first = 0; first < width; first += 4) {
        const unsigned kept = dropout.kept(token, head, first / 4);
#pragma unroll 1
        for (unsigned tap = first; tap < min(first + 4, width); tap++) {
            taps[tap] = dropped(taps[tap], (kept >> (tap - first) & 1) != 0 ? dropout.scale : 0.0f);
        }
    }
}

// What is convolved: a tile of outputs, and channels of some heads.
struct TapTile {
    // Tokens, row i + j being what tap j of output i reads, from an even channel on. Rows are there for whole octets of
    // outputs.
    const unsigned char* tokens;
    unsigned pitch;
    unsigned first_channel;
    // Outputs that are tokens.
    unsigned outputs;
    TapRows taps;
    unsigned width;
    // The heads' channels, and of a head.
    unsigned begin;
    unsigned end;
    unsigned head_channels;
};

// Calls `store(output, channel, sums)` for every output and every pair of channels, the first of them even; at both ends one
// of the two may be of other heads. A thread has STEPS outputs at a time, past which tokens slide.
template <class X, class Store>
__device__ void convolve_tap_rows(const TapTile& tile, Store store) {
    // In 16 bits this is for narrow heads alone, where the taps take the time.
    constexpr unsigned AT_ONCE = sizeof(X) == sizeof(float) ? 4 : 1;
    const unsigned first = tile.begin / 2, pairs = (tile.end + 1) / 2 - first;
    const unsigned items = (tile.outputs + STEPS - 1) / STEPS * pairs;
#pragma unroll 1
    for (unsigned item = threadIdx.x; item < items; item += blockDim.x) {
        const unsigned octet = item / pairs;
        const unsigned channel = (first + item - octet * pairs) * 2;
        const unsigned output = octet * STEPS;
        const unsigned last = tile.outputs - 1 - output;
        const float* taps[2];
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const unsigned of = min(max(channel + i, tile.begin), tile.end - 1) - tile.begin;
            taps[i] = tile.taps.at(output, of / tile.head_channels * tile.width);
        }
        const unsigned char* row =
            tile.tokens + output * tile.pitch + (channel - tile.first_channel) * unsigned(sizeof(X));
        float2 sums[STEPS] = {};
        float2 tokens[STEPS + AT_ONCE - 1];
#pragma unroll
        for (unsigned i = 0; i < STEPS - 1; i++) {
            tokens[i] = token_at<X>(row);
            row += tile.pitch;
        }
#pragma unroll 1
        for (unsigned tap = 0; tap < tile.width; tap += AT_ONCE) {
#pragma unroll
            for (unsigned j = 0; j < AT_ONCE; j++) {
                if (tap + j >= tile.width) {
                    break;
                }
                tokens[STEPS - 1 + j] = token_at<X>(row);
                row += tile.pitch;
#pragma unroll
                for (unsigned n = 0; n < STEPS; n++) {
                    // Outputs that there are not have the taps of the last.
                    const unsigned at = min(n, last) * tile.taps.pitch + tap + j;
                    multiply_add(sums[n], make_float2(taps[0][at], taps[1][at]), tokens[n + j]);
                }
            }
#pragma unroll
            for (unsigned i = 0; i < STEPS - 1; i++) {
                tokens[i] = tokens[i + AT_ONCE];
            }
        }
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            if (n <= last) {
                store(output + n, channel, sums[n]);
            }
        }
    }
}
