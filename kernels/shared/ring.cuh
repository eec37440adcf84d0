// Tokens of one phase on their way through a ring of rows in the block's memory, and outputs on their way out.
//
// Row k of the phase is what tap j of output k - j reads. The ring holds `rows` of them, a whole number of chunks, row k in
// place k % rows. A chunk of outputs takes the places of tokens that no later output reads, and when it has left, the
// tokens of another chunk come in. A row holds groups of 8 channels, and a group channels of one head: that of the last
// channels of a head is filled up with zeros. Rows are an odd number of 16 bytes apart, so that a group of eight rows lies
// on different banks.
#pragma once

#include "stage.cuh"

constexpr unsigned GROUP = 8;

struct Ring {
    unsigned char* memory;
    // Groups of channels of a row, and bytes from row to row.
    unsigned groups;
    unsigned pitch;
    unsigned rows;
    unsigned chunk;
};

// The part of a phase that a block works on, and its channels.
struct Stretch {
    Tile tile;
    // Tokens of the history in reach.
    int past;
    // Outputs, and those of them that are tokens, the others being padding.
    unsigned outputs;
    unsigned computed;
    // Rows that are tokens of the history, and of x: from one of these to the next. The others are zeros. All taps are in
    // range of the outputs from the first of these to `whole_end`.
    unsigned history_row;
    unsigned first_row;
    unsigned end_row;
    unsigned whole_end;
    // Rows that matrices read.
    unsigned rows;
    // Groups of channels, counted over all heads, of which there are `groups_each` in a head.
    unsigned first_group;
    unsigned groups;
    unsigned groups_each;
    // Channels of a head.
    unsigned head_channels;
};

// `matrices` is how many of 16 columns a band has.
__device__ inline Stretch stretch_of(const Tiles& tiles, const uint4* sequences, const Window& window, unsigned channels,
                                     unsigned head_channels, unsigned groups, unsigned matrices) {
    Stretch stretch;
    stretch.tile = tile_of(tiles, sequences);
    const Sequence& sequence = stretch.tile.sequence;
    stretch.past = min(sequence.past, int(window.reach));
    // Steps of the phase from `start` on that come before `end`.
    const auto steps = [&](int start, int end) {
        return end <= start ? 0 : (unsigned(end - start) + tiles.dilation - 1) / tiles.dilation;
    };
    const int start = stretch.tile.start;
    stretch.outputs = min(steps(start, sequence.room), tiles.steps);
    stretch.computed = min(steps(start, sequence.length), tiles.steps);
    const bool none = stretch.computed == 0;
    stretch.history_row = steps(start - int(window.left), -stretch.past);
    stretch.first_row = steps(start - int(window.left), 0);
    const unsigned end_row = steps(start - int(window.left), sequence.length);
    stretch.end_row = none ? 0 : min(end_row, stretch.computed + window.width - 1);
    stretch.whole_end = end_row < window.width ? 0 : end_row - (window.width - 1);
    stretch.rows = none ? 0 : ((stretch.computed + 15) / 16 + matrices - 1) * 16;
    stretch.groups_each = (head_channels + GROUP - 1) / GROUP;
    stretch.first_group = stretch.tile.column * groups;
    stretch.groups = min(groups, channels / head_channels * stretch.groups_each - stretch.first_group);
    stretch.head_channels = head_channels;
    return stretch;
}

// The channels of a group: the first, and how many there are.
struct Channels {
    unsigned first;
    unsigned count;
};

__device__ inline Channels channels_of(const Stretch& stretch, unsigned group) {
    const unsigned head = (stretch.first_group + group) / stretch.groups_each;
    const unsigned within = (stretch.first_group + group - head * stretch.groups_each) * GROUP;
    const unsigned count = group < stretch.groups ? min(GROUP, stretch.head_channels - within) : 0;
    return Channels{head * stretch.head_channels + within, count};
}

// Of numbers below 4096.
__device__ inline unsigned quotient(unsigned number, unsigned by) {
    return unsigned(__fdividef(float(number) + 0.5f, float(by)));
}

// What a thread copies of every row: a unit, at the same place in all rows; of one row, and then of every `at_once` rows.
struct Column {
    unsigned unit;
    unsigned row;
    unsigned at_once;

    __device__ explicit Column(unsigned units) {
        // Found anew for every chunk: kept over the products, it would take their registers.
        unsigned thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        at_once = quotient(blockDim.x, units);
        row = quotient(thread, units);
        unit = thread - row * units;
        // Threads that are left over have no row.
        row = row < at_once ? row : 0x7fffffffu;
    }
};

