// Values weighted with f32 numbers, by multiply-adds: a block of 16 x 16 threads has 64 queries. A thread has rows 16 apart,
// as the scores of `plain_product.cuh` lie, and QUADS quads of channels, 64 apart.
#pragma once

#include "naive_attention.cuh"
#include "plain_product.cuh"

// Threads along each side of a tile of scores.
constexpr unsigned SIDE = 16;
constexpr unsigned THREADS = SIDE * SIDE;
// Channels of a slab of queries and keys, and numbers from one of its rows to the next.
constexpr unsigned DEPTH = 16;
constexpr unsigned PITCH = pitch(DEPTH);

constexpr unsigned QUERIES = 4 * SIDE;

// A row of weights in the block's memory takes WEIGHTS numbers and as many more as put the next one on the other half of
// the banks.
__device__ constexpr unsigned weight_pitch(unsigned weights) { return weights / 32 * 32 + 16 + (weights % 32 > 16 ? 32 : 0); }

__device__ inline float at(const float4& quad, unsigned n) { return n == 0 ? quad.x : n == 1 ? quad.y : n == 2 ? quad.z : quad.w; }

__device__ inline void multiply_add(float4& sums, float weight, const float4& values) {
    sums.x = fmaf(weight, values.x, sums.x);
    sums.y = fmaf(weight, values.y, sums.y);
    sums.z = fmaf(weight, values.z, sums.z);
    sums.w = fmaf(weight, values.w, sums.w);
}

// Adds `count` keys, a multiple of four. `weights` is the thread's first row of them, and `values` its first quad.
template <unsigned QUADS, unsigned PITCH_OF_WEIGHTS>
__device__ void add_values(float4 (&sums)[4][QUADS], const float* weights, const float* values, unsigned count,
                           bool all_seen) {
    constexpr unsigned WIDTH = QUADS * 64;
    if (!all_seen) {
#pragma unroll 1
        for (unsigned key = 0; key < count; key++) {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const float weight = weights[i * SIDE * PITCH_OF_WEIGHTS + key];
                // NaN is a weight.
                if (weight == UNSEEN) {
                    continue;
                }
#pragma unroll
                for (unsigned c = 0; c < QUADS; c++) {
                    multiply_add(sums[i][c], weight, *reinterpret_cast<const float4*>(values + key * WIDTH + c * 64));
                }
            }
        }
        return;
    }
#pragma unroll 1
    for (unsigned key = 0; key < count; key += 4) {
        float4 row[4];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            row[i] = *reinterpret_cast<const float4*>(weights + i * SIDE * PITCH_OF_WEIGHTS + key);
        }
#pragma unroll
        for (unsigned n = 0; n < 4; n++) {
#pragma unroll
            for (unsigned c = 0; c < QUADS; c++) {
                const float4 value = *reinterpret_cast<const float4*>(values + (key + n) * WIDTH + c * 64);
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    multiply_add(sums[i][c], at(row[i], n), value);
                }
            }
        }
    }
}

// Copies `count` rows of WIDTH numbers without a gap between them; zero where there is none.
template <class Unit, unsigned WIDTH>
__device__ void stage_whole_by(float* to, unsigned pitch, unsigned count, const float* from, unsigned long long stride,
                              unsigned rows, unsigned width) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(float);
    constexpr unsigned UNITS = WIDTH / EACH;
#pragma unroll 1
    for (unsigned unit = threadIdx.x; unit < count * UNITS; unit += THREADS) {
        const unsigned row = unit / UNITS, number = unit % UNITS * EACH;
        const bool exists = row < rows && number < width;
        copy_if(exists, reinterpret_cast<Unit*>(to + row * pitch + number),
                reinterpret_cast<const Unit*>(from + (exists ? row * stride + number : 0)));
    }
}

template <unsigned WIDTH>
__device__ void stage_whole(unsigned unit_bytes, float* to, unsigned pitch, unsigned count, const float* from,
                           unsigned long long stride, unsigned rows, unsigned width) {
    if (unit_bytes == 16) {
        stage_whole_by<uint4, WIDTH>(to, pitch, count, from, stride, rows, width);
    } else if (unit_bytes == 8) {
        stage_whole_by<uint2, WIDTH>(to, pitch, count, from, stride, rows, width);
    } else {
        stage_whole_by<unsigned, WIDTH>(to, pitch, count, from, stride, rows, width);
    }
}

// Stores a row of a thread: `width` numbers there are, from the thread's first quad on.
template <unsigned QUADS>
__device__ void store_row(float* to, const float4 (&sums)[QUADS], float scale, bool used, int width, unsigned unit_bytes) {
#pragma unroll
    for (unsigned c = 0; c < QUADS; c++) {
        float4 quad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (used) {
            quad = make_float4(sums[c].x * scale, sums[c].y * scale, sums[c].z * scale, sums[c].w * scale);
        }
        if (unit_bytes == 16) {
            if (int(c * 64) < width) {
                // The compiler would store four numbers one by one.
                asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to + c * 64)),
                             "f"(quad.x), "f"(quad.y), "f"(quad.z), "f"(quad.w)
                             : "memory");
            }
        } else {
#pragma unroll 1
            for (int n = 0; n < min(4, width - int(c * 64)); n++) {
                to[c * 64 + n] = at(quad, n);
            }
        }
    }
}
