// The logits of 16 outputs of a head, as the lanes of a warp have them: those of an output lie with four lanes, each once, the way
// sums of a product of matrices do. Row g of output, or g + 8, and columns 2 t, 2 t + 1 of every eight lie with lane 4 g + t,
// and tap k - i is column k of row i.
//
// Lanes read the logits where they lie in the block's memory, `tap` of output `row` at logits[row * pitch + tap]. Where the
// pitch is 5 more than a multiple of 8, no bank is met twice.
#pragma once

#include "convolve.cuh"
#include "mma.cuh"

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

// Puts a number there, likewise.
__device__ inline void store_if(bool exists, unsigned address, float number) {
    asm volatile("{ .reg .pred there; setp.ne.u32 there, %2, 0; @there st.shared.f32 [%1], %0; }" ::"f"(number),
                 "r"(address), "r"(unsigned(exists))
                 : "memory");
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

    // Where the logits of output lane / 4 lie, or of that and 8.
    __device__ unsigned row(unsigned half) const {
        return unsigned(__cvta_generic_to_shared(numbers)) + 4 * ((threadIdx.x % WARP / 4 + 8 * half) * pitch);
    }

    // Whether a tap in range of that output is kept, once that is marked.
    __device__ bool is_marked(unsigned half, unsigned tap) const {
        return (kept[(threadIdx.x % WARP / 4 + 8 * half) * KEPT_PITCH + tap / 4] >> tap % 4 & 1) != 0;
    }

    __device__ bool is_kept(unsigned output, unsigned tap) const {
        return dropout.threshold == 0 || (dropout.kept(token + output * token_step, head, tap / 4) >> tap % 4 & 1) != 0;
    }
};

// Of an output, what a lane has: its first tap, the next, and as many in every eight columns from there on, for EIGHTS eights.
template <unsigned EIGHTS>
struct LaneWeights {
    // Logits, or e to the power of them, less the largest: of such the softmax is what `scale` times them is. Of those that are
    // not read, 0.
    float2 weights[EIGHTS];
    // What is taken from logits before e is raised to them.
    float largest;
    float scale;
    // The largest of the lane's logits without their signs, where it is asked for.
    float size;

    __device__ static int first_tap() { return 2 * int(threadIdx.x % 4) - int(threadIdx.x % WARP / 4); }

    // Of output lane / 4 of the 16, or that and 8, the taps `read`: all lanes of a warp together.
    template <bool SIZED>
    __device__ void load(unsigned half, const Logits& logits, Taps read) {
        const bool normal = logits.normalize != NONE;
        // Neighbouring outputs read the one tap and the other first.
        const int first = first_tap(), odd = threadIdx.x % WARP / 4 % 2;
        const unsigned row = logits.row(half) + 4 * unsigned(first);
        const unsigned from[2] = {row + 4 * odd, row + 4 - 4 * odd};
        const unsigned place[2] = {unsigned(first + odd) - read.begin, unsigned(first + 1 - odd) - read.begin};
        const unsigned count = read.end - read.begin;
        largest = LOWEST;
        size = 0.0f;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            const float otherwise = normal ? __int_as_float(0xff800000) : 0.0f;
            const float one = load_if(place[0] + 8 * eight < count, from[0] + 32 * eight, otherwise);
            const float other = load_if(place[1] + 8 * eight < count, from[1] + 32 * eight, otherwise);
            largest = fmaxf(largest, fmaxf(one, other));
            if (SIZED) {
                size = fmaxf(size, fmaxf(fabsf(one), fabsf(other)));
            }
            weights[eight] = odd != 0 ? make_float2(other, one) : make_float2(one, other);
        }
        scale = 1.0f;
        if (!normal) {
            largest = 0.0f;
            return;
        }
        largest = largest_of_four(largest);
        float total = 0.0f;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            float2& pair = weights[eight];
            pair = make_float2(exponential(pair.x - largest), exponential(pair.y - largest));
            total += pair.x + pair.y;
        }
        total = total_of_four(total);
        // Where none is read there is none to divide.
        scale = count > 0 ? 1.0f / total : 0.0f;
    }
};
