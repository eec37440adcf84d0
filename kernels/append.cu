// Writes tokens behind those that a cache holds: cache[s, past + i] = x[s, i], i < length.
//
// module append
//
// Numbers are only moved, whatever their type: by units of 16, 8, 4 or 2 bytes, the most that all rows are aligned to, each
// with an entry of its own. A thread moves one. All that is read and written is so once: the floor is a copy. A decoder
// that takes a token of each sequence moves so little that the launch is what it waits for.

#include "shared/tiles.cuh"

constexpr unsigned THREADS = 256;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Units from one row of x to the next.
    unsigned long long x_stride;
    // The same of the cache.
    unsigned long long cache_stride;
    // Units in all, padding included.
    unsigned long long units;
    // Units of a row.
    unsigned width;
    // Rows of a sequence in the cache.
    unsigned room;
    // Rows of each sequence of a rectangular batch; 0 for a packed one.
    unsigned time;
    // Whether lengths and tokens gone by are listed; otherwise all sequences have `time` tokens, and begin with this call.
    unsigned listed;
    unsigned sequences;
    // The largest power of two below the number of packed sequences.
    unsigned step;
};

// The packed sequence that has a row: the last that begins at or before it. All threads take the same steps.
__device__ inline unsigned packed_index(const Params& params, const uint4* sequences, unsigned row) {
    unsigned index = 0;
    for (unsigned step = params.step; step > 0; step /= 2) {
        if (index + step < params.sequences && __ldg(&sequences[index + step].x) <= row) {
            index += step;
        }
    }
    return index;
}

template <class Unit>
__device__ void append(const Unit* x, const uint4* sequences, Unit* cache, const Params& params) {
    const unsigned long long number = static_cast<unsigned long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (number >= params.units) {
        return;
    }
    const unsigned row = unsigned(number / params.width);
    const unsigned column = unsigned(number - static_cast<unsigned long long>(row) * params.width);
    const unsigned index = params.time > 0 ? row / params.time : packed_index(params, sequences, row);
    const Sequence sequence = sequence_at(params.listed, params.time, sequences, index);
    const unsigned token = row - sequence.first;
    const unsigned long long at = static_cast<unsigned long long>(unsigned(sequence.past)) + token;
    // Padding, and what the cache has no room for.
    if (token >= unsigned(sequence.length) || at >= params.room) {
        return;
    }
    Unit* to = cache + (static_cast<unsigned long long>(index) * params.room + at) * params.cache_stride;
    to[column] = x[row * params.x_stride + column];
}

#define ENTRY(NAME, UNIT)                                                                                              \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(                                                        \
        const UNIT* __restrict__ x, const uint4* __restrict__ sequences, UNIT* __restrict__ cache,                     \
        const __grid_constant__ Params params) {                                                                       \
        append<UNIT>(x, sequences, cache, params);                                                                     \
    }

ENTRY(append_16, uint4)
ENTRY(append_8, uint2)
ENTRY(append_4, unsigned)
ENTRY(append_2, unsigned short)
