// What products of matrices of any types have in common, by multiply-adds and on tensor cores: the numbers of a call, A with
// its gate, and how sums leave. See `linear_backward.cu`.
#pragma once

#include "typed.cuh"

constexpr unsigned THREADS = 256;
// Of a contraction, brought in at once.
constexpr unsigned STEP = 16;
constexpr unsigned QUAD = 4;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one row to the next, of A, its gate, B, addend, factor and C.
    unsigned long long a_stride;
    unsigned long long gate_stride;
    unsigned long long b_stride;
    unsigned long long addend_stride;
    unsigned long long factor_stride;
    unsigned long long c_stride;
    // Elements from a chunk of C to the next.
    unsigned long long c_chunk;
    unsigned rows;
    unsigned columns;
    unsigned depth;
    // Of the contraction, a multiple of STEP.
    unsigned chunk;
    // Tiles side by side, and one below the other.
    unsigned across;
    unsigned down;
    // Rows of each padded sequence, or 0 where none is.
    unsigned time;
    unsigned gating;
    unsigned has_addend;
    unsigned has_factor;
    // 0: f32, 1: f16, 2: bf16.
    unsigned a_type;
    unsigned gate_type;
    unsigned b_type;
    unsigned addend_type;
    unsigned factor_type;
    unsigned c_type;
    // Whether rows are whole quads, each aligned to its size: of A and its gate, of B, and of all others.
    unsigned a_wide;
    unsigned b_wide;
    unsigned c_wide;
    unsigned unused;
};

__device__ inline float at(const float4& quad, unsigned n) { return n == 0 ? quad.x : n == 1 ? quad.y : n == 2 ? quad.z : quad.w; }

// A, with its gate.
struct Gated {
    Typed matrix;
    Typed gate;
    unsigned gating;

    __device__ float4 quad(unsigned row, unsigned first) const {
        float4 numbers = quad_at(matrix, row, first);
        if (gating != UNGATED) {
            const float4 gates = quad_at(gate, row, first);
            numbers.x = gated(gating, numbers.x, gates.x);
            numbers.y = gated(gating, numbers.y, gates.y);
            numbers.z = gated(gating, numbers.z, gates.z);
            numbers.w = gated(gating, numbers.w, gates.w);
        }
        return numbers;
    }

    __device__ float number(unsigned row, unsigned column) const {
        const float number = number_at(matrix, row, column);
        return gating == UNGATED ? number : gated(gating, number, number_at(gate, row, column));
    }
};

// B.
struct Ungated {
    Typed matrix;

    __device__ float4 quad(unsigned row, unsigned first) const { return quad_at(matrix, row, first); }

    __device__ float number(unsigned row, unsigned column) const { return number_at(matrix, row, column); }
};

// Stores four sums, or what is there of them, with addend and factor; zero where the row is none.
__device__ inline void finish(const Params& params, const Typed& addend, const Typed& factor, void* c, unsigned chunk,
                              unsigned row, unsigned column, bool exists, const float4* sums) {
    const unsigned long long to = chunk * params.c_chunk + row * params.c_stride + column;
    if (params.c_wide != 0) {
        float4 quad = *sums;
        if (params.has_addend != 0 && exists) {
            const float4 added = quad_at(addend, row, column);
            quad = make_float4(quad.x + added.x, quad.y + added.y, quad.z + added.z, quad.w + added.w);
        }
        if (params.has_factor != 0 && exists) {
            const float4 times = quad_at(factor, row, column);
            quad = make_float4(quad.x * times.x, quad.y * times.y, quad.z * times.z, quad.w * times.w);
        }
        store_quad(c, params.c_type, to, exists ? quad : make_float4(0.0f, 0.0f, 0.0f, 0.0f));
        return;
    }
    const float* numbers = reinterpret_cast<const float*>(sums);
#pragma unroll 1
    for (unsigned n = 0; n < min(QUAD, params.columns - column); n++) {
        float number = numbers[n];
        if (params.has_addend != 0 && exists) {
            number += number_at(addend, row, column + n);
        }
        if (params.has_factor != 0 && exists) {
            number *= number_at(factor, row, column + n);
        }
        store_number(c, params.c_type, to + n, exists ? number : 0.0f);
    }
}
