// The tensor core's instructions.
#pragma once

#include "element.cuh"

// Rows of a matrix of sums, and how deep its product is.
constexpr unsigned SIDE = 16;

// Four matrices of 8 x 8 numbers of 16 bits. Lanes 8 i to 8 i + 7 say where the rows of matrix i lie in the block's
// memory; lane l receives from each the numbers 2 (l % 4) and 2 (l % 4) + 1 of row l / 4.
__device__ inline void load_matrices(unsigned (&to)[4], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
    load_matrices(to, unsigned(__cvta_generic_to_shared(row)));
}

// Two such, one below the other and transposed: 16 rows of 8 numbers, of which lane i % 16 says the address of row i, and
// lane l receives, from each, column l / 4 of the rows 2 (l % 4) and 2 (l % 4) + 1.
__device__ inline void load_columns(unsigned (&to)[2], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(row)
                 : "memory");
}

// The same twice, side by side: lanes 0 to 15 say the addresses of the rows of the first, and the others those of the
// second.
__device__ inline void load_columns(unsigned (&to)[2][2], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0][0]), "=r"(to[0][1]), "=r"(to[1][0]), "=r"(to[1][1])
                 : "r"(row)
                 : "memory");
}

// Adds to 16 x 8 sums the products of 16 rows, 16 numbers each, and 8 columns. Sums are f32; lane l has those of rows
// l / 4 (the first two) and l / 4 + 8, in columns 2 (l % 4) and 2 (l % 4) + 1.
template <class X>
__device__ void multiply_matrices(float (&sums)[4], const unsigned (&rows)[4], const unsigned (&columns)[2]);

template <>
__device__ inline void multiply_matrices<f16>(float (&sums)[4], const unsigned (&rows)[4],
                                              const unsigned (&columns)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "r"(columns[0]), "r"(columns[1]));
}

template <>
__device__ inline void multiply_matrices<bf16>(float (&sums)[4], const unsigned (&rows)[4],
                                               const unsigned (&columns)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "r"(columns[0]), "r"(columns[1]));
}
