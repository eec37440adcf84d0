// The product that generates taps: logits of a tile of queries for a group of heads, W q.
//
// The queries lie in the block's memory, whole rows that are an odd number of 16 bytes apart and zero past their last
// number up to a whole slab. Slabs of W, DEPTH numbers of each of the group's rows, come by as `slab.cuh` lays them. A warp
// has 32 queries and 32 logits of each: on tensor cores where queries have 16 bits, and by multiply-adds in f32.
#pragma once

#include "product.cuh"

// A warp's part of a group's logits, both ways.
constexpr unsigned PART = 32;

// As `Shape` of a product: pointers are to a warp's own.
struct PartShape {
    static constexpr unsigned ROW_MATRICES = PART / 16;
    static constexpr unsigned COLUMN_MATRICES = PART / 8;

    static __device__ unsigned warp_column() { return 0; }
};

// Rows of queries from a warp's first on, from the numbers of a slab on.
struct QueryRows {
    const unsigned char* first;
    unsigned pitch;
    // How many there are: after the last, it stands for those that there are not.
    unsigned rows;

    __device__ const unsigned char* at(unsigned row) const { return first + min(row, rows - 1) * pitch; }

    __device__ void load(unsigned (&row)[4], unsigned i, unsigned k) const {
        const unsigned lane = threadIdx.x % 32;
        load_matrices(row, at(i * 16 + lane % 16) + (k + lane / 16 * 8) * unsigned(sizeof(f16)));
    }
};

// Adds the products of a slab to the sums of a warp, by multiply-adds: a thread has every eighth row and every fourth column.
// `columns` is where the warp's first row of W lies.
template <class P>
__device__ void add_by_multiply_adds(Sums<PartShape>& sums, const QueryRows& rows, const unsigned char* columns) {
    constexpr unsigned ROWS = PART / 8, COLUMNS = PART / 4;
    const unsigned lane = threadIdx.x % 32;
    const unsigned char* from[ROWS];
#pragma unroll
    for (unsigned i = 0; i < ROWS; i++) {
        from[i] = rows.at(lane % 8 + 8 * i);
    }
    // Not unrolled: there are registers for one quad of every row.
#pragma unroll 1
    for (unsigned k = 0; k < DEPTH; k += 4) {
        float4 row[ROWS];
#pragma unroll
        for (unsigned i = 0; i < ROWS; i++) {
            row[i] = quad_of(reinterpret_cast<const f32*>(from[i]) + k);
        }
#pragma unroll
        for (unsigned j = 0; j < COLUMNS; j++) {
            const unsigned char* at = columns + place<P, DEPTH>(lane / 8 + 4 * j, k);
            const float4 column = quad_of(reinterpret_cast<const P*>(at));
#pragma unroll
            for (unsigned i = 0; i < ROWS; i++) {
                float& sum = sums.of[i / 2][j / 2][i % 2 * 2 + j % 2];
                sum = fmaf(row[i].x, column.x, sum);
                sum = fmaf(row[i].y, column.y, sum);
                sum = fmaf(row[i].z, column.z, sum);
                sum = fmaf(row[i].w, column.w, sum);
            }
        }
    }
}

// The logits of a warp, of tokens of type X. Those of columns or rows that there are not are good for nothing.
template <class X, class P>
struct Generator {
    Product<X, P, PartShape> product;

    __device__ void clear() { product.clear(); }

    // Adds the products of a slab. Queries are of the tokens' type, or `wide`.
    __device__ void add(bool wide, const QueryRows& rows, const unsigned char* columns) {
        if (wide) {
            add_by_multiply_adds<P>(product.own(), rows, columns);
        } else {
            product.add(rows, columns);
        }
    }

    __device__ float sum(unsigned i, unsigned j, unsigned n) const { return product.sum(i, j, n); }
};

template <class P>
struct Generator<f32, P> {
    Sums<PartShape> sums;

