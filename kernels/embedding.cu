// Rows of tables that tokens stand for: y[t] = scale table[token[t]] + positions[first + p(t)] + types[type[t]]. In f32,
// rounded once.
//
// module embedding_f32 X=f32 HALVES=0
// module embedding_f16 X=f16 HALVES=1
// module embedding_bf16 X=bf16 HALVES=1
//
// A row has 1 to 256 threads, a power of two, each with up to four units of it, one after another; a block has as many rows as it
// has threads for, or one of the parts of a long row. Rows are read and written by units of 16, 8, 4 or 2 bytes of y, the most
// that all are aligned to (and no more than 16 of the tables), each with an entry of its own. Rows outside of their sequence are
// zeros, whatever their ids are; rows whose id or position is past its table are NaN.
//
// Floor and prediction, written before the first run on a GPU. 32768 tokens of 1024 channels in bf16 on an H100 (3.0 TB/s), with
// positions: y is 67 MB, and as many rows of the table are read, all of them different: 134 MB, 45 us; the positions come from
// the second cache. Predicted: 50 to 65 us, as a thread has one unit of each table under way at a time, behind its token.

#include "shared/element.cuh"
#include "shared/tiles.cuh"
#include "shared/units.cuh"

constexpr unsigned THREADS = 256;

// Units of a part of a row that a thread has at most.
constexpr unsigned UNITS = 4;

// How tokens group into sequences: in none, in those of `time` rows each, one after another.
constexpr unsigned IN_NONE = 0;
constexpr unsigned IN_PACKED = 2;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one row to the next.
    unsigned long long table_stride;
    unsigned long long positions_stride;
    unsigned long long types_stride;
    unsigned long long y_stride;
    unsigned tokens;
    // Units of a row.
    unsigned width;
    // Threads of a row: two to the power of this.
    unsigned lane_bits;
    unsigned parts;
    // Rows of the tables; of positions and types 0 where there are none.
    unsigned vocabulary;
    unsigned positions;
    unsigned types;
    // The row of positions that belongs to the first token of a sequence.
    unsigned first;
    unsigned grouping;
    unsigned time;
    unsigned sequences;
    // Whether sequences are listed; otherwise all have `time` tokens, and none has any gone by.
    unsigned listed;
    float scale;
    // Whether the tables are f32.
    unsigned wide;
};

// The last of the packed sequences that begin at or before `row`: the others that begin there are empty.
__device__ inline unsigned packed_at(const uint4* list, unsigned sequences, unsigned row) {
    unsigned low = 0, high = sequences;
    while (high - low > 1) {
        const unsigned middle = low + (high - low) / 2;
        if (__ldg(&list[middle].x) <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

template <unsigned BYTES>
struct Bytes;
template <>
struct Bytes<16> {
    using Unit = uint4;
};
template <>
struct Bytes<8> {
    using Unit = uint2;
};
template <>
struct Bytes<4> {
    using Unit = unsigned;
};
template <>
struct Bytes<2> {
    using Unit = unsigned short;
};

// By units of N numbers.
template <unsigned N>
__device__ inline void embedding(const uint4* list, const unsigned* tokens, const void* table, const void* positions,
                                 const unsigned* type_ids, const void* types, X* y, const Params& params) {
    using Unit = typename Bytes<N * sizeof(X)>::Unit;
    const unsigned lanes = 1u << params.lane_bits;
    const unsigned group = blockIdx.x / params.parts, part = blockIdx.x - group * params.parts;
    const unsigned row = group * (THREADS >> params.lane_bits) + (threadIdx.x >> params.lane_bits);
    const unsigned begin = part * UNITS * lanes + (threadIdx.x & (lanes - 1));
    const unsigned end = min(params.width, (part + 1) * UNITS * lanes);
    if (row >= params.tokens || begin >= end) {
        return;
    }
    bool there = true;
    unsigned long long position = params.first;
    if (params.grouping != IN_NONE) {
        const unsigned index = params.grouping == IN_PACKED ? packed_at(list, params.sequences, row) : row / params.time;
        const Sequence sequence = sequence_at(params.listed, params.time, list, index);
        const unsigned at = row - sequence.first;
        there = at < unsigned(sequence.length);
        position += unsigned(sequence.past);
        position += at;
    }
    unsigned token = 0, type = 0;
    bool known = true;
    if (there) {
        token = __ldg(tokens + row);
        known = token < params.vocabulary;
        if (params.types > 0) {
            type = __ldg(type_ids + row);
            known = known && type < params.types;
        }
        known = known && (params.positions == 0 || position < params.positions);
    }
    // 64 bits: a row number times a stride.
    const unsigned long long in_table = token * params.table_stride, in_positions = position * params.positions_stride,
                             in_types = type * params.types_stride;
    X* const to = y + row * params.y_stride;
#pragma unroll 1
    for (unsigned unit = begin; unit < end; unit += lanes) {
        const unsigned column = unit * N;
        float sum[N];
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            sum[n] = known ? 0.0f : __uint_as_float(0x7fc00000u);
        }
        if (there && known) {
            load_parameters<X, Unit, N>(sum, table, in_table + column, params.wide);
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                sum[n] *= params.scale;
            }
            if (params.positions > 0) {
                float other[N];
                load_parameters<X, Unit, N>(other, positions, in_positions + column, params.wide);
#pragma unroll
                for (unsigned n = 0; n < N; n++) {
                    sum[n] += other[n];
                }
            }
            if (params.types > 0) {
                float other[N];
                load_parameters<X, Unit, N>(other, types, in_types + column, params.wide);
#pragma unroll
                for (unsigned n = 0; n < N; n++) {
                    sum[n] += other[n];
                }
            }
        }
        store<X, Unit>(to + column, sum);
    }
}

#define ENTRY(NAME, N)                                                                                                 \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(                                                        \
        const uint4* __restrict__ list, const unsigned* __restrict__ tokens, const void* __restrict__ table,           \
        const void* __restrict__ positions, const unsigned* __restrict__ type_ids, const void* __restrict__ types,     \
        X* __restrict__ y, const __grid_constant__ Params params) {                                                    \
        embedding<N>(list, tokens, table, positions, type_ids, types, y, params);                                      \
    }

ENTRY(embedding_1, 1)
ENTRY(embedding_2, 2)
ENTRY(embedding_4, 4)
#if HALVES
ENTRY(embedding_8, 8)
#endif
