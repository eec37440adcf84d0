// Numbers of 16 bits as tensor cores take them: what the types differ in, and parts that make up one of f32.
#pragma once

#include "element.cuh"

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
};

template <>
struct Half<bf16> {
    static constexpr unsigned EXPONENTS = 0x7f807f80u;
    static constexpr unsigned UNITS = 0x00800080u;
    static constexpr float PRECISION = 256.0f;
    static constexpr unsigned PARTS = 3;

    static __device__ bf16 rounded(float number) { return __float2bfloat16_rn(number); }
    static __device__ unsigned short bits(bf16 number) { return __bfloat16_as_ushort(number); }
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
