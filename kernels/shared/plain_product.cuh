// A tile of a product by multiply-adds in f32: slabs of its operands, DEPTH numbers of each row, in the block's memory.
//
// The rows of that memory are an odd number of quads apart: quads of eight rows one after another then lie on different
// banks.
#pragma once

#include "copy.cuh"
#include "element.cuh"

// Numbers from one row of a slab to the next.
__device__ constexpr unsigned pitch(unsigned depth) { return depth + 4; }

// Numbers side by side, read or written at once.
template <class Element, unsigned COUNT>
struct alignas(COUNT * sizeof(Element)) Run {
    Element numbers[COUNT];
};

// Brings in COUNT numbers.
template <unsigned COUNT>
__device__ void bring(float* to, const f32* from) {
    if constexpr (COUNT == 4) {
        copy(reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from));
    } else if constexpr (COUNT == 2) {
        copy(reinterpret_cast<uint2*>(to), reinterpret_cast<const uint2*>(from));
    } else {
        copy(reinterpret_cast<unsigned*>(to), reinterpret_cast<const unsigned*>(from));
    }
}

template <unsigned COUNT, class Half>
__device__ void bring(float* to, const Half* from) {
    const Run<Half, COUNT> halves = *reinterpret_cast<const Run<Half, COUNT>*>(from);
    Run<f32, COUNT> whole;
#pragma unroll
    for (unsigned i = 0; i < COUNT; i++) {
        whole.numbers[i] = number(halves.numbers[i]);
    }
    *reinterpret_cast<Run<f32, COUNT>*>(to) = whole;
}

// Brings in DEPTH numbers of each of `rows` rows, from `first_input` on, EACH at a time; zero where there is no row or no
// input.
template <unsigned DEPTH, unsigned THREADS, unsigned EACH, class Element>
__device__ void stage_rows_by(float* to, unsigned rows, const Element* from, unsigned long long stride, unsigned first_row,
                         unsigned end_row, unsigned first_input, unsigned inputs) {
    constexpr unsigned UNITS = DEPTH / EACH;
    const unsigned input = threadIdx.x % UNITS * EACH;
#pragma unroll(EACH == 4 ? 2 : 1)
    for (unsigned row = EACH == 4 ? spread(threadIdx.x / UNITS) : threadIdx.x / UNITS; row < rows;
         row += THREADS / UNITS) {
        float* numbers = to + row * pitch(DEPTH) + input;
        if (first_row + row < end_row && first_input + input < inputs) {
            bring<EACH>(numbers, from + (first_row + row) * stride + first_input + input);
        } else {
            *reinterpret_cast<Run<f32, EACH>*>(numbers) = Run<f32, EACH>();
        }
    }
}

template <unsigned DEPTH, unsigned THREADS, class Element>
__device__ void stage_rows(unsigned unit_bytes, float* to, unsigned rows, const Element* from, unsigned long long stride,
                      unsigned first_row, unsigned end_row, unsigned first_input, unsigned inputs) {
    // Four numbers at most, which in 16 bits are half of the widest unit.
    if (unit_bytes >= 4 * sizeof(Element)) {
        stage_rows_by<DEPTH, THREADS, 4>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    } else if (unit_bytes == 2 * sizeof(Element)) {
        stage_rows_by<DEPTH, THREADS, 2>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    } else {
        stage_rows_by<DEPTH, THREADS, 1>(to, rows, from, stride, first_row, end_row, first_input, inputs);
    }
}

// Adds the products of DEPTH numbers. `rows` and `columns` are the thread's first; the others are DOWN and ACROSS apart.
template <unsigned DEPTH, unsigned DOWN, unsigned ACROSS, unsigned ROWS, unsigned COLUMNS>
__device__ void add_products(float (&sums)[ROWS][COLUMNS], const float* rows, const float* columns) {
    // Not unrolled: there are registers for one quad of every row.
#pragma unroll 1
    for (unsigned k = 0; k < DEPTH; k += 4) {
        float4 row[ROWS];
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            row[i] = *reinterpret_cast<const float4*>(rows + i * DOWN * pitch(DEPTH) + k);
        }
#pragma unroll
        for (unsigned j = 0; j < COLUMNS; j++) {
            const float4 column = *reinterpret_cast<const float4*>(columns + j * ACROSS * pitch(DEPTH) + k);
#pragma unroll
            for (unsigned i = 0; i < ROWS; i++) {
                float sum = sums[i][j];
                sum = fmaf(row[i].x, column.x, sum);
                sum = fmaf(row[i].y, column.y, sum);
                sum = fmaf(row[i].z, column.z, sum);
                sums[i][j] = fmaf(row[i].w, column.w, sum);
            }
        }
    }
}
