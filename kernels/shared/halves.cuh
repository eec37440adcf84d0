// Numbers of 16 bits as tensor cores take them: what the types differ in, and parts that make up one of f32.
#pragma once

#include "element.cuh"
#include "parts.cuh"

// What the 16-bit types differ in.
template <class X>
struct Half;

template <>
struct Half<f16> {
    // Bits of the exponent of both numbers of a word, and the lowest of them.
    static constexpr unsigned EXPONENTS = 0x7c007c00u;
    static constexpr unsigned UNITS = 0x04000400u;
    // Two to the bits of a number, and how many numbers make up one of f32.
    static constexpr float PRECISION = 2048.0f;
    static constexpr unsigned PARTS = 2;

    static __device__ f16 rounded(float number) { return __float2half_rn(number); }
    static __device__ unsigned short bits(f16 number) { return __half_as_ushort(number); }
    // Of two numbers, the first in the low half.
    static __device__ unsigned rounded_pair(float2 numbers) {
        unsigned pair;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(numbers.y), "f"(numbers.x));
        return pair;
    }
    static __device__ float2 numbers(unsigned pair) {
        return __half22float2(*reinterpret_cast<const __half2*>(&pair));
    }
};

template <>
struct Half<bf16> {
    static constexpr unsigned EXPONENTS = 0x7f807f80u;
    static constexpr unsigned UNITS = 0x00800080u;
    static constexpr float PRECISION = 256.0f;
    static constexpr unsigned PARTS = 3;

    static __device__ bf16 rounded(float number) { return __float2bfloat16_rn(number); }
    static __device__ unsigned short bits(bf16 number) { return __bfloat16_as_ushort(number); }
    static __device__ unsigned rounded_pair(float2 numbers) { return ::rounded_pair(numbers); }
    static __device__ float2 numbers(unsigned pair) {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    }
};

// A word with zero for numbers that are infinite or NaN.
template <class X>
__device__ unsigned finite(unsigned word) {
    const unsigned tops = ((word & Half<X>::EXPONENTS) + Half<X>::UNITS) & 0x80008000u;
    return word & ~((tops >> 15) * 0xffffu);
}

// A number in parts of 16 bits, each what those before it leave of it, times PRECISION so that it is as normal as they are:
// the number is part 0 + part 1 / PRECISION + ..., off by less than half an ulp of f32 and half of that.
template <class X>
struct TapParts {
    static constexpr unsigned COUNT = Half<X>::PARTS;
    // How much the last part is raised.
    static constexpr float RAISED = COUNT == 2 ? Half<X>::PRECISION : Half<X>::PRECISION * Half<X>::PRECISION;
    X parts[COUNT];
    // How far they are off, raised likewise; exact.
    float off;

    __device__ explicit TapParts(float rest) {
#pragma unroll
        for (unsigned part = 0; part < COUNT; part++) {
            rest *= part > 0 ? Half<X>::PRECISION : 1.0f;
            parts[part] = Half<X>::rounded(rest);
            rest -= number(parts[part]);
        }
        off = rest;
    }
};

// The same of two numbers, in pairs, the first in the low half.
template <class X>
struct PairParts {
    static constexpr unsigned COUNT = TapParts<X>::COUNT;
    unsigned parts[COUNT];
    float2 off;

    __device__ explicit PairParts(float2 rest) {
#pragma unroll
        for (unsigned part = 0; part < COUNT; part++) {
            rest.x *= part > 0 ? Half<X>::PRECISION : 1.0f;
            rest.y *= part > 0 ? Half<X>::PRECISION : 1.0f;
            parts[part] = Half<X>::rounded_pair(rest);
            const float2 rounded = Half<X>::numbers(parts[part]);
            rest = make_float2(rest.x - rounded.x, rest.y - rounded.y);
        }
        off = rest;
    }

    // Whether they are off by more than 2^-22 of one of the numbers. Three parts never are.
    __device__ bool is_off(float2 of) const { return is_off(off.x, of.x) || is_off(off.y, of.y); }

    // The first parts, but NaN in the place of a number that they are off.
    __device__ unsigned marked(float2 of) const {
        return parts[0] | (is_off(off.x, of.x) ? 0x7fffu : 0u) | (is_off(off.y, of.y) ? 0x7fff0000u : 0u);
    }

    __device__ static bool is_off(float off, float of) {
        constexpr float LEAST = 0x1p-22f * TapParts<X>::RAISED;
        return COUNT < 3 && fabsf(off) > fabsf(of) * LEAST;
    }
};
