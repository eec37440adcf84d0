// Taps times tokens: the sum over a window, for STEPS outputs of two channels, one dilation apart, in one thread.
//
// Where all taps of an octet read tokens that there are, for all the outputs, the tokens slide through registers: each is
// read once and meets all the taps that want it. At the ends of a sequence what is out of range is left out by selection:
// a tap or a token may be infinite, and neither may be multiplied by zero. Tokens that there are not are not read at all.
#pragma once

#include "element.cuh"
#include "stage.cuh"
#include "taps.cuh"

constexpr unsigned STEPS = 8;
constexpr unsigned OCTET = 8;
static_assert(STEPS == GAP_EVERY && OCTET == GAP_EVERY);

// What a thread convolves. Channels of two heads have taps of their own: SPLIT.
struct Place {
    // Its first output's first token of the chunk in the block's memory, at its channels.
    const unsigned char* tokens;
    // How rows lie there, see `Rows`. The first is the first of eight.
    unsigned pitch;
    unsigned gap;
    // The position of its first output.
    int position;
    // Heads of its channels, counted from the tile's first.
    unsigned heads[2];
};

struct Taps {
    unsigned begin;
    unsigned end;
};

// Of an output at `position`, the taps that read tokens: those before the first read what was before the past, and those
// from the end on what is after the sequence. Neither bound is past the width.
__device__ inline unsigned first_tap(const Window& window, int past, int position) {
    const int missing = int(window.left) - past - position;
    return missing <= 0 ? 0 : min((unsigned(missing) + window.dilation - 1) / window.dilation, window.width);
}

__device__ inline unsigned end_tap(const Window& window, int length, int position) {
    const int present = length + int(window.left) - position;
    return present <= 0 ? 0 : min((unsigned(present) + window.dilation - 1) / window.dilation, window.width);
}

// The taps that read a token for some output of a tile, from the first of an octet on; none where it has no tokens. A chunk
// that can hold all taps does.
__device__ inline Taps taps_of(const Tiles& tiles, const Window& window, const Tile& tile, int past, unsigned chunk) {
    Taps taps = {0, 0};
    if (unsigned(tile.start) < unsigned(tile.sequence.length)) {
        const int last = tile.start + int(tiles.phases - 1 + (tiles.steps - 1) * tiles.dilation);
        taps.begin = first_tap(window, past, last);
        taps.end = end_tap(window, tile.sequence.length, tile.start);
    }
    if (taps.begin >= taps.end) {
        return Taps{0, 0};
    }
    if (window.width <= chunk) {
        return Taps{0, window.width};
    }
    return Taps{taps.begin / OCTET * OCTET, taps.end};
}

// What of `taps` lies in the chunk of `count` taps from `first` on, counted from there.
__device__ inline Taps within(Taps taps, unsigned first, unsigned count) {
    return Taps{min(max(taps.begin, first) - first, count), min(max(taps.end, first) - first, count)};
}

template <class X>
__device__ float2 token_at(const unsigned char* row) {
    return Pair<X>::numbers(*reinterpret_cast<const typename Pair<X>::Word*>(row));
}

__device__ inline void multiply_add(float2& sum, float2 tap, float2 token) {
    sum.x = fmaf(tap.x, token.x, sum.x);
    sum.y = fmaf(tap.y, token.y, sum.y);
}

// An octet of taps, or the `count` first of it where it is the LAST. tokens[n + j] is that of output n and tap j: the first
// seven are there; the others are read from `row` on.
template <class X, bool SPLIT, bool LAST>
__device__ void add_octet(float2 (&sums)[STEPS], float2 (&tokens)[STEPS + OCTET - 1], const unsigned char*& row,
                          unsigned pitch, unsigned gap, const TapMemory& memory, const unsigned (&heads)[2], unsigned tap,
                          unsigned count) {
    float4 quads[2][2];
    for (unsigned q = 0; q < 2; q++) {
        quads[q][0] = memory.quads[(tap / 4 + q) * memory.pitch + heads[0]];
        quads[q][1] = SPLIT ? memory.quads[(tap / 4 + q) * memory.pitch + heads[1]] : quads[q][0];
    }
#pragma unroll
    for (unsigned j = 0; j < OCTET; j++) {
        if (LAST && j >= count) {
            break;
        }
        tokens[STEPS - 1 + j] = token_at<X>(row);
        // The octet's own rows end with the first that is read here.
        row += j == 0 ? pitch + gap : pitch;
        const float4 first = quads[j / 4][0], second = quads[j / 4][1];
        const float2 weight = j % 4 == 0   ? make_float2(first.x, second.x)
                              : j % 4 == 1 ? make_float2(first.y, second.y)
                              : j % 4 == 2 ? make_float2(first.z, second.z)
                                           : make_float2(first.w, second.w);
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            multiply_add(sums[n], weight, tokens[n + j]);
        }
    }
}

