// The taps of a tile's heads in the block's memory, and their softmax.
//
// Quads of taps: quad q of head h is at memory[q * pitch + h], so that neighbouring threads, which work on neighbouring
// heads, read neighbouring quads. The pitch is odd, so that a warp that writes the taps of one head meets few banks twice.
// A chunk holds whole octets of taps, zero past the last. A warp has a head to itself, from the first number it reads to
// the last that it writes: nothing here waits for another warp.
#pragma once

#include "dropout.cuh"
#include "element.cuh"

constexpr unsigned WARP = 32;
constexpr float LOWEST = -LARGEST;

// Normalisation: of nothing, over all taps, over those in range.
constexpr unsigned NONE = 0;
constexpr unsigned SOFTMAX = 1;
constexpr unsigned SOFTMAX_IN_RANGE = 2;

// e to the power of a number that is not positive, off by 2^-22 of itself and 2^-24 for each unit of the number; 0 where it
// would be no normal number.
__device__ inline float exponential(float number) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(number * 1.44269504f));
    return power;
}

// What the weights of a head are normalised by.
struct Softmax {
    float largest;
    float total;
};

// The rows of the tile's heads.
template <class X>
struct Filters {
    Parameters<X> weight;
    unsigned first_head;
    unsigned heads;
    // Taps K.
    unsigned width;
    // Whether they are counted from the last.
    unsigned mirrored;
    Dropout dropout;

    // Where a tap stands among the weights.
    __device__ unsigned place(unsigned tap) const { return mirrored != 0 ? width - 1 - tap : tap; }

    // Of a head counted from the first.
    __device__ float at(unsigned head, unsigned tap) const {
        return weight.at(static_cast<unsigned long long>(first_head + head) * width + place(tap));
    }

    // What dropout multiplies the weight of a tap by.
    __device__ float factor(unsigned head, unsigned tap) const {
        return dropout.factor(0, first_head + head, place(tap));
    }
};

struct TapMemory {
    float4* quads;
    unsigned pitch;

    __device__ float& at(unsigned head, unsigned tap) const {
        return reinterpret_cast<float*>(quads + (tap / 4 * pitch + head))[tap % 4];
    }
};

__device__ inline float warp_largest(float number) {
    for (unsigned lane = WARP / 2; lane > 0; lane /= 2) {
        number = fmaxf(number, __shfl_xor_sync(0xffffffffu, number, lane));
    }
    return number;
}

__device__ inline float warp_total(float number) {
    for (unsigned lane = WARP / 2; lane > 0; lane /= 2) {
        number += __shfl_xor_sync(0xffffffffu, number, lane);
    }
    return number;
}

// What the softmax over all taps of every head divides by, where a chunk does not hold all of them.
template <class X>
__device__ void measure(const Filters<X>& filters, Softmax* softmax) {
    const unsigned lane = threadIdx.x % WARP;
#pragma unroll 1
    for (unsigned head = threadIdx.x / WARP; head < filters.heads; head += blockDim.x / WARP) {
        float largest = LOWEST;
#pragma unroll 1
        for (unsigned tap = lane; tap < filters.width; tap += WARP) {
            largest = fmaxf(largest, filters.at(head, tap));
        }
        largest = warp_largest(largest);
        float total = 0.0f;
#pragma unroll 1
        for (unsigned tap = lane; tap < filters.width; tap += WARP) {
            total += expf(filters.at(head, tap) - largest);
        }
        total = warp_total(total);
        if (lane == 0) {
            softmax[head] = Softmax{largest, total};
        }
    }
    __syncwarp();
}

// Puts the weights of `taps` taps from `first` on into memory, without those that are dropped. `softmax` has what `measure`
// found; a chunk of all taps is normalised from itself, and needs none.
template <class X>
__device__ void fill(const Filters<X>& filters, const TapMemory& memory, bool normalize, const Softmax* softmax,
                     unsigned first, unsigned taps) {
    const unsigned lane = threadIdx.x % WARP;
    const unsigned padded = (taps + 7) / 8 * 8;
#pragma unroll 1
    for (unsigned head = threadIdx.x / WARP; head < filters.heads; head += blockDim.x / WARP) {
        float largest = LOWEST;
#pragma unroll 1
        for (unsigned tap = lane; tap < padded; tap += WARP) {
            const float logit = tap < taps ? filters.at(head, first + tap) : 0.0f;
            memory.at(head, tap) = logit;
            largest = tap < taps ? fmaxf(largest, logit) : largest;
        }
        if (normalize) {
            float total;
            if (taps == filters.width) {
                largest = warp_largest(largest);
                total = 0.0f;
#pragma unroll 1
                for (unsigned tap = lane; tap < taps; tap += WARP) {
                    total += expf(memory.at(head, tap) - largest);
                }
                total = warp_total(total);
            } else {
                largest = softmax[head].largest;
                total = softmax[head].total;
            }
#pragma unroll 1
            for (unsigned tap = lane; tap < taps; tap += WARP) {
                memory.at(head, tap) = expf(memory.at(head, tap) - largest) / total;
            }
        }
        if (filters.dropout.threshold != 0) {
#pragma unroll 1
            for (unsigned tap = lane; tap < taps; tap += WARP) {
                float& weight = memory.at(head, tap);
                weight = dropped(weight, filters.factor(head, first + tap));
            }
        }
    }
}
