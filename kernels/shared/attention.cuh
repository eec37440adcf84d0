// Which queries a block of attention works on, and which keys they see.
#pragma once

#include "tiles.cuh"

// Positions are counted in 31 bits: the plan sees to it that sequences have fewer than 2^30 tokens, and that `left` and
// `right` are no more than that.
struct Attention {
    // Elements from one token to the next.
    unsigned long long q_stride;
    unsigned long long k_stride;
    unsigned long long v_stride;
    unsigned long long y_stride;
    // Of the queries, with a dilation of 1; its columns are heads, `parts` of each.
    Tiles tiles;
    // Keys of each sequence of a rectangular batch, padding included; 0 for a packed one.
    unsigned keys_time;
    // Whether the sequences of keys are listed; otherwise all of them have `keys_time` keys.
    unsigned keys_listed;
    // Channels of a head, D.
    unsigned head_channels;
    // What scores are multiplied by to be logarithms to the base two: log2(e) times the problem's scale.
    float scale;
    // How far a query sees on either side of its own position; 2^30 is to the end.
    unsigned left;
    unsigned right;
    // Blocks that divide a tile of a head among them.
    unsigned parts;
    // Bytes of a unit in which q, k and v are read and y is written: 16, 8, 4 or 2, no less than an element. All rows of all
    // heads are aligned to it, and whole units.
    unsigned q_unit;
    unsigned k_unit;
    unsigned v_unit;
    unsigned y_unit;
    // Where the first query of a sequence stands among its keys: 0, so that the last stands at the last, padding included; 1,
    // after as many as tokens had gone by before the queries; 2, as many before them as had gone by before the keys.
    unsigned alignment;
};

// Keys, counted in their sequence.
struct Seen {
    int begin;
    int end;
};

// What a block works on.
struct Work {
    unsigned head;
    unsigned part;
    // The row of the tile's first query, rows of the tile, and those of them that are queries, the others being padding.
    unsigned first_query;
    int rows;
    int queries;
    // Where the first query stands among the keys: it may be before the first, or past the last.
    int position;
    // The row of the sequence's first key, and its keys.
    unsigned first_key;
    int keys;
    // From the first key that any of the queries sees to the last.
    Seen seen;
};

// The keys that query `row` of the tile sees. Neither end moves back from one query to the next.
__device__ inline Seen seen_by(const Attention& attention, const Work& work, int row) {
    const int at = work.position + row;
    const int begin = min(max(at - int(attention.left), 0), work.keys);
    const int end = min(max(at + int(attention.right) + 1, 0), work.keys);
    return Seen{begin, max(begin, end)};
}

// On a tile of queries.
__device__ inline Work work_on(const Attention& attention, const Tile& tile, const uint4* key_list) {
    const Sequence keys = sequence_at(attention.keys_listed, attention.keys_time, key_list, tile.index);
    const int tokens = int(attention.tiles.steps);
    Work work;
    work.head = tile.column / attention.parts;
    work.part = tile.column % attention.parts;
    work.first_query = tile.sequence.first + unsigned(tile.start);
    work.rows = max(min(tile.sequence.room - tile.start, tokens), 0);
    work.queries = max(min(tile.sequence.length - tile.start, tokens), 0);
    work.position = tile.start;
    if (attention.alignment == 0) {
        work.position += keys.room - tile.sequence.room;
    } else {
        work.position += attention.alignment == 1 ? tile.sequence.past : -keys.past;
    }
    work.first_key = keys.first;
    work.keys = keys.length;
    work.seen = Seen{0, 0};
    if (work.queries > 0) {
        work.seen.begin = seen_by(attention, work, 0).begin;
        work.seen.end = seen_by(attention, work, work.queries - 1).end;
    }
    if (work.seen.begin == work.seen.end) {
        work.seen = Seen{0, 0};
    }
    return work;
}

// The keys that some of a block's queries see.
struct Reach {
    // From the first that one of them sees to the last: none where there are no queries.
    int begin;
    int end;
    // Those that all of them see.
    int all_begin;
    int all_end;
};

__device__ inline Work work_of(const Attention& attention, const uint4* query_list, const uint4* key_list) {
    return work_on(attention, tile_of(attention.tiles, query_list), key_list);
}

// Of `rows` queries from `row` on.
__device__ inline Reach reach_of(const Attention& attention, const Work& work, int row, int rows) {
    if (row >= work.queries) {
        return Reach{0, 0, 0, 0};
    }
    const Seen first = seen_by(attention, work, row);
    // No further than there are queries, where positions can be counted.
    const Seen last = seen_by(attention, work, min(row + rows, work.queries) - 1);
    return Reach{first.begin, last.end, last.begin, first.end};
}
