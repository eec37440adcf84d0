// Whole rows of a tile in the block's memory: tokens with their halo, and queries.
//
// Rows follow one another an odd number of 16 bytes apart, so that eight numbers of each of eight rows lie on different
// banks, whichever eight rows these are. A warp has a row to itself.
#pragma once

#include "copy.cuh"

// Where rows lie in the block's memory, all in bytes.
struct WholeRows {
    unsigned char* first;
    unsigned pitch;
    // Of a row; zeros follow up to the next.
    unsigned width;
};

// Brings in rows 0 to `count`; `at(row)` says where a row is to be had, or nowhere: then it is zeros.
template <class Unit, class At>
__device__ void bring_by(const WholeRows& rows, unsigned count, At at) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll 1
    for (unsigned row = threadIdx.x / 32; row < count; row += blockDim.x / 32) {
        const unsigned char* from = at(row);
        unsigned char* to = rows.first + row * rows.pitch;
        const unsigned width = from != nullptr ? rows.width : 0;
#pragma unroll 1
        for (unsigned byte = lane * sizeof(Unit); byte < rows.pitch; byte += 32 * sizeof(Unit)) {
            copy_if(byte < width, reinterpret_cast<Unit*>(to + byte), reinterpret_cast<const Unit*>(from + byte));
        }
    }
}

// By units of 16, 4 or 2 bytes: all rows are aligned to it, and whole units.
template <class At>
__device__ void bring(unsigned unit, const WholeRows& rows, unsigned count, At at) {
    if (unit == 16) {
        bring_by<uint4>(rows, count, at);
    } else if (unit == 4) {
        bring_by<unsigned>(rows, count, at);
    } else {
        bring_by<unsigned short>(rows, count, at);
    }
}
