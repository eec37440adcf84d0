// Numbers that the tensor core has no room for, as sums of bf16 numbers.
//
// f32 has 24 bits and bf16 has 8, with the same exponents: three parts are the number, whatever its size. f16 has 11 bits:
// two parts. What is under 2^-133, the least of bf16, is lost: a number under that is zero, times infinity too.
//
// Only the high part may be infinite or NaN: the others of such a number are NaN, and are good for nothing. Their products
// belong in sums of their own, which are left out where the sum of the high products is not finite.
#pragma once

#include "element.cuh"

// Pairs, the first number in the low half.
struct Parts {
    unsigned high;
    unsigned middle;
    unsigned low;
};

__device__ inline unsigned rounded_pair(float2 pair) {
    unsigned rounded;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(rounded) : "f"(pair.y), "f"(pair.x));
    return rounded;
}

// Rounded toward zero, so that what is finite stays so.
__device__ inline unsigned cut_pair(float2 pair) {
    unsigned cut;
    asm("cvt.rz.bf16x2.f32 %0, %1, %2;" : "=r"(cut) : "f"(pair.y), "f"(pair.x));
    return cut;
}

__device__ inline float2 without(float2 pair, unsigned part) {
    return make_float2(pair.x - __uint_as_float(part << 16), pair.y - __uint_as_float(part & 0xffff0000u));
}

__device__ inline Parts parts(float2 pair) {
    Parts parts;
    parts.high = cut_pair(pair);
    pair = without(pair, parts.high);
    parts.middle = rounded_pair(pair);
    parts.low = rounded_pair(without(pair, parts.middle));
    return parts;
}

// Those of a pair of f16. There is no low one.
__device__ inline Parts parts(unsigned pair) {
    const float2 numbers = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    Parts parts;
    parts.high = rounded_pair(numbers);
    parts.middle = rounded_pair(without(numbers, parts.high));
    parts.low = 0;
    return parts;
}
