// A tile of outputs from the sums of its product into memory.
//
// The pairs of numbers that a thread has would half-fill the sectors of memory. So each warp puts its part of the tile, as
// many rows as there is room for at a time, into the block's memory and stores it from there by wide units.
#pragma once

#include "product.cuh"

// Rows of outputs, from the first of a tile on.
template <class Y>
struct Outputs {
    // Of the tile's first row and column.
    Y* first;
    // Elements from one row to the next.
    unsigned long long stride;
    // How many there are.
    unsigned rows;
    unsigned columns;
    // Bytes of a unit: 16, 8, 4 or 2, no less than an element. All rows are aligned to it, and whole units.
    unsigned unit;
};

// Stores ROWS rows of a warp, WIDTH numbers each.
template <class Unit, unsigned ROWS, unsigned WIDTH, class Y>
__device__ void store_rows_by(const Outputs<Y>& outputs, const unsigned char* strip, unsigned first_row,
                              unsigned first_column) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(Y);
    constexpr unsigned UNITS = WIDTH / EACH;
    // Lanes side by side, and rows at once.
    constexpr unsigned ACROSS = UNITS < 32 ? UNITS : 32;
    constexpr unsigned AT_ONCE = 32 / ACROSS;
    const unsigned lane = threadIdx.x % 32;
#pragma unroll 1
    for (unsigned unit = lane % ACROSS; unit < UNITS; unit += ACROSS) {
        const unsigned number = unit * EACH;
        if (first_column + number >= outputs.columns) {
            return;
        }
        Y* to = outputs.first + (first_column + number);
#pragma unroll(sizeof(Unit) == 16 ? 4 : 1)
        for (unsigned row = lane / ACROSS; row < ROWS; row += AT_ONCE) {
            if (first_row + row < outputs.rows) {
                *reinterpret_cast<Unit*>(to + (first_row + row) * outputs.stride) =
                    *reinterpret_cast<const Unit*>(strip + place<Y, WIDTH>(row, number));
            }
        }
    }
}

template <unsigned ROWS, unsigned WIDTH, class Y>
__device__ void store_rows(const Outputs<Y>& outputs, const unsigned char* strip, unsigned first_row,
                           unsigned first_column) {
    if (outputs.unit == 16) {
        store_rows_by<uint4, ROWS, WIDTH>(outputs, strip, first_row, first_column);
    } else if (outputs.unit == 8) {
        store_rows_by<uint2, ROWS, WIDTH>(outputs, strip, first_row, first_column);
    } else if (outputs.unit == 4) {
        store_rows_by<unsigned, ROWS, WIDTH>(outputs, strip, first_row, first_column);
    } else if constexpr (sizeof(Y) == 2) {
        store_rows_by<unsigned short, ROWS, WIDTH>(outputs, strip, first_row, first_column);
    }
}

// The most that is no more than `room`, and of which `all` is a multiple.
__device__ constexpr unsigned whole_part(unsigned all, unsigned room) {
    while (all % room != 0) {
        room--;
    }
    return room;
}

// Puts what `finisher(column)(row, sums)` makes of the sums in matrices `first` to `first` + AT_ONCE of a warp's rows, as
// `store_tile`, into a strip of its own.
template <unsigned AT_ONCE, class Y, class X, class W, class Shape, class Finisher>
__device__ void put_strip(unsigned char* strip, const Product<X, W, Shape>& product, unsigned first,
                          Finisher finisher) {
    constexpr unsigned WIDTH = Shape::WARP_COLUMNS;
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned j = 0; j < Shape::COLUMN_MATRICES; j++) {
        const unsigned column = j * 8 + lane % 4 * 2;
        const auto finish = finisher(Shape::warp_column() + column);
#pragma unroll
        for (unsigned half = 0; half < 2 * AT_ONCE; half++) {
            const unsigned row = half * 8 + lane / 4, i = first + half / 2, n = half % 2 * 2;
            const float2 sums = make_float2(product.sum(i, j, n), product.sum(i, j, n + 1));
            const float2 finished = finish(Shape::warp_row() + first * 16 + row, sums);
            *reinterpret_cast<typename Pair<Y>::Word*>(strip + place<Y, WIDTH>(row, column)) =
                Pair<Y>::rounded(finished);
        }
    }
}

// Stores what `finisher(column)(row, sums)` makes of the sums of each row in `column` and the next, both counted from the
// tile's first. BYTES of the block's memory are free: all threads have done with what was there.
template <unsigned BYTES, class X, class W, class Shape, class Y, class Finisher>
__device__ void store_tile(unsigned char* memory, const Product<X, W, Shape>& product, const Outputs<Y>& outputs,
                           Finisher finisher) {
    constexpr unsigned WIDTH = Shape::WARP_COLUMNS;
    constexpr unsigned ROOM = BYTES / Shape::WARPS / (16 * WIDTH * sizeof(Y));
    static_assert(ROOM > 0, "a warp has room for one matrix of rows at least");
    constexpr unsigned AT_ONCE = whole_part(Shape::ROW_MATRICES, ROOM);
    unsigned char* strip = memory + threadIdx.x / 32 * (AT_ONCE * 16 * WIDTH * unsigned(sizeof(Y)));
#pragma unroll
    for (unsigned first = 0; first < Shape::ROW_MATRICES; first += AT_ONCE) {
        if (first > 0) {
            __syncwarp();
        }
        put_strip<AT_ONCE, Y>(strip, product, first, finisher);
        __syncwarp();
        store_rows<AT_ONCE * 16, WIDTH>(outputs, strip, Shape::warp_row() + first * 16, Shape::warp_column());
    }
}
