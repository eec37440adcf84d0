// Units of 16, 8, 4 or 2 bytes, in which rows are read and written: numbers in memory, and in f32.
#pragma once

#include "element.cuh"

// The numbers of a unit.
template <class T, class Unit>
__device__ inline void load(float* to, const T* from) {
    const Unit unit = __ldg(reinterpret_cast<const Unit*>(from));
    if constexpr (sizeof(Unit) == 2) {
        to[0] = number(*reinterpret_cast<const T*>(&unit));
    } else {
        const unsigned* words = reinterpret_cast<const unsigned*>(&unit);
#pragma unroll
        for (unsigned word = 0; word < sizeof(Unit) / 4; word++) {
            if constexpr (sizeof(T) == 4) {
                to[word] = __uint_as_float(words[word]);
            } else {
                const float2 pair = Pair<T>::numbers(*reinterpret_cast<const typename Pair<T>::Word*>(words + word));
                to[2 * word] = pair.x;
                to[2 * word + 1] = pair.y;
            }
        }
    }
}

__device__ inline unsigned word_of(const float* from, const f32*) { return __float_as_uint(from[0]); }

template <class T>
__device__ inline unsigned word_of(const float* from, const T*) {
    const typename Pair<T>::Word pair = Pair<T>::rounded(make_float2(from[0], from[1]));
    return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ inline unsigned short half_of(float number, const f16*) { return __half_as_ushort(__float2half_rn(number)); }
__device__ inline unsigned short half_of(float number, const bf16*) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(number));
}

// Rounds the numbers of a unit. (The compiler would store the words of a unit one by one.)
template <class T, class Unit>
__device__ inline void store(T* to, const float* from) {
    constexpr unsigned EACH = 4 / sizeof(T);
    if constexpr (sizeof(Unit) == 2) {
        *reinterpret_cast<unsigned short*>(to) = half_of(from[0], to);
    } else if constexpr (sizeof(Unit) == 4) {
        *reinterpret_cast<unsigned*>(to) = word_of(from, to);
    } else if constexpr (sizeof(Unit) == 8) {
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(word_of(from, to)),
                     "r"(word_of(from + EACH, to))
                     : "memory");
    } else {
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                     "r"(word_of(from, to)), "r"(word_of(from + EACH, to)), "r"(word_of(from + 2 * EACH, to)),
                     "r"(word_of(from + 3 * EACH, to))
                     : "memory");
    }
}

// N numbers of parameters from number `at` on, a multiple of N, which begin where units do: of type T, or f32.
template <class T, class Unit, unsigned N, class Index>
__device__ inline void load_parameters(float* to, const void* numbers, Index at, unsigned wide) {
    if (sizeof(T) == 2 && wide == 0) {
        load<T, Unit>(to, static_cast<const T*>(numbers) + at);
        return;
    }
    const float* from = static_cast<const float*>(numbers) + at;
    if constexpr (N == 1) {
        to[0] = __ldg(from);
    } else if constexpr (N == 2) {
        load<float, uint2>(to, from);
    } else {
#pragma unroll
        for (unsigned n = 0; n < N; n += 4) {
            load<float, uint4>(to + n, from + n);
        }
    }
}
