// The softmax over the taps in range, where it is not that over all taps: at the ends of a sequence.
//
// There it differs from output to output, with a largest logit of its own, for the largest of all may be far above those in
// range. The outputs at an end are few in a long sequence, so their weights are made anew from the logits, which the cache
// holds, by each thread for itself.
#pragma once

#include "convolve.cuh"

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
        add_at_edge<X>(sums, place, window, past, length, first, tap, [&](unsigned n) {
            const float weight = expf(first_logit - edge.largest[0][n]) * edge.scale[0][n];
            if constexpr (SPLIT) {
                return make_float2(weight, expf(second_logit - edge.largest[1][n]) * edge.scale[1][n]);
            } else {
                return make_float2(weight, weight);
            }
        });
    }
}
