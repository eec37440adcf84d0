// Softmax block by block (Milakov and Gimelshein 2018).
#pragma once

#include "element.cuh"
#include "exp2.cuh"

// The softmax of a row so far.
struct Softmax {
    // Weights are two to the score less this: the largest score, less what weights are raised by.
    float base;
    // Of this lane's weights.
    float total;

    __device__ void clear() {
        base = -infinity();
        total = 0.0f;
    }

    // Makes weights of scores, which are logarithms to the base two, and returns what was summed before is to be scaled
    // by. The row is shared by LANES lanes that differ in their last bits.
    template <unsigned COUNT, unsigned LANES>
    __device__ float weigh(float (&scores)[COUNT], float raise) {
        float largest = scores[0];
#pragma unroll
        for (unsigned n = 1; n < COUNT; n++) {
            largest = fmaxf(largest, scores[n]);
        }
#pragma unroll
        for (unsigned lanes = 1; lanes < LANES; lanes *= 2) {
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
        }
        const float before = base;
        // Rounded up: the largest weight is never raised by more.
        base = fmaxf(before, __fsub_ru(largest, raise));
        // Where all scores so far are -infinity, weights are zero.
        const float from = base == -infinity() ? 0.0f : base;
        const float factor = exp2_of(before - from);
        float sum = 0.0f;
#pragma unroll
        for (unsigned n = 0; n < COUNT; n++) {
            scores[n] = exp2_of(scores[n] - from);
            sum += scores[n];
        }
        total = fmaf(total, factor, sum);
        return factor;
    }

    // Makes the total that of all lanes.
    template <unsigned LANES>
    __device__ void finish() {
#pragma unroll
        for (unsigned lanes = 1; lanes < LANES; lanes *= 2) {
            total += __shfl_xor_sync(0xffffffffu, total, lanes);
        }
    }
};
