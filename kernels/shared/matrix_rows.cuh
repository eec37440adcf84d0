// Whole rows of a matrix in the block's memory, as tensor cores read them: places as in `slab.cuh`.
#pragma once

#include "slab.cuh"

// Found anew for every tile: kept over the products, what follows from it would take their registers.
__device__ inline unsigned thread_anew() {
    unsigned thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

template <class Unit, class Element, unsigned WIDTH>
__device__ void copy_rows_by(unsigned char* to, const Matrix<Element>& matrix, unsigned rows) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(Element);
    constexpr unsigned UNITS = WIDTH / EACH;
    const unsigned thread = thread_anew();
#pragma unroll 1
    for (unsigned unit = thread; unit < rows * UNITS; unit += blockDim.x) {
        const unsigned row = unit / UNITS, number = unit % UNITS * EACH;
        const bool exists = row < matrix.rows && number < matrix.width;
        const Element* from = matrix.first + (exists ? row * matrix.stride + number : 0);
        copy_if(exists, reinterpret_cast<Unit*>(to + place<Element, WIDTH>(row, number)),
                reinterpret_cast<const Unit*>(from));
    }
}

// Copies `rows` rows, each to a place of WIDTH numbers: zeros where the matrix has none. All threads of the block take part.
template <class Element, unsigned WIDTH>
__device__ void copy_rows(unsigned char* to, const Matrix<Element>& matrix, unsigned rows) {
    if (matrix.unit == 16) {
        copy_rows_by<uint4, Element, WIDTH>(to, matrix, rows);
    } else if (matrix.unit == 8) {
        copy_rows_by<uint2, Element, WIDTH>(to, matrix, rows);
    } else if (matrix.unit == 4) {
        copy_rows_by<unsigned, Element, WIDTH>(to, matrix, rows);
    } else if constexpr (sizeof(Element) == 2) {
        copy_rows_by<unsigned short, Element, WIDTH>(to, matrix, rows);
    }
}
