// Slabs: DEPTH numbers of each row of a tile, in the block's memory, as tensor cores read them.
//
// Rows follow one another without a gap. Eight numbers are read together, those of eight rows at a time (`ldmatrix`, 16
// bits) or of four (32 bits). So that these lie on different banks, the eights of a row change places: number n of a row is
// at byte (n * size) ^ turn(row), for rows that begin at multiples of their bytes.
#pragma once

#include "copy.cuh"
#include "mma.cuh"

constexpr unsigned DEPTH = 32;

// For rows of WIDTH numbers. Turns of the bits of a row number turn together: turn(a | b) = turn(a) ^ turn(b).
template <class Element, unsigned WIDTH>
__device__ constexpr unsigned turn(unsigned row) {
    constexpr unsigned EIGHT = 8 * sizeof(Element);
    constexpr unsigned EIGHTS = WIDTH / 8;
    // Rows that fill the banks once.
    constexpr unsigned ROWS = EIGHTS * EIGHT < 128 ? 128 / (EIGHTS * EIGHT) : 1;
    return row / ROWS % EIGHTS * EIGHT;
}

// Bytes from a slab's first to number `number` of a row.
template <class Element, unsigned WIDTH>
__device__ constexpr unsigned place(unsigned row, unsigned number) {
    return row * unsigned(WIDTH * sizeof(Element)) + (number * unsigned(sizeof(Element)) ^ turn<Element, WIDTH>(row));
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

// Copies the slabs of a tile of ROWS rows one after another: each thread one unit of every so many rows. Numbers that there
// are not are zero.
template <class Element, unsigned ROWS, unsigned THREADS>
struct Stager {
    static constexpr unsigned ROW_BYTES = DEPTH * sizeof(Element);

    Matrix<Element> matrix;
    // The thread's first unit of the next slab, and where it lies in the slab.
    const Element* from;
    unsigned place;

    __device__ Stager(const Matrix<Element>& matrix) : matrix(matrix) {
        const unsigned units = ROW_BYTES / matrix.unit;
        const unsigned row = thread() / units;
        const unsigned number = thread() % units * (matrix.unit / unsigned(sizeof(Element)));
        from = matrix.first + row * matrix.stride + number;
        place = ::place<Element, DEPTH>(row, number);
    }

    // Every THREADS threads of a block may have a tile of their own.
    static __device__ unsigned thread() { return threadIdx.x % THREADS; }

    // Copies the next slab, which begins with number `first` of each row, to `slab`.
    __device__ void copy(unsigned char* slab, unsigned first) {
        if (matrix.unit == 16) {
            copy_by<uint4>(slab, first);
        } else if (matrix.unit == 8) {
            copy_by<uint2>(slab, first);
        } else if (matrix.unit == 4) {
            copy_by<unsigned>(slab, first);
        } else if constexpr (sizeof(Element) == 2) {
            copy_by<unsigned short>(slab, first);
        }
        from += DEPTH;
    }

    template <class Unit>
    __device__ void copy_by(unsigned char* slab, unsigned first) const {
        constexpr unsigned UNITS = ROW_BYTES / sizeof(Unit);
        constexpr unsigned AT_ONCE = THREADS / UNITS;
        static_assert(AT_ONCE > 0 && ROWS % AT_ONCE == 0, "a whole number of rows at once, and of rounds");
        const bool within = first + thread() % UNITS * (DEPTH / UNITS) < matrix.width;
        const Element* unit = from;
#pragma unroll(sizeof(Unit) == 16 ? ROWS / AT_ONCE : 2)
        for (unsigned row = 0; row < ROWS; row += AT_ONCE) {
            const bool exists = within && thread() / UNITS + row < matrix.rows;
            unsigned char* to = slab + row * ROW_BYTES + (place ^ turn<Element, DEPTH>(row));
            copy_if(exists, reinterpret_cast<Unit*>(to), reinterpret_cast<const Unit*>(unit));
            unit += AT_ONCE * matrix.stride;
        }
    }
};

// Copies slabs 0 to `slabs` one after another with `copy(stage, slab)` into a ring of STAGES stages, and has each used, in
// the same order, by `use(stage)`, when it is there for all threads. All threads of the block take part.
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
            use(stage);
        }
    }
}
