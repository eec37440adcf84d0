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
    // Bytes from row to row.
    unsigned pitch;
    unsigned rows;
    unsigned chunk;
};

// The part of a phase that a block works on, and its channels.
struct Stretch {
    Tile tile;
    // Tokens of the history in reach.
    int past;
    // Outputs; those that are tokens, the others being padding; and rows of tokens that these read.
    unsigned outputs;
    unsigned computed;
    unsigned tokens;
    // Rows that matrices read: those past the tokens are zero.
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
    const auto steps = [&](int end) {
        const int left = end - stretch.tile.start;
        return left <= 0 ? 0 : min((unsigned(left) + tiles.dilation - 1) / tiles.dilation, tiles.steps);
    };
    stretch.outputs = steps(sequence.room);
    stretch.computed = steps(sequence.length);
    stretch.tokens = stretch.computed == 0 ? 0 : stretch.computed + window.width - 1;
    stretch.rows = stretch.computed == 0 ? 0 : ((stretch.computed + 15) / 16 + matrices - 1) * 16;
    stretch.groups_each = (head_channels + GROUP - 1) / GROUP;
    stretch.first_group = stretch.tile.column * groups;
    stretch.groups = min(groups, channels / head_channels * stretch.groups_each - stretch.first_group);
    stretch.head_channels = head_channels;
    return stretch;
}

// What a thread copies of every row: a unit, at the same place in all rows.
template <class Unit, class X>
struct Column {
    unsigned unit;
    // The row it begins with.
    unsigned row;
    unsigned at_once;
    unsigned channel;
    // Whether there are such channels.
    bool exists;

    __device__ Column(const Stretch& stretch, unsigned groups) {
        constexpr unsigned EACH = GROUP * sizeof(X) / sizeof(Unit);
        const unsigned units = groups * EACH;
        row = threadIdx.x / units;
        unit = threadIdx.x - row * units;
        at_once = blockDim.x / units;
        const unsigned group = stretch.first_group + unit / EACH;
        const unsigned head = group / stretch.groups_each;
        const unsigned within = (group - head * stretch.groups_each) * GROUP + unit % EACH * (GROUP / EACH);
        channel = head * stretch.head_channels + within;
        exists = unit / EACH < stretch.groups && within < stretch.head_channels;
        // Threads that are left over have no row.
        row = row < at_once ? row : 0xffffffffu / 2;
    }
};

// Brings in the rows of a chunk, into the places of chunk `place`: tokens, and zeros where there are none.
template <class Unit, class X>
__device__ void stage_chunk_by(const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch, const Window& window,
                               unsigned groups, unsigned chunk, unsigned place) {
    const Column<Unit, X> column(stretch, groups);
#pragma unroll 1
    for (unsigned step = column.row; step < ring.chunk; step += column.at_once) {
        const unsigned row = chunk * ring.chunk + step;
        if (row >= stretch.rows) {
            break;
        }
        Unit* to = reinterpret_cast<Unit*>(ring.memory + (place * ring.chunk + step) * ring.pitch) + column.unit;
        const int position = stretch.tile.start + int(row * window.dilation) - int(window.left);
        if (column.exists && row < stretch.tokens && position >= -stretch.past &&
            position < stretch.tile.sequence.length) {
            copy(to, reinterpret_cast<const Unit*>(tokens.at(stretch.tile, window, position) + column.channel));
        } else {
            *to = Unit();
        }
    }
}

template <class X>
__device__ void stage_chunk(unsigned unit_bytes, const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch,
                            const Window& window, unsigned groups, unsigned chunk, unsigned place) {
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
                               unsigned groups, unsigned chunk, unsigned place) {
    const Column<Unit, X> column(stretch, groups);
    if (!column.exists) {
        return;
    }
#pragma unroll 1
    for (unsigned step = column.row; step < ring.chunk; step += column.at_once) {
        const unsigned output = chunk * ring.chunk + step;
        if (output >= stretch.outputs) {
            break;
        }
        const unsigned char* row = ring.memory + (place * ring.chunk + step) * ring.pitch;
        const unsigned position = unsigned(stretch.tile.start) + output * dilation;
        X* to = tokens.y + (stretch.tile.sequence.first + position) * tokens.y_stride + column.channel;
        Unit unit = Unit();
        if (output < stretch.computed) {
            unit = reinterpret_cast<const Unit*>(row)[column.unit];
        }
        *reinterpret_cast<Unit*>(to) = unit;
    }
}

template <class X>
__device__ void store_chunk(unsigned unit_bytes, const Tokens<X>& tokens, const Ring& ring, const Stretch& stretch,
                            unsigned dilation, unsigned groups, unsigned chunk, unsigned place) {
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
