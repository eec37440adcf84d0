// Tokens from memory into the block's own memory, and outputs back.
//
// A row of the block's memory is `pitch` bytes, the numbers of a token's channels in this tile. It is copied by units of
// 16 bytes, or of the most that all rows are aligned to: the plan says which. The number of channels is then a multiple
// of the unit too.
//
// Eight rows of any such pitch are a multiple of all the banks, 128 bytes. Threads that follow each other along time read
// rows that are so far apart: where several of them meet in one access, which they do where a row is less than the banks,
// they would meet the same banks. There a gap of one row follows every eight rows of a phase: what is eight rows apart then
// lies on the banks like neighbours do, one behind the other, whatever the pitch.
#pragma once

#include "copy.cuh"
#include "tiles.cuh"

struct Window {
    // Taps K.
    unsigned width;
    // Tokens from one tap to the next, r.
    unsigned dilation;
    // Tokens before the output that the first tap reads, P.
    unsigned left;
    // Rows of a sequence in the history, (K - 1) r.
    unsigned reach;
};

// Where tokens lie.
template <class X>
struct Tokens {
    const X* x;
    unsigned long long x_stride;
    // Rows of `channels`.
    const X* history;
    X* y;
    unsigned long long y_stride;
    unsigned channels;
    // The first of the tile.
    unsigned first_channel;

    // The numbers of the token at `position` of the tile's sequence: before its first they are in the history.
    __device__ const X* at(const Tile& tile, const Window& window, int position) const {
        if (position >= 0) {
            return x + (tile.sequence.first + unsigned(position)) * x_stride;
        }
        const unsigned long long row = (tile.index + 1ull) * window.reach - unsigned(-position);
        return history + row * channels;
    }
};

constexpr unsigned GAP_EVERY = 8;

// Bytes from the first of eight rows to the one that is `rows` after it.
__device__ inline unsigned bytes_to(unsigned rows, unsigned pitch, unsigned gap) {
    return rows * pitch + rows / GAP_EVERY * gap;
}

// How they lie in the block's memory.
struct Rows {
    unsigned char* memory;
    // Bytes of a row.
    unsigned pitch;
    // Bytes that are free after every GAP_EVERY rows of a phase: a row, or none.
    unsigned gap;
    // Bytes from the first row of a phase to that of the next.
    unsigned of_phase;

    __device__ unsigned char* at(unsigned phase, unsigned step) const {
        return memory + phase * of_phase + bytes_to(step, pitch, gap);
    }
};

// The tokens that `taps` taps of the tile's outputs read, from tap `first_tap` on. Those that there are not are left as
// they were, or are zero as well where rows are to be FILLED; channels past the last are zero.
template <bool FILLED, class Unit, class X>
__device__ void stage_by(const Tokens<X>& tokens, const Rows& rows, const Tiles& tiles, const Tile& tile,
                         const Window& window, int past, unsigned first_tap, unsigned taps) {
    const unsigned units = rows.pitch / unsigned(sizeof(Unit));
    const unsigned unit = threadIdx.x % units;
    const unsigned at_once = blockDim.x / units;
    if (threadIdx.x / units >= at_once) {
        return;
    }
    const unsigned channel = tokens.first_channel + unit * unsigned(sizeof(Unit) / sizeof(X));
    // A phase is counted by eights, as gaps are: then no pass of 128 bytes reaches over a gap, where rows are a power of two.
    const unsigned of_phase = (tiles.steps + taps - 1 + GAP_EVERY - 1) / GAP_EVERY * GAP_EVERY;
#pragma unroll 1
    for (unsigned row = threadIdx.x / units; row < tiles.phases * of_phase; row += at_once) {
        const unsigned phase = tiles.phases == 1 ? 0 : row / of_phase;
        const unsigned step = row - phase * of_phase;
        const int position = tile.start + int(phase + (step + first_tap) * tiles.dilation) - int(window.left);
        const bool is_token = tile.phase + phase < tiles.dilation && position >= -past && position < tile.sequence.length;
        if (step >= tiles.steps + taps - 1 || (!FILLED && !is_token)) {
            continue;
        }
        Unit* to = reinterpret_cast<Unit*>(rows.at(phase, step)) + unit;
        if (channel >= tokens.channels || !is_token) {
            *to = Unit();
            continue;
        }
        copy(to, reinterpret_cast<const Unit*>(tokens.at(tile, window, position) + channel));
    }
}

template <bool FILLED = false, class X>
__device__ void stage(unsigned unit_bytes, const Tokens<X>& tokens, const Rows& rows, const Tiles& tiles,
                      const Tile& tile, const Window& window, int past, unsigned first_tap, unsigned taps) {
    if (unit_bytes == 16) {
        stage_by<FILLED, uint4>(tokens, rows, tiles, tile, window, past, first_tap, taps);
    } else if (unit_bytes == 8) {
        stage_by<FILLED, uint2>(tokens, rows, tiles, tile, window, past, first_tap, taps);
    } else if (unit_bytes == 4) {
        stage_by<FILLED, unsigned>(tokens, rows, tiles, tile, window, past, first_tap, taps);
    } else if constexpr (sizeof(X) == 2) {
        stage_by<FILLED, unsigned short>(tokens, rows, tiles, tile, window, past, first_tap, taps);
    }
}

// The outputs that are rows of the sequence. Output (phase, step) is in row `step` of its phase.
template <class Unit, class X>
__device__ void store_by(const Tokens<X>& tokens, const Rows& rows, const Tiles& tiles, const Tile& tile) {
    const unsigned units = rows.pitch / unsigned(sizeof(Unit));
    const unsigned unit = threadIdx.x % units;
    const unsigned at_once = blockDim.x / units;
    const unsigned channel = tokens.first_channel + unit * unsigned(sizeof(Unit) / sizeof(X));
    if (threadIdx.x / units >= at_once || channel >= tokens.channels) {
        return;
    }
#pragma unroll 1
    for (unsigned number = threadIdx.x / units; number < tiles.phases * tiles.steps; number += at_once) {
        const Output output = output_at(tiles, tile, number);
        if (output.exists && output.position < tile.sequence.room) {
            const unsigned char* row = rows.at(output.phase, output.step);
            X* to = tokens.y + (tile.sequence.first + unsigned(output.position)) * tokens.y_stride + channel;
            *reinterpret_cast<Unit*>(to) = reinterpret_cast<const Unit*>(row)[unit];
        }
    }
}

template <class X>
__device__ void store(unsigned unit_bytes, const Tokens<X>& tokens, const Rows& rows, const Tiles& tiles,
                      const Tile& tile) {
    if (unit_bytes == 16) {
        store_by<uint4>(tokens, rows, tiles, tile);
    } else if (unit_bytes == 8) {
        store_by<uint2>(tokens, rows, tiles, tile);
    } else if (unit_bytes == 4) {
        store_by<unsigned>(tokens, rows, tiles, tile);
    } else if constexpr (sizeof(X) == 2) {
        store_by<unsigned short>(tokens, rows, tiles, tile);
    }
}
