// Moves a decoder's memory on: next[s, i] = (history[s] followed by the tokens of sequence s)[length + i].
//
// module history
//
// Numbers are only moved, whatever their type: by units of 16, 8, 4 or 2 bytes, the most that all rows are aligned to, each
// with an entry of its own. A thread moves one. All that is read and written is so once: the floor is a copy.

#include "shared/tiles.cuh"

constexpr unsigned THREADS = 256;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Units from one row of x to the next.
    unsigned long long x_stride;
    // Units in all.
    unsigned long long units;
    // Units of a row.
    unsigned width;
    // Rows of a sequence in the history, (K - 1) r.
    unsigned reach;
    // Rows of each sequence of a rectangular batch; 0 for a packed one.
    unsigned time;
    // Whether lengths are listed; otherwise all sequences have `time` tokens.
    unsigned listed;
};

template <class Unit>
__device__ void history(const Unit* x, const Unit* history, const uint4* sequences, Unit* next, const Params& params) {
    const unsigned long long number = static_cast<unsigned long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (number >= params.units) {
        return;
    }
    const unsigned long long row = number / params.width;
    const unsigned column = unsigned(number - row * params.width);
    const unsigned index = unsigned(row / params.reach);
    const Sequence sequence = sequence_at(params.listed, params.time, sequences, index);
    // In the history followed by the tokens.
    const unsigned at = unsigned(row - static_cast<unsigned long long>(index) * params.reach) + unsigned(sequence.length);
    const Unit* from;
    if (at < params.reach) {
        from = history + (static_cast<unsigned long long>(index) * params.reach + at) * params.width;
    } else {
        from = x + (sequence.first + (at - params.reach)) * params.x_stride;
    }
    next[number] = from[column];
}

#define ENTRY(NAME, UNIT)                                                                                              \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(                                                        \
        const UNIT* __restrict__ x, const UNIT* __restrict__ history_before, const uint4* __restrict__ sequences,      \
        UNIT* __restrict__ next, const __grid_constant__ Params params) {                                              \
        history<UNIT>(x, history_before, sequences, next, params);                                                     \
    }

ENTRY(history_16, uint4)
ENTRY(history_8, uint2)
ENTRY(history_4, unsigned)
ENTRY(history_2, unsigned short)
