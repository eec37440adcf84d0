// Numbers as they lie in memory, and as they are computed with: in f32. Reading is exact, and writing rounds once, to
// nearest, ties to even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using f32 = float;
using f16 = __half;
using bf16 = __nv_bfloat16;

// The largest number that is finite.
constexpr float LARGEST = 3.402823466e38f;

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

__device__ inline float number(f32 value) { return value; }
__device__ inline float number(f16 value) { return __half2float(value); }
__device__ inline float number(bf16 value) { return __bfloat162float(value); }

template <class Y>
__device__ inline Y rounded(float value);
template <>
__device__ inline f32 rounded<f32>(float value) { return value; }
template <>
__device__ inline f16 rounded<f16>(float value) { return __float2half_rn(value); }
template <>
__device__ inline bf16 rounded<bf16>(float value) { return __float2bfloat16_rn(value); }

// Weights, or biases: in the type of the tokens, or in f32. Which it is is a number of the call: they are read once a tile,
// and a module for each would be twice the text.
template <class X>
struct Parameters {
    const void* numbers;
    unsigned wide;

    __device__ float at(unsigned long long index) const {
        if (sizeof(X) == sizeof(float) || wide != 0) {
            return __ldg(static_cast<const float*>(numbers) + index);
        }
        return number(__ldg(static_cast<const X*>(numbers) + index));
    }
};

// The numbers of two neighbouring channels, the lower first: what a thread of a convolution works on.
template <class Element>
struct Pair;

template <>
struct Pair<f32> {
    using Word = float2;
    static __device__ float2 numbers(Word word) { return word; }
    static __device__ Word rounded(float2 numbers) { return numbers; }
};

template <>
struct Pair<f16> {
    using Word = __half2;
    static __device__ float2 numbers(Word word) { return __half22float2(word); }
    static __device__ Word rounded(float2 numbers) { return __float22half2_rn(numbers); }
};

template <>
struct Pair<bf16> {
    using Word = __nv_bfloat162;
    static __device__ float2 numbers(Word word) { return __bfloat1622float2(word); }
    static __device__ Word rounded(float2 numbers) { return __float22bfloat162_rn(numbers); }
};

// Four numbers side by side, aligned to their size.
__device__ inline float4 quad_of(const f32* numbers) { return *reinterpret_cast<const float4*>(numbers); }

template <class X>
__device__ float4 quad_of(const X* numbers) {
    using Word = typename Pair<X>::Word;
    const uint2 quad = *reinterpret_cast<const uint2*>(numbers);
    const float2 first = Pair<X>::numbers(*reinterpret_cast<const Word*>(&quad.x));
    const float2 second = Pair<X>::numbers(*reinterpret_cast<const Word*>(&quad.y));
    return make_float4(first.x, first.y, second.x, second.y);
}

// (The compiler would store the words of a quad one by one.)
__device__ inline void store_quad_of(f32* to, float4 numbers) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(numbers.x),
                 "f"(numbers.y), "f"(numbers.z), "f"(numbers.w)
                 : "memory");
}

template <class X>
__device__ void store_quad_of(X* to, float4 numbers) {
    const typename Pair<X>::Word first = Pair<X>::rounded(make_float2(numbers.x, numbers.y));
    const typename Pair<X>::Word second = Pair<X>::rounded(make_float2(numbers.z, numbers.w));
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(*reinterpret_cast<const unsigned*>(&first)), "r"(*reinterpret_cast<const unsigned*>(&second))
                 : "memory");
}
