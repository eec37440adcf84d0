// Which tokens a block of threads works on.
//
// A tile holds tokens of one sequence only. The tokens of a tile are `steps` of each of `phases` phases: with a dilation
// r, the taps of an output read tokens r apart, so outputs r apart share their tokens, and those between them share none.
// A stretch is what `steps` steps of all r phases cover, `span` = steps r consecutive tokens; the tiles of a stretch
// divide its phases among them.
//
// Stretches are numbered so that the sequence of one is found without a table: in a rectangular batch each sequence has
// `stretches`; in a packed batch sequence i begins at stretch first_i / span + i, which leaves room for all that it has,
// since ceil(a) <= floor(a + b) - floor(b) + 1. A stretch that is left over holds no tokens.
#pragma once

// Positions are counted in 31 bits: the plan sees to it that the longest sequence, a stretch, the reach of the window
// and 16 dilations are fewer tokens than that together.
struct Tiles {
    // Rows of each sequence of a rectangular batch; 0 for a packed one.
    unsigned time;
    unsigned sequences;
    // Stretches of each sequence of a rectangular batch.
    unsigned stretches;
    // Tokens of a stretch.
    unsigned span;
    // Tiles of a stretch.
    unsigned tiles;
    unsigned dilation;
    unsigned phases;
    // A multiple of STEPS.
    unsigned steps;
    // Whether lengths and tokens gone by are listed; otherwise all sequences have `time` tokens.
    unsigned listed;
    // Blocks that divide the channels of a tile among them.
    unsigned columns;
};

struct Sequence {
    // Row of its first token.
    unsigned first;
    // Tokens.
    int length;
    // Rows, padding included.
    int room;
    // Tokens of the history that are there.
    int past;
};

struct Tile {
    Sequence sequence;
    // Number of the sequence.
    unsigned index;
    // Position in the sequence of its first token.
    int start;
    // The phase of that token.
    unsigned phase;
    // Which part of the channels.
    unsigned column;
};

// `list` has first, length, room and past of each sequence, unless all of them have `time` tokens.
__device__ inline Sequence sequence_at(unsigned listed, unsigned time, const uint4* list, unsigned index) {
    if (listed == 0) {
        return Sequence{index * time, int(time), int(time), 0};
    }
    const uint4 sequence = __ldg(list + index);
    return Sequence{sequence.x, int(sequence.y), int(sequence.z), int(sequence.w)};
}

__device__ inline Sequence sequence_at(const Tiles& tiles, const uint4* list, unsigned index) {
    return sequence_at(tiles.listed, tiles.time, list, index);
}

// The last of the packed sequences that begin at or before `stretch`.
__device__ inline unsigned packed_index(const Tiles& tiles, const uint4* list, unsigned stretch) {
    unsigned low = 0, high = tiles.sequences;
    while (high - low > 1) {
        const unsigned middle = low + (high - low) / 2;
        if (__ldg(&list[middle].x) / tiles.span + middle <= stretch) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// Tile `number` of all. It may hold no row: then it starts past its sequence.
__device__ inline Tile tile_at(const Tiles& tiles, const uint4* list, unsigned number, unsigned column) {
    Tile tile;
    tile.column = column;
    const unsigned stretch = number / tiles.tiles;
    unsigned before;
    if (tiles.time > 0) {
        tile.index = stretch / tiles.stretches;
        tile.sequence = sequence_at(tiles, list, tile.index);
        before = tile.index * tiles.stretches;
    } else {
        tile.index = packed_index(tiles, list, stretch);
        tile.sequence = sequence_at(tiles, list, tile.index);
        before = tile.sequence.first / tiles.span + tile.index;
    }
    tile.phase = number % tiles.tiles * tiles.phases;
    tile.start = int((stretch - before) * tiles.span + tile.phase);
    return tile;
}

// The tile of this block.
__device__ inline Tile tile_of(const Tiles& tiles, const uint4* list) {
    return tile_at(tiles, list, blockIdx.x / tiles.columns, blockIdx.x % tiles.columns);
}

// An output of a tile, by its number: phase by phase, step by step.
struct Output {
    // Counted from the tile's first.
    unsigned phase;
    unsigned step;
    // In the sequence. It may lie past it.
    int position;
    // Whether its phase is one that there is: the last tile of a stretch may count more.
    bool exists;
};

__device__ inline Output output_at(const Tiles& tiles, const Tile& tile, unsigned number) {
    Output output;
    output.phase = tiles.phases == 1 ? 0 : number / tiles.steps;
    output.step = number - output.phase * tiles.steps;
    output.position = tile.start + int(output.phase + output.step * tiles.dilation);
    output.exists = number < tiles.phases * tiles.steps && tile.phase + output.phase < tiles.dilation;
    return output;
}
