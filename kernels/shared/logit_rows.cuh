// The logits of a head for 16 outputs of one phase, on their way between memory and the block's own: a warp has neighbouring
// taps, row after row.
#pragma once

#include "halves.cuh"
#include "mma.cuh"
#include "taps.cuh"

// Rows of logits in memory.
struct LogitRows {
    // Number of the first, in elements, and from one output to the next.
    unsigned long long first;
    unsigned long long step;
    // At most 16.
    unsigned outputs;
    // Taps K.
    unsigned width;
};

template <class L>
__device__ void stage_logits_of(const L* logits, const LogitRows& rows, float* to, unsigned pitch) {
#pragma unroll 1
    for (unsigned tap = threadIdx.x % WARP; tap < rows.width; tap += WARP) {
        // Eight are on their way together.
#pragma unroll 1
        for (unsigned first = 0; first < rows.outputs; first += 8) {
            const L* of = logits + (rows.first + first * rows.step + tap);
            float numbers[8];
#pragma unroll
            for (unsigned output = 0; output < 8; output++) {
                numbers[output] = first + output < rows.outputs ? number(__ldg(of)) : 0.0f;
                of += rows.step;
            }
#pragma unroll
            for (unsigned output = 0; output < 8; output++) {
                to[(first + output) * pitch + tap] = numbers[output];
            }
        }
    }
}

// Brings them in, in the type of x or, `wide`, in f32.
template <class X>
__device__ void stage_logits(const void* logits, unsigned wide, const LogitRows& rows, float* to, unsigned pitch) {
    if (wide != 0) {
        stage_logits_of(static_cast<const float*>(logits), rows, to, pitch);
    } else {
        stage_logits_of(static_cast<const X*>(logits), rows, to, pitch);
    }
}

// Takes them out; those of outputs from `computed` on are zero.
template <class X>
__device__ void store_logits(void* logits, unsigned wide, const LogitRows& rows, unsigned computed, const float* from,
                             unsigned pitch) {
#pragma unroll 1
    for (unsigned tap = threadIdx.x % WARP; tap < rows.width; tap += WARP) {
        unsigned long long at = rows.first + tap;
#pragma unroll 4
        for (unsigned output = 0; output < rows.outputs; output++) {
            const float logit = output < computed ? from[output * pitch + tap] : 0.0f;
            if (wide != 0) {
                static_cast<float*>(logits)[at] = logit;
            } else {
                static_cast<X*>(logits)[at] = Half<X>::rounded(logit);
            }
            at += rows.step;
        }
    }
}
