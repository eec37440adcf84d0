// A tile of R W^T on tensor cores for rows in f32, which are three bf16 numbers each (`parts.cuh`).
//
// W in bf16 takes three products. W in f16 is two bf16 numbers, and takes five; W in f32 is three, and takes six. What is left
// out is the low part of one and the middle part of the other, under 2^-23 of a term, or the low parts of both. Two parts of
// a row would leave out 2^-17, which shows where terms cancel.
//
// A zero of a part times infinity would be NaN. So only the product of the high parts has numbers that are infinite or NaN:
// every other has zero in their place, and the sums are what multiply-adds would make of such numbers. To look for them in
// every slab would be a fifth of all instructions: where the sums of a tile are finite there are none, and where they are
// not, the tile is to be made again, `careful`.
#pragma once

#include "halves.cuh"
#include "product.cuh"

// The lower parts of a number that is infinite or NaN are zero.
__device__ inline Parts finite_parts(float2 pair) {
    Parts all;
    all.high = cut_pair(pair);
    float2 rest = without(pair, all.high);
    rest.x = fabsf(pair.x) <= LARGEST ? rest.x : 0.0f;
    rest.y = fabsf(pair.y) <= LARGEST ? rest.y : 0.0f;
    all.middle = rounded_pair(rest);
    all.low = rounded_pair(without(rest, all.middle));
    return all;
}

// Those of a pair of W in 16 bits.
template <class W>
__device__ Parts weight_parts(unsigned pair, bool careful) {
    Parts all;
    all.high = pair;
    all.middle = all.low = 0;
    if constexpr (IS_F16<W>) {
        all = parts(pair);
        all.middle = careful ? finite<bf16>(all.middle) : all.middle;
    }
    return all;
}

// The tile's sums in this thread. The parts of a slab of rows lie PLANE bytes from one another, the high ones first.
template <class W, class Shape>
struct PartsProduct {
    static constexpr unsigned PLANE = Shape::ROWS * DEPTH * sizeof(bf16);
    static constexpr bool IS_F32 = sizeof(W) == 4;
    // W is made of so many.
    static constexpr unsigned PARTS = IS_F32 ? 3 : IS_F16<W> ? 2 : 1;

    Sums<Shape> sums;

    __device__ void clear() { sums.clear(); }

    // Whether this thread has a sum that is infinite or NaN.
    __device__ bool wild() const {
        bool wild = false;
#pragma unroll
        for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
#pragma unroll
                for (unsigned n = 0; n < 4; n++) {
                    wild = wild || !(fabsf(sums.of[i][j][n]) <= LARGEST);
                }
            }
        }
        return wild;
    }

    // Adds the products of a slab of rows and one of W. Where numbers are infinite or NaN the sums are right if it is careful,
    // and infinite or NaN anyway.
    __device__ void add(const unsigned char* rows, const unsigned char* columns, bool careful) {
        const unsigned row_place = Shape::row_place();
        // Not unrolled: there are registers for the parts of one step.
#pragma unroll 1
        for (unsigned k = 0; k < DEPTH; k += 16) {
            unsigned highs[Shape::COLUMN_MATRICES][2], middles[Shape::COLUMN_MATRICES][2];
            unsigned lows[Shape::COLUMN_MATRICES][2];
            load_columns(highs, middles, lows, columns, k, careful);
            const unsigned char* from = rows + (row_place ^ place<bf16, DEPTH>(0, k));
#pragma unroll
            for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
                unsigned row[4];
                load_matrices(row, from + place<bf16, DEPTH>(i * 16, 0));
                multiply_each(i, row, highs);
                if constexpr (PARTS > 1) {
                    if (careful) {
#pragma unroll
                        for (unsigned n = 0; n < 4; n++) {
                            row[n] = finite<bf16>(row[n]);
                        }
                    }
                    multiply_each(i, row, middles);
                }
                if constexpr (PARTS > 2) {
                    multiply_each(i, row, lows);
                }
            }
            if (careful) {
#pragma unroll
                for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
                    highs[j][0] = finite<bf16>(highs[j][0]);
                    highs[j][1] = finite<bf16>(highs[j][1]);
                }
            }
#pragma unroll
            for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
                unsigned row[4];
                load_matrices(row, from + PLANE + place<bf16, DEPTH>(i * 16, 0));
                multiply_each(i, row, highs);
                if constexpr (PARTS > 1) {
                    multiply_each(i, row, middles);
                }
                load_matrices(row, from + 2 * PLANE + place<bf16, DEPTH>(i * 16, 0));
                multiply_each(i, row, highs);
            }
        }
    }

    static __device__ void load_columns(unsigned (&highs)[Shape::COLUMN_MATRICES][2],
                                        unsigned (&middles)[Shape::COLUMN_MATRICES][2],
                                        unsigned (&lows)[Shape::COLUMN_MATRICES][2], const unsigned char* columns,
                                        unsigned k, bool careful) {
        const unsigned lane = threadIdx.x % 32;
        const auto set = [&](unsigned j, unsigned half, const Parts& all) {
            highs[j][half] = all.high, middles[j][half] = all.middle, lows[j][half] = all.low;
        };
        if constexpr (IS_F32) {
            const unsigned column_place = place<f32, DEPTH>(Shape::warp_column() + lane / 4, lane % 4 * 2);
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned char* from = columns + (column_place ^ place<f32, DEPTH>(0, k + half * 8)) +
                                                place<f32, DEPTH>(j * 8, 0);
                    set(j, half, finite_parts(*reinterpret_cast<const float2*>(from)));
                }
            }
        } else {
            const unsigned column_place =
                place<W, DEPTH>(Shape::warp_column() + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j += 2) {
                unsigned pair[4];
                load_matrices(pair, columns + (column_place ^ place<W, DEPTH>(0, k)) + place<W, DEPTH>(j * 8, 0));
#pragma unroll
                for (unsigned n = 0; n < 4; n++) {
                    set(j + n / 2, n % 2, weight_parts<W>(pair[n], careful));
                }
            }
        }
    }

    __device__ void multiply_each(unsigned i, const unsigned (&row)[4],
                                  const unsigned (&columns)[Shape::COLUMN_MATRICES][2]) {
#pragma unroll
        for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
            multiply_matrices<bf16>(sums.of[i][j], row, columns[j]);
        }
    }
};
