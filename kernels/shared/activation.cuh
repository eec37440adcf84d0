// Activations of sums, by the numbers that calls name them with. NaN stays.
#pragma once

#include "exp2.cuh"

constexpr unsigned RELU = 1;
constexpr unsigned GELU = 2;
constexpr unsigned GELU_TANH = 3;
constexpr unsigned GLU = 4;

// Below -16 both forms of a GELU are zero in f32, and above nothing is taken off. So what is further off is taken for that: the
// powers of it would overflow, and minus infinity times zero would be no number.
constexpr float FAR = 16.0f;

constexpr float LOG2_E = 1.44269504f;

// 1 / (1 + e^-x) of the number of this sign, whose magnitude times log2 e is given: by the exponential of what is below zero,
// which cannot overflow.
__device__ inline float sigmoid(bool negative, float magnitude) {
    const float power = exp2_of(-magnitude);
    return __fdividef(negative ? power : 1.0f, 1.0f + power);
}

// 1 - Phi(a) = erfc(a / sqrt 2) / 2 = 2^(-1 - p(a)) for 0 <= a <= FAR, with a polynomial p that was fitted to be off by as
// little as can be times the whole: by 0.14 roundoffs of 1 at most.
__device__ inline float upper_normal(float a) {
    float series = 2.8349114e-6f;
    series = fmaf(series, a, -3.9377675e-5f);
    series = fmaf(series, a, 1.8618017e-4f);
    series = fmaf(series, a, 1.3693652e-4f);
    series = fmaf(series, a, -7.0634205e-3f);
    series = fmaf(series, a, 5.249618e-2f);
    series = fmaf(series, a, 0.4592082f);
    series = fmaf(series, a, 1.1511052f);
    return exp2_of(fmaf(-series, a, -1.0f));
}

__device__ inline float gelu(float a) {
    const float upper = upper_normal(fminf(fabsf(a), FAR));
    return (a < -FAR ? -FAR : a) * (a < 0.0f ? upper : 1.0f - upper);
}

// (1 + tanh z) / 2 is the sigmoid of 2 z.
__device__ inline float gelu_tanh(float a) {
    const float magnitude = fminf(fabsf(a), FAR);
    // 2 sqrt(2 / pi), and that times 0.044715; and both times log2 e.
    constexpr float LINEAR = 1.595769122f * LOG2_E, CUBIC = 0.071354816f * LOG2_E;
    const float twice = magnitude * fmaf(magnitude * magnitude, CUBIC, LINEAR);
    return (a < -FAR ? -FAR : a) * sigmoid(a < 0.0f, twice);
}

__device__ inline float glu(float a, float gate) { return a * sigmoid(gate < 0.0f, fabsf(gate) * LOG2_E); }

// Of four numbers, with their gates where it is a GLU; more than a ReLU.
__device__ inline float4 activated(unsigned activation, float4 a, float4 gates) {
    if (activation == GLU) {
        return make_float4(glu(a.x, gates.x), glu(a.y, gates.y), glu(a.z, gates.z), glu(a.w, gates.w));
    }
    if (activation == GELU) {
        return make_float4(gelu(a.x), gelu(a.y), gelu(a.z), gelu(a.w));
    }
    return make_float4(gelu_tanh(a.x), gelu_tanh(a.y), gelu_tanh(a.z), gelu_tanh(a.w));
}