// Brings in the rows of a chunk, into the places of chunk `place`: tokens, and zeros where there are none.
template <class Unit, class X>
__device__ void stage_chunk_by(const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch, const Window& window,
                               const Channels* groups, unsigned chunk, unsigned place) {
    constexpr unsigned EACH = GROUP * sizeof(X) / sizeof(Unit);
    const Column column(ring.groups * EACH);
    const unsigned end = min((chunk + 1) * ring.chunk, stretch.rows);
    unsigned row = chunk * ring.chunk + column.row;
    if (row >= end) {
        return;
    }
    const Channels of = groups[column.unit / EACH];
    const unsigned channel = of.first + column.unit % EACH * (GROUP / EACH);
    const bool exists = column.unit % EACH * (GROUP / EACH) < of.count;
    const unsigned count = exists && stretch.end_row > stretch.first_row ? stretch.end_row - stretch.first_row : 0;
    unsigned char* to = ring.memory + (place * ring.chunk + column.row) * ring.pitch + column.unit * sizeof(Unit);
    const int start = stretch.tile.start - int(window.left);
    const long long first = static_cast<long long>(stretch.tile.sequence.first) + start;
    const X* from = tokens.x + (first + static_cast<long long>(row) * window.dilation) *
                                   static_cast<long long>(tokens.x_stride) + channel;
    const long long step = static_cast<long long>(column.at_once) * window.dilation *
                           static_cast<long long>(tokens.x_stride);
#pragma unroll 1
    for (; row < end; row += column.at_once) {
        if (row - stretch.first_row < count) {
            copy(reinterpret_cast<Unit*>(to), reinterpret_cast<const Unit*>(from));
        } else if (exists && row >= stretch.history_row && row < stretch.first_row && row < stretch.end_row) {
            const X* past = tokens.at(stretch.tile, window, start + int(row * window.dilation));
            copy(reinterpret_cast<Unit*>(to), reinterpret_cast<const Unit*>(past + channel));
        } else {
            *reinterpret_cast<Unit*>(to) = Unit();
        }
        to += column.at_once * ring.pitch;
        from += step;
    }
}

template <class X>
__device__ void stage_chunk(unsigned unit_bytes, const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch,
                            const Window& window, const Channels* groups, unsigned chunk, unsigned place) {
    if (unit_bytes == 16) {
        stage_chunk_by<uint4>(tokens, ring, stretch, window, groups, chunk, place);
    } else if (unit_bytes == 8) {
        stage_chunk_by<uint2>(tokens, ring, stretch, window, groups, chunk, place);
    } else if (unit_bytes == 4) {
        stage_chunk_by<unsigned>(tokens, ring, stretch, window, groups, chunk, place);
    } else {
        stage_chunk_by<unsigned short>(tokens, ring, stretch, window, groups, chunk, place);
    }
}

// Stores the outputs of a chunk, which lie in the places of chunk `place`; zero in the padding.
template <class Unit, class X>
__device__ void store_chunk_by(const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch, unsigned dilation,
                               const Channels* groups, unsigned chunk, unsigned place) {
    constexpr unsigned EACH = GROUP * sizeof(X) / sizeof(Unit);
    const Column column(ring.groups * EACH);
    const unsigned end = min((chunk + 1) * ring.chunk, stretch.outputs);
    unsigned output = chunk * ring.chunk + column.row;
    const Channels of = groups[column.unit / EACH];
    if (output >= end || column.unit % EACH * (GROUP / EACH) >= of.count) {
        return;
    }
    const unsigned char* from = ring.memory + (place * ring.chunk + column.row) * ring.pitch + column.unit * sizeof(Unit);
    const unsigned long long first = stretch.tile.sequence.first + unsigned(stretch.tile.start);
    X* to = tokens.y + (first + static_cast<unsigned long long>(output) * dilation) * tokens.y_stride + of.first +
            column.unit % EACH * (GROUP / EACH);
    const unsigned long long step = static_cast<unsigned long long>(column.at_once) * dilation * tokens.y_stride;
#pragma unroll 1
    for (; output < end; output += column.at_once) {
        Unit unit = Unit();
        if (output < stretch.computed) {
            unit = *reinterpret_cast<const Unit*>(from);
        }
        *reinterpret_cast<Unit*>(to) = unit;
        from += column.at_once * ring.pitch;
        to += step;
    }
}

template <class X>
__device__ void store_chunk(unsigned unit_bytes, const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch,
                            unsigned dilation, const Channels* groups, unsigned chunk, unsigned place) {
    if (unit_bytes == 16) {
        store_chunk_by<uint4>(tokens, ring, stretch, dilation, groups, chunk, place);
    } else if (unit_bytes == 8) {
        store_chunk_by<uint2>(tokens, ring, stretch, dilation, groups, chunk, place);
    } else if (unit_bytes == 4) {
        store_chunk_by<unsigned>(tokens, ring, stretch, dilation, groups, chunk, place);
    } else {
        store_chunk_by<unsigned short>(tokens, ring, stretch, dilation, groups, chunk, place);
    }
}
