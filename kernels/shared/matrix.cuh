// Products of small matrices by a warp, with sums in f32: 16 rows of A by 8 columns of B, 16 deep.
//
// Of A, B and the sums each lane holds a few numbers. With g = lane / 4 and t = lane % 4, words of two neighbours:
//   A, [row][depth]: [g][2t], [g + 8][2t], [g][2t + 8], [g + 8][2t + 8];
//   B, [depth][column]: [2t][g], [2t + 8][g], the two neighbours one below the other;
//   sums: [g][2t], [g][2t + 1], [g + 8][2t], [g + 8][2t + 1].
#pragma once

#include "element.cuh"

constexpr unsigned SIDE = 16;

// What the 16-bit types differ in.
template <class X>
struct Half;

template <>
struct Half<f16> {
    // Bits of the exponent of both numbers of a word, and the lowest of them.
    static constexpr unsigned EXPONENTS = 0x7c007c00u;
    static constexpr unsigned UNITS = 0x04000400u;
    // Two to the number of bits of a number, and how many numbers make up one of f32.
    static constexpr float PRECISION = 2048.0f;
    static constexpr unsigned PARTS = 2;

    static __device__ f16 rounded(float number) { return __float2half_rn(number); }
    static __device__ unsigned short bits(f16 number) { return __half_as_ushort(number); }

    static __device__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
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

    static __device__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

// A B of 16 rows of 8 numbers as they lie in the block's memory; lane i % 16 gives the address of row i, aligned to 16.
__device__ inline void load_rows(unsigned (&b)[2], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(b[0]), "=r"(b[1])
                 : "r"(row)
                 : "memory");
}

// A word with zero for numbers that are infinite or NaN.
template <class X>
__device__ unsigned finite(unsigned word) {
    const unsigned tops = ((word & Half<X>::EXPONENTS) + Half<X>::UNITS) & 0x80008000u;
    return word & ~((tops >> 15) * 0xffffu);
}

// A number in parts of 16 bits, each what those before it leave of it, times PRECISION so that it is as normal as they are:
// the number is part 0 + part 1 / PRECISION + ..., off by less than half an ulp of f32 and half of that.
template <class X>
struct Parts {
    static constexpr unsigned COUNT = Half<X>::PARTS;
    X parts[COUNT];
    // How far they are off, times PRECISION to the number of parts less one; exact.
    float off;

    __device__ explicit Parts(float rest) {
#pragma unroll
        for (unsigned part = 0; part < COUNT; part++) {
            rest *= part > 0 ? Half<X>::PRECISION : 1.0f;
            parts[part] = Half<X>::rounded(rest);
            rest -= number(parts[part]);
        }
        off = rest;
    }
};
