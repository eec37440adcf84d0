// Slabs: DEPTH numbers of each row of a tile, in the block's memory, as tensor cores read them.
//
// A row is units of 16 bytes, and rows follow one another without a gap. Eight numbers are read together, those of eight
// rows at a time (`ldmatrix`, 16 bits) or of four (32 bits). So that they lie on different banks, the eights of a row change
// places, in a way that depends on the row.
#pragma once

#include "copy.cuh"
#include "mma.cuh"

constexpr unsigned DEPTH = 32;

// Bytes from a slab's first to where number `first` of a row is, the first of eight (or within it, by whole numbers), for
// rows of WIDTH numbers.
template <class Element, unsigned WIDTH>
__device__ unsigned place(unsigned row, unsigned first) {
    constexpr unsigned EIGHT = 8 * sizeof(Element);
    constexpr unsigned EIGHTS = WIDTH / 8;
    // Rows that fill the banks once.
    constexpr unsigned ROWS = EIGHTS * EIGHT < 128 ? 128 / (EIGHTS * EIGHT) : 1;
    const unsigned eight = first / 8 ^ row / ROWS % EIGHTS;
    return row * (EIGHTS * EIGHT) + eight * EIGHT + first % 8 * unsigned(sizeof(Element));
}

// Rows of a matrix, from the first of a tile on.
template <class Element>
struct Matrix {
    const Element* first;
    // Elements from one row to the next.
    unsigned long long stride;
    // How many there are.
    unsigned rows;
    // Numbers of a row.
    unsigned width;
    // Bytes of a unit: 16, 8, 4 or 2, no less than an element. All rows are aligned to it, and whole units.
    unsigned unit;
};

// Copies numbers `first` to `first` + DEPTH of ROWS rows. What there is not is zero.
template <class Unit, unsigned ROWS, unsigned THREADS, class Element>
__device__ void copy_slab_by(unsigned char* slab, const Matrix<Element>& matrix, unsigned first) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(Element);
    constexpr unsigned UNITS = DEPTH / EACH;
    constexpr unsigned AT_ONCE = THREADS / UNITS;
    const unsigned number = threadIdx.x % UNITS * EACH;
    const bool within = first + number < matrix.width;
#pragma unroll(sizeof(Unit) == 16 ? ROWS / AT_ONCE : sizeof(Unit) == 2 ? 4 : 1)
    for (unsigned row = threadIdx.x / UNITS; row < ROWS; row += AT_ONCE) {
        const bool exists = within && row < matrix.rows;
        const Element* from = exists ? matrix.first + row * matrix.stride + (first + number) : matrix.first;
        copy_if(exists, reinterpret_cast<Unit*>(slab + place<Element, DEPTH>(row, number)),
                reinterpret_cast<const Unit*>(from));
    }
}

template <unsigned ROWS, unsigned THREADS, class Element>
__device__ void copy_slab(unsigned char* slab, const Matrix<Element>& matrix, unsigned first) {
    if (matrix.unit == 16) {
        copy_slab_by<uint4, ROWS, THREADS>(slab, matrix, first);
    } else if (matrix.unit == 8) {
        copy_slab_by<uint2, ROWS, THREADS>(slab, matrix, first);
    } else if (matrix.unit == 4) {
        copy_slab_by<unsigned, ROWS, THREADS>(slab, matrix, first);
    } else if constexpr (sizeof(Element) == 2) {
        copy_slab_by<unsigned short, ROWS, THREADS>(slab, matrix, first);
    }
}

// Copies slabs 0 to `slabs` one after another with `copy(stage, slab)` into a ring of STAGES stages, and has them used in
// their order by `use(stage, slab)`, when they are there for all threads. All threads of the block take part.
template <unsigned STAGES, class Copy, class Use>
__device__ void stream_slabs(unsigned slabs, Copy copy, Use use) {
    unsigned stage = 0;
#pragma unroll 1
    for (unsigned slab = 0; slab < slabs + STAGES - 1; slab++) {
        wait_for_groups<STAGES - 2>();
        // The slab that is used now is there for all, and the one that lay where this one is copied to was used by all.
        __syncthreads();
        if (slab < slabs) {
            copy(stage, slab);
        }
        // A group for every slab, empty or not, so that those left are counted right.
        end_group();
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        if (slab + 1 >= STAGES) {
            use(stage, slab + 1 - STAGES);
        }
    }
}
