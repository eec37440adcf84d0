// Powers of two, by the instruction that devices have for them: 2^-22 of them off, and zero below the smallest normal number.
#pragma once

__device__ inline float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
