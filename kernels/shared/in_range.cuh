// The softmax over the taps in range, where it is not that over all taps: at the ends of a sequence.
//
// There it differs from output to output, with a largest logit of its own, for the largest of all may be far above those in
// range. The outputs at an end are few in a long sequence, so their weights are made anew from the logits, which the cache
// holds, by each thread for itself.
#pragma once

#include "convolve.cuh"
#include "ends.cuh"

// What the weights of a thread's outputs are normalised by.
template <bool SPLIT>
struct EdgeSoftmax {
    static constexpr unsigned HEADS = SPLIT ? 2 : 1;
    float largest[HEADS][STEPS];
    // One over the total.
    float scale[HEADS][STEPS];
};

// Whether an output at `position` is followed by STEPS - 1 others, and all taps of all of them are in range.
__device__ inline bool all_in_range(const Window& window, int past, int length, int position) {
    const int last = position + int((STEPS - 1) * window.dilation);
    return first_tap(window, past, position) == 0 && end_tap(window, length, last) == window.width;
}

template <class X, bool SPLIT>
__device__ void measure_edge(EdgeSoftmax<SPLIT>& edge, const Filters<X>& filters, const Place& place,
                             const Window& window, int past, int length) {
    const int last = place.position + int((STEPS - 1) * window.dilation);
    const Taps some = {first_tap(window, past, last), end_tap(window, length, place.position)};
#pragma unroll
    for (unsigned h = 0; h < EdgeSoftmax<SPLIT>::HEADS; h++) {
        float totals[STEPS];
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            edge.largest[h][n] = LOWEST;
            totals[n] = 0.0f;
        }
#pragma unroll 1
        for (unsigned tap = some.begin; tap < some.end; tap++) {
            const float logit = filters.at(place.heads[h], tap);
            int position = place.position + int(tap * window.dilation) - int(window.left);
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                const bool used = position >= -past && position < length;
                edge.largest[h][n] = used ? fmaxf(edge.largest[h][n], logit) : edge.largest[h][n];
                position += int(window.dilation);
            }
        }
#pragma unroll 1
        for (unsigned tap = some.begin; tap < some.end; tap++) {
            const float logit = filters.at(place.heads[h], tap);
            int position = place.position + int(tap * window.dilation) - int(window.left);
#pragma unroll
            for (unsigned n = 0; n < STEPS; n++) {
                const bool used = position >= -past && position < length;
                totals[n] += used ? expf(logit - edge.largest[h][n]) : 0.0f;
                position += int(window.dilation);
            }
        }
        // Where no tap is in range this is infinite, and not used.
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            edge.scale[h][n] = 1.0f / totals[n];
        }
    }
}

// `accumulate`, with weights of `edge`.
template <class X, bool SPLIT>
__device__ void accumulate_edge(float2 (&sums)[STEPS], const EdgeSoftmax<SPLIT>& edge, const Filters<X>& filters,
                                const Place& place, const Window& window, int past, int length, unsigned first,
                                unsigned count) {
    const int last = place.position + int((STEPS - 1) * window.dilation);
    const Taps some = within({first_tap(window, past, last), end_tap(window, length, place.position)}, first, count);
#pragma unroll 1
    for (unsigned tap = some.begin; tap < some.end; tap++) {
        const float first_logit = filters.at(place.heads[0], first + tap);
        const float second_logit = SPLIT ? filters.at(place.heads[1], first + tap) : first_logit;
        const float first_factor = filters.factor(place.heads[0], first + tap);
        const float second_factor = SPLIT ? filters.factor(place.heads[1], first + tap) : first_factor;
        add_at_edge<X>(sums, place, window, past, length, first, tap, [&](unsigned n) {
            const float weight = dropped(expf(first_logit - edge.largest[0][n]) * edge.scale[0][n], first_factor);
            if constexpr (SPLIT) {
                const float second = expf(second_logit - edge.largest[1][n]) * edge.scale[1][n];
                return make_float2(weight, dropped(second, second_factor));
            } else {
                return make_float2(weight, weight);
            }
        });
    }
}

// The gradient of x is the same convolution, of the gradient of y and by the mirrored filter; but there the weights differ
// from token to token that is read, as they did from output to output. What those at the ends of sequences were normalised
// by is in a table (`ends.cuh`): the other tokens have the weights of a softmax over all taps.

// Whether an output of a mirrored window is followed by STEPS - 1 others, and all tokens that they read have weights of a
// softmax over all taps.
__device__ inline bool all_within(const Window& window, int length, int position) {
    const Ends ends(window.reach - window.left, window.left, length);
    const int first = position - int(window.left);
    const int last = position + int((STEPS - 1) * window.dilation + window.reach - window.left);
    return first >= ends.left && last < ends.right;
}

// `accumulate`, by a mirrored filter.
template <class X, bool SPLIT>
__device__ void accumulate_mirrored(float2 (&sums)[STEPS], const EndRows& rows, const Filters<X>& filters,
                                    const TapMemory& memory, const Place& place, const Window& window,
                                    const Tile& tile, unsigned first, unsigned count) {
    const int length = tile.sequence.length;
    const Ends ends(window.reach - window.left, window.left, length);
    const int last = place.position + int((STEPS - 1) * window.dilation);
    const Taps some = within({first_tap(window, 0, last), end_tap(window, length, place.position)}, first, count);
#pragma unroll 1
    for (unsigned tap = some.begin; tap < some.end; tap++) {
        float logits[2], factors[2], weights[2];
#pragma unroll
        for (unsigned h = 0; h < (SPLIT ? 2 : 1); h++) {
            logits[h] = filters.at(place.heads[h], first + tap);
            factors[h] = filters.factor(place.heads[h], first + tap);
            weights[h] = memory.at(place.heads[h], tap);
        }
        const int position = place.position + int((first + tap) * window.dilation) - int(window.left);
        add_at_edge<X>(sums, place, window, 0, length, first, tap, [&](unsigned n) {
            const int token = position + int(n * window.dilation);
            const bool at_end = ends.has(token);
            float of[2];
#pragma unroll
            for (unsigned h = 0; h < (SPLIT ? 2 : 1); h++) {
                of[h] = weights[h];
                if (at_end) {
                    const unsigned head = filters.first_head + place.heads[h];
                    const float2 softmax = rows.at(tile.index, ends.number(token), head);
                    of[h] = dropped(expf(logits[h] - softmax.x) * softmax.y, factors[h]);
                }
            }
            return make_float2(of[0], of[SPLIT ? 1 : 0]);
        });
    }
}
