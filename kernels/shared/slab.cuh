// Slabs: DEPTH numbers of each row of a tile, in the block's memory, as tensor cores read them.
//
// Rows lie as `place.cuh` has them.
#pragma once

#include "copy.cuh"
#include "mma.cuh"
#include "place.cuh"

constexpr unsigned DEPTH = 32;

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
// are not are zero. HALVED, the second half of the tile has rows of its own, from `second` of so many on.
template <class Element, unsigned ROWS, unsigned THREADS, bool HALVED = false>
struct Stager {
    static constexpr unsigned ROW_BYTES = DEPTH * sizeof(Element);
    static constexpr unsigned HALVES = HALVED ? 2 : 1;

    Matrix<Element> matrix;
    // The thread's first unit of the next slab, in each half, and where it lies in the slab.
    const Element* from;
    const Element* from_second;
    unsigned second_rows;
    unsigned place;

    __device__ Stager(const Matrix<Element>& matrix) : matrix(matrix) {
        const unsigned units = ROW_BYTES / matrix.unit;
        const unsigned row = thread() / units;
        const unsigned number = thread() % units * (matrix.unit / unsigned(sizeof(Element)));
        from = matrix.first + row * matrix.stride + number;
        place = ::place<Element, DEPTH>(row, number);
    }

    // `second` elements from the first row of the first half to that of the second, which has so many rows.
    __device__ Stager(const Matrix<Element>& matrix, unsigned long long second, unsigned rows) : Stager(matrix) {
        static_assert(HALVED, "there is a second half");
        from_second = from + second;
        second_rows = rows;
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
        if constexpr (HALVED) {
            from_second += DEPTH;
        }
    }

    template <class Unit>
    __device__ void copy_by(unsigned char* slab, unsigned first) const {
        constexpr unsigned UNITS = ROW_BYTES / sizeof(Unit);
        constexpr unsigned AT_ONCE = THREADS / UNITS, ALL = ROWS / HALVES;
        static_assert(AT_ONCE > 0 && ALL % AT_ONCE == 0, "a whole number of rows at once, and of rounds");
        const bool within = first + thread() % UNITS * (DEPTH / UNITS) < matrix.width;
#pragma unroll
        for (unsigned half = 0; half < HALVES; half++) {
            const Element* unit = half == 0 ? from : from_second;
            const unsigned rows = half == 0 ? matrix.rows : second_rows;
#pragma unroll(sizeof(Unit) == 16 ? ALL / AT_ONCE : 2)
            for (unsigned row = 0; row < ALL; row += AT_ONCE) {
                const bool exists = within && thread() / UNITS + row < rows;
                const unsigned in_slab = half * ALL + row;
                unsigned char* to = slab + in_slab * ROW_BYTES + (place ^ turn<Element, DEPTH>(in_slab));
                copy_if(exists, reinterpret_cast<Unit*>(to), reinterpret_cast<const Unit*>(unit));
                unit += AT_ONCE * matrix.stride;
            }
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