// Taps that are in range for all the outputs; the first is the first of an octet.
template <class X, bool SPLIT>
__device__ void add_inside(float2 (&sums)[STEPS], const Place& place, const TapMemory& memory, Taps taps) {
    float2 tokens[STEPS + OCTET - 1];
    const unsigned char* row = place.tokens + bytes_to(taps.begin, place.pitch, place.gap);
#pragma unroll
    for (unsigned i = 0; i < STEPS - 1; i++) {
        tokens[i] = token_at<X>(row);
        row += place.pitch;
    }
    unsigned tap = taps.begin;
    // Twice, so that the tokens change places without being moved.
#pragma unroll 2
    for (; tap + OCTET <= taps.end; tap += OCTET) {
        add_octet<X, SPLIT, false>(sums, tokens, row, place.pitch, place.gap, memory, place.heads, tap, OCTET);
#pragma unroll
        for (unsigned i = 0; i < STEPS - 1; i++) {
            tokens[i] = tokens[i + OCTET];
        }
    }
    if (tap < taps.end) {
        add_octet<X, SPLIT, true>(sums, tokens, row, place.pitch, place.gap, memory, place.heads, tap, taps.end - tap);
    }
}

// Adds the tokens under one tap, the number `tap` of the chunk, to the outputs for which it is in range. `weight` says the
// weight for an output.
template <class X, class Weight>
__device__ void add_at_edge(float2 (&sums)[STEPS], const Place& place, const Window& window, int past, int length,
                            unsigned first, unsigned tap, Weight weight) {
    int position = place.position + int((first + tap) * window.dilation) - int(window.left);
#pragma unroll
    for (unsigned n = 0; n < STEPS; n++) {
        if (position >= -past && position < length) {
            const unsigned char* row = place.tokens + bytes_to(tap + n, place.pitch, place.gap);
            multiply_add(sums[n], weight(n), token_at<X>(row));
        }
        position += int(window.dilation);
    }
}

// Adds a chunk of `count` taps, from tap `first` on. `inside(taps)` adds taps that are in range for all the outputs, the
// first of which is the first of an octet; `weight_of(tap)` says how a tap weighs, for each output.
template <class X, class Inside, class WeightOf>
__device__ void accumulate_by(float2 (&sums)[STEPS], const Place& place, const Window& window, int past, int length,
                              unsigned first, unsigned count, Inside inside, WeightOf weight_of) {
    const int last = place.position + int((STEPS - 1) * window.dilation);
    // In range of some of the outputs, and of all of them.
    const Taps some = within({first_tap(window, past, last), end_tap(window, length, place.position)}, first, count);
    Taps all = within({first_tap(window, past, place.position), end_tap(window, length, last)}, first, count);
    all.begin = (all.begin + OCTET - 1) / OCTET * OCTET;
    if (all.begin < all.end) {
        inside(all);
    } else {
        all = Taps{some.end, some.end};
    }
#pragma unroll 1
    for (unsigned tap = some.begin; tap < some.end; tap++) {
        if (tap == all.begin) {
            // Those were added above.
            tap = all.end;
            if (tap >= some.end) {
                break;
            }
        }
        add_at_edge<X>(sums, place, window, past, length, first, tap, weight_of(tap));
    }
}

// The same with weights that are in memory, and are those of all outputs.
template <class X, bool SPLIT>
__device__ void accumulate(float2 (&sums)[STEPS], const Place& place, const TapMemory& memory, const Window& window,
                           int past, int length, unsigned first, unsigned count) {
    const auto inside = [&](Taps taps) { add_inside<X, SPLIT>(sums, place, memory, taps); };
    const auto weight_of = [&](unsigned tap) {
        const float first_weight = memory.at(place.heads[0], tap);
        const float second_weight = SPLIT ? memory.at(place.heads[1], tap) : first_weight;
        const float2 weight = make_float2(first_weight, second_weight);
        return [weight](unsigned) { return weight; };
    };
    accumulate_by<X>(sums, place, window, past, length, first, count, inside, weight_of);
}