    __device__ void clear() { sums.clear(); }

    __device__ void add(bool, const QueryRows& rows, const unsigned char* columns) {
        add_by_multiply_adds<P>(sums, rows, columns);
    }

    __device__ float sum(unsigned i, unsigned j, unsigned n) const { return sums.of[i][j][n]; }
};

// Where logits go: `pitch` numbers from a query's to the next one's.
struct LogitRows {
    float* first;
    unsigned pitch;
    // How many rows there are.
    unsigned rows;
};

// Leaves the logits of a warp, with their biases, from its first row and column on. Also those that there are not.
template <class X, class P>
__device__ void leave_logits(const Generator<X, P>& generator, bool wide, const LogitRows& to, const float* biases) {
    const unsigned lane = threadIdx.x % 32;
    const unsigned first_row = wide ? lane % 8 : lane / 4;
    const unsigned column = wide ? lane / 8 : lane % 4 * 2;
    const unsigned next = wide ? 4 : 1;
#pragma unroll
    for (unsigned j = 0; j < PartShape::COLUMN_MATRICES; j++) {
        const float* bias = biases + column + j * 8;
        const float2 start = make_float2(bias[0], bias[next]);
#pragma unroll
        for (unsigned i = 0; i < 2 * PartShape::ROW_MATRICES; i++) {
            const unsigned row = i * 8 + first_row;
            float* logits = to.first + row * to.pitch + column + j * 8;
            if (row < to.rows) {
                logits[0] = generator.sum(i / 2, j, i % 2 * 2) + start.x;
                logits[next] = generator.sum(i / 2, j, i % 2 * 2 + 1) + start.y;
            }
        }
    }
}

// Rows of W of a group of heads, slab after slab: what a thread copies of each. Units are of 16, 4 or 2 bytes, no less than
// a number: all rows are aligned to it, and whole units.
template <class P>
struct WeightRows {
    // The thread's first unit of the next slab: where it comes from, the number that it begins with, and its row.
    const P* from;
    unsigned number;
    unsigned row;
    // How many rows there are.
    unsigned rows;

    // Of `rows` rows from `first` on, of `width` numbers each.
    __device__ void begin(const P* first, unsigned rows, unsigned width, unsigned unit) {
        const unsigned units = DEPTH * unsigned(sizeof(P)) / unit;
        row = threadIdx.x / units;
        number = (threadIdx.x - row * units) * (unit / unsigned(sizeof(P)));
        from = first + static_cast<unsigned long long>(row) * width + number;
        this->rows = rows;
    }

    // Copies the next slab: zero where a row is over, and after the rows up to a whole part.
    __device__ void copy(unsigned char* slab, unsigned width, unsigned unit) {
        if (unit == 16) {
            copy_by<uint4>(slab, width);
        } else if (unit == 4) {
            copy_by<unsigned>(slab, width);
        } else if constexpr (sizeof(P) == 2) {
            copy_by<unsigned short>(slab, width);
        }
        from += DEPTH;
        number += DEPTH;
    }

    template <class Unit>
    __device__ void copy_by(unsigned char* slab, unsigned width) const {
        const unsigned end = (rows + PART - 1) / PART * PART;
        const bool inside = number < width;
        const P* at = from;
        unsigned char* to = slab + place<P, DEPTH>(row, number % DEPTH);
#pragma unroll 1
        for (unsigned of = row; of < end;) {
            copy_if(inside && of < rows, reinterpret_cast<Unit*>(to), reinterpret_cast<const Unit*>(at));
            // A multiple of eight rows, which turn alike.
            const unsigned at_once = blockDim.x / (DEPTH * unsigned(sizeof(P)) / unsigned(sizeof(Unit)));
            of += at_once;
            if (of >= end) {
                break;
            }
            at += at_once * static_cast<unsigned long long>(width);
            to += at_once * DEPTH * unsigned(sizeof(P));
        }
    }
};
