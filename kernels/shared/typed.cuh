// Numbers whose type is a number of the call: kernels that are few, or small beside what they read, take any type in one
// module.
#pragma once

#include "element.cuh"
#include "tiles.cuh"

// As the plan numbers them.
constexpr unsigned IN_F32 = 0;
constexpr unsigned IN_F16 = 1;

// A matrix, some axis of which lies side by side.
struct Typed {
    const void* numbers;
    // Elements from one row to the next.
    unsigned long long stride;
    // 0: f32, 1: f16, 2: bf16.
    unsigned type;
};

__device__ inline float half_number(unsigned type, unsigned short bits) {
    return type == IN_F16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(unsigned(bits) << 16);
}

__device__ inline float number_at(const Typed& matrix, unsigned row, unsigned column) {
    const unsigned long long at = row * matrix.stride + column;
    if (matrix.type == IN_F32) {
        return static_cast<const float*>(matrix.numbers)[at];
    }
    return half_number(matrix.type, static_cast<const unsigned short*>(matrix.numbers)[at]);
}

// Four numbers of row `row` from `first` on, aligned to their size.
__device__ inline float4 quad_at(const Typed& matrix, unsigned row, unsigned first) {
    const unsigned long long at = row * matrix.stride + first;
    if (matrix.type == IN_F32) {
        return *reinterpret_cast<const float4*>(static_cast<const float*>(matrix.numbers) + at);
    }
    const uint2 words = *reinterpret_cast<const uint2*>(static_cast<const unsigned short*>(matrix.numbers) + at);
    if (matrix.type == IN_F16) {
        const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&words.x));
        const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&words.y));
        return make_float4(low.x, low.y, high.x, high.y);
    }
    return make_float4(__uint_as_float(words.x << 16), __uint_as_float(words.x & 0xffff0000u),
                       __uint_as_float(words.y << 16), __uint_as_float(words.y & 0xffff0000u));
}

// Rounds once, to nearest, ties to even.
__device__ inline unsigned short half_bits(unsigned type, float number) {
    return type == IN_F16 ? __half_as_ushort(__float2half_rn(number))
                          : __bfloat16_as_ushort(__float2bfloat16_rn(number));
}

__device__ inline void store_number(void* to, unsigned type, unsigned long long at, float number) {
    if (type == IN_F32) {
        static_cast<float*>(to)[at] = number;
    } else {
        static_cast<unsigned short*>(to)[at] = half_bits(type, number);
    }
}

// Four, aligned to their size.
__device__ inline void store_quad(void* to, unsigned type, unsigned long long at, const float4& numbers) {
    if (type == IN_F32) {
        // The compiler would store four numbers one by one.
        asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(
                         __cvta_generic_to_global(static_cast<float*>(to) + at)),
                     "f"(numbers.x), "f"(numbers.y), "f"(numbers.z), "f"(numbers.w)
                     : "memory");
    } else {
        const unsigned low = half_bits(type, numbers.x) | unsigned(half_bits(type, numbers.y)) << 16;
        const unsigned high = half_bits(type, numbers.z) | unsigned(half_bits(type, numbers.w)) << 16;
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(
                         __cvta_generic_to_global(static_cast<unsigned short*>(to) + at)),
                     "r"(low), "r"(high)
                     : "memory");
    }
}

// What numbers are taken with.
constexpr unsigned UNGATED = 0;
// Themselves where the gate is more than zero, zero elsewhere, and NaN where it is NaN: the gradient of max(0, y) at y.
constexpr unsigned BY_RELU = 1;
// Times the gate.
constexpr unsigned BY_PRODUCT = 2;

__device__ inline float gated(unsigned gating, float number, float gate) {
    if (gating == BY_PRODUCT) {
        return number * gate;
    }
    return gate > 0.0f ? number : gate == gate ? 0.0f : gate;
}

// Whether a row of a batch of sequences of `time` rows each is one of their tokens, and no padding; every row is where `time`
// is 0.
__device__ inline bool is_token(unsigned time, const uint4* sequences, unsigned row) {
    if (time == 0) {
        return true;
    }
    const unsigned index = row / time;
    return row - index * time < __ldg(&sequences[index].y);
}
