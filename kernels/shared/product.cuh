// A tile of X W^T on tensor cores, its sums in registers. The rows of X are the tile's rows; those of W are its columns.
//
// W in the type of X takes one product. W in f32 is three bf16 numbers (`parts.cuh`), and f16 numbers of X two: three
// products of a bf16 number of X, and five of an f16 one. The sixth, of the low part and the second one, is under 2^-25 of
// the whole, and left out.
#pragma once

#include "element.cuh"
#include "mma.cuh"
#include "parts.cuh"
#include "slab.cuh"

// How a tile is divided among warps, DOWN x ACROSS of them, and a warp's part of it among matrices of 16 x 8.
template <unsigned ROWS_, unsigned COLUMNS_, unsigned DOWN_, unsigned ACROSS_>
struct Shape {
    static constexpr unsigned ROWS = ROWS_;
    static constexpr unsigned COLUMNS = COLUMNS_;
    static constexpr unsigned WARPS = DOWN_ * ACROSS_;
    static constexpr unsigned THREADS = 32 * WARPS;
    static constexpr unsigned WARP_ROWS = ROWS / DOWN_;
    static constexpr unsigned WARP_COLUMNS = COLUMNS / ACROSS_;
    static constexpr unsigned ROW_MATRICES = WARP_ROWS / 16;
    static constexpr unsigned COLUMN_MATRICES = WARP_COLUMNS / 8;
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLUMNS % 16 == 0, "columns are loaded by pairs of matrices");

    static __device__ unsigned warp_row() { return threadIdx.x / 32 / ACROSS_ * WARP_ROWS; }
    static __device__ unsigned warp_column() { return threadIdx.x / 32 % ACROSS_ * WARP_COLUMNS; }

    // Where this lane's row of the warp's first matrix of rows lies in a slab of 16-bit numbers.
    static __device__ unsigned row_place() {
        const unsigned lane = threadIdx.x % 32;
        return place<f16, DEPTH>(warp_row() + lane % 16, lane / 16 * 8);
    }
};

// A warp's rows in a slab of 16-bit numbers.
template <class Shape>
struct SlabRows {
    const unsigned char* slab;

    // Numbers `k` to `k` + 15 of the rows of matrix `i`.
    __device__ void load(unsigned (&row)[4], unsigned i, unsigned k) const {
        load_matrices(row, slab + (Shape::row_place() ^ place<f16, DEPTH>(0, k)) + place<f16, DEPTH>(i * 16, 0));
    }
};

template <class Shape>
struct Sums {
    float of[Shape::ROW_MATRICES][Shape::COLUMN_MATRICES][4];

    __device__ void clear() {
#pragma unroll
        for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
#pragma unroll
                for (unsigned n = 0; n < 4; n++) {
                    of[i][j][n] = 0.0f;
                }
            }
        }
    }

    // Puts what `finisher(column)(sums)` makes of the sums in `column` and the next, counted from the tile's first, in their
    // place.
    template <class Finisher>
    __device__ void finish(Finisher finisher) {
#pragma unroll
        for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
            const auto finish = finisher(Shape::warp_column() + j * 8 + threadIdx.x % 4 * 2);
#pragma unroll
            for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
#pragma unroll
                for (unsigned n = 0; n < 4; n += 2) {
                    const float2 finished = finish(make_float2(of[i][j][n], of[i][j][n + 1]));
                    of[i][j][n] = finished.x;
                    of[i][j][n + 1] = finished.y;
                }
            }
        }
    }
};

template <class X>
constexpr bool IS_F16 = false;
template <>
constexpr bool IS_F16<f16> = true;

// The tile's sums in this thread. W is of the type of X.
template <class X, class W, class Shape>
struct Product {
    Sums<Shape> sums;

    __device__ void clear() { sums.clear(); }

    // For sums that are made otherwise.
    __device__ Sums<Shape>& own() { return sums; }

