// Outputs of a warp on their way out: 16 channels of 16 outputs wait in a corner of the block's memory, and leave by the
// widest units that alignment allows, whole sectors at a time.
#pragma once

#include "element.cuh"

constexpr unsigned CORNER_CHANNELS = 16;
// Bytes from row to row: not a power of two, so that neither those who write them nor those who read them meet a bank twice.
constexpr unsigned CORNER_PITCH = 48;
constexpr unsigned CORNER_BYTES = 16 * CORNER_PITCH;

// Stores channels `begin` to `end` of the corner's; `at(row)` says where the first channel of a row goes, or nowhere.
template <class Unit, class X, class At>
__device__ void store_corner_by(const unsigned char* corner, unsigned begin, unsigned end, At at) {
    constexpr unsigned EACH = sizeof(Unit) / sizeof(X);
    constexpr unsigned UNITS = CORNER_CHANNELS / EACH;
#pragma unroll 1
    for (unsigned i = threadIdx.x % 32; i < 16 * UNITS; i += 32) {
        // The two halves of a row lie 16 bytes apart: of eight rows, either are on different banks. Narrower units go side by
        // side, so that they are whole sectors together.
        const unsigned row = UNITS == 2 ? i % 16 : i / UNITS, unit = UNITS == 2 ? i / 16 : i % UNITS;
        const unsigned channel = unit * EACH;
        X* to = at(row);
        if (to != nullptr && channel >= begin && channel < end) {
            *reinterpret_cast<Unit*>(to + channel) =
                *reinterpret_cast<const Unit*>(corner + row * CORNER_PITCH + channel * unsigned(sizeof(X)));
        }
    }
}

template <class X, class At>
__device__ void store_corner(unsigned unit, const unsigned char* corner, unsigned begin, unsigned end, At at) {
    if (unit == 16) {
        store_corner_by<uint4, X>(corner, begin, end, at);
    } else if (unit == 4) {
        store_corner_by<unsigned, X>(corner, begin, end, at);
    } else {
        store_corner_by<unsigned short, X>(corner, begin, end, at);
    }
}