    // Adds the products of a slab of X, as `SlabRows` or likewise, and one of W.
    template <class Rows>
    __device__ void add(const Rows& rows, const unsigned char* columns) {
        const unsigned lane = threadIdx.x % 32;
        const unsigned column_place =
            place<W, DEPTH>(Shape::warp_column() + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
#pragma unroll
        for (unsigned k = 0; k < DEPTH; k += 16) {
            unsigned column[Shape::COLUMN_MATRICES][2];
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j += 2) {
                unsigned pair[4];
                load_matrices(pair, columns + (column_place ^ place<W, DEPTH>(0, k)) + place<W, DEPTH>(j * 8, 0));
                column[j][0] = pair[0], column[j][1] = pair[1];
                column[j + 1][0] = pair[2], column[j + 1][1] = pair[3];
            }
#pragma unroll
            for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
                unsigned row[4];
                rows.load(row, i, k);
#pragma unroll
                for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
                    multiply_matrices<X>(sums.of[i][j], row, column[j]);
                }
            }
        }
    }

    __device__ float sum(unsigned i, unsigned j, unsigned n) const { return sums.of[i][j][n]; }

    // See `Sums`.
    template <class Finisher>
    __device__ void finish(Finisher finisher) {
        sums.finish(finisher);
    }
};

template <class X, class Shape>
struct Product<X, f32, Shape> {
    Sums<Shape> high;
    // Of all other parts: see `parts.cuh`.
    Sums<Shape> rest;

    __device__ void clear() {
        high.clear();
        rest.clear();
    }

    __device__ Sums<Shape>& own() { return high; }

    template <class Rows>
    __device__ void add(const Rows& rows, const unsigned char* columns) {
        const unsigned lane = threadIdx.x % 32;
        const unsigned column_place = place<f32, DEPTH>(Shape::warp_column() + lane / 4, lane % 4 * 2);
        // Not unrolled: there are registers for the parts of one step.
#pragma unroll 1
        for (unsigned k = 0; k < DEPTH; k += 16) {
            unsigned highs[Shape::COLUMN_MATRICES][2], middles[Shape::COLUMN_MATRICES][2];
            unsigned lows[Shape::COLUMN_MATRICES][2];
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const unsigned char* from = columns + (column_place ^ place<f32, DEPTH>(0, k + half * 8)) +
                                                place<f32, DEPTH>(j * 8, 0);
                    const Parts all = parts(*reinterpret_cast<const float2*>(from));
                    highs[j][half] = all.high, middles[j][half] = all.middle, lows[j][half] = all.low;
                }
            }
#pragma unroll
            for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
                unsigned row[4];
                rows.load(row, i, k);
                // What f16 numbers are besides their high parts.
                unsigned second[4];
                if constexpr (IS_F16<X>) {
#pragma unroll
                    for (unsigned n = 0; n < 4; n++) {
                        const Parts all = parts(row[n]);
                        row[n] = all.high, second[n] = all.middle;
                    }
                }
                multiply_each(high, i, row, highs);
                multiply_each(rest, i, row, middles);
                multiply_each(rest, i, row, lows);
                if constexpr (IS_F16<X>) {
                    multiply_each(rest, i, second, highs);
                    multiply_each(rest, i, second, middles);
                }
            }
        }
    }

    __device__ float sum(unsigned i, unsigned j, unsigned n) const {
        const float sum = high.of[i][j][n];
        return fabsf(sum) <= LARGEST ? sum + rest.of[i][j][n] : sum;
    }

    // The sums of all parts are one then.
    template <class Finisher>
    __device__ void finish(Finisher finisher) {
#pragma unroll
        for (unsigned i = 0; i < Shape::ROW_MATRICES; i++) {
#pragma unroll
            for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
#pragma unroll
                for (unsigned n = 0; n < 4; n++) {
                    high.of[i][j][n] = sum(i, j, n);
                }
            }
        }
        rest.clear();
        high.finish(finisher);
    }

    static __device__ void multiply_each(Sums<Shape>& sums, unsigned i, const unsigned (&row)[4],
                                         const unsigned (&columns)[Shape::COLUMN_MATRICES][2]) {
#pragma unroll
        for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
            multiply_matrices<bf16>(sums.of[i][j], row, columns[j]);
        }
    }
};
