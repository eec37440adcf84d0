// What a block of a dynamic convolution in one launch works on: its tile, and the rows that it reads and writes.
#pragma once

#include "taps.cuh"
#include "whole_rows.cuh"
#include "convolve.cuh"

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long query_stride;
    unsigned long long y_stride;
    // `phases` is 1, and `steps` a multiple of 16.
    Tiles tiles;
    Window window;
    unsigned channels;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned heads;
    unsigned query_channels;
    // 0: none, 1: softmax over all taps, 2: over those in range.
    unsigned normalize;
    unsigned has_bias;
    unsigned has_weight_bias;
    // Heads of a block, and those whose logits lie in its memory at a time.
    unsigned block_heads;
    unsigned group_heads;
    // The row of tokens that is an output's own query, or NOWHERE: then queries are brought in.
    unsigned own_row;
    // Bytes from row to row of tokens and of queries, and numbers from row to row of logits.
    unsigned token_pitch;
    unsigned query_pitch;
    unsigned tap_pitch;
    // Where queries, logits, biases of logits, slabs of W and the warps' own memory lie in the block's, in bytes; tokens are
    // the first, after `Work`.
    unsigned query_at;
    unsigned taps_at;
    unsigned weight_bias_at;
    unsigned slabs_at;
    unsigned corners_at;
    // Rows of a slab, and slabs of a stage.
    unsigned slab_rows;
    unsigned stage_slabs;
    // Whether queries are f32 beside tokens of 16 bits, and whether taps are convolved by products of matrices.
    unsigned wide_query;
    unsigned banded;
    // Bytes of a unit in which x and history, queries and W are read and y is written: 16, 4 or 2, and no less than an
    // element. All rows are aligned to it, and whole units; so are heads, where y is written.
    unsigned x_unit;
    unsigned query_unit;
    unsigned weight_unit;
    unsigned y_unit;
    Dropout dropout;
};

constexpr unsigned NOWHERE = 0xffffffffu;

// What the threads of a block have in common.
struct Work {
    Tile tile;
    // Tokens of the history in reach.
    int past;
    // Outputs, and those of them that are tokens, the others being padding.
    unsigned outputs;
    unsigned computed;
    unsigned first_head;
    unsigned end_head;
    // The first channel that is brought in, a multiple of 8, and the end of them.
    unsigned first_channel;
    unsigned end_channel;
};

// Bytes of the block's memory before the tokens.
constexpr unsigned WORK_BYTES = 128;
static_assert(sizeof(Work) <= WORK_BYTES);

__device__ inline Work work_of(const Params& params, const uint4* sequences) {
    Work work;
    work.tile = tile_of(params.tiles, sequences);
    const Sequence& sequence = work.tile.sequence;
    work.past = min(sequence.past, int(params.window.reach));
    const auto steps = [&](int end) {
        const int left = end - work.tile.start;
        const unsigned all = left <= 0 ? 0 : (unsigned(left) + params.tiles.dilation - 1) / params.tiles.dilation;
        return min(all, params.tiles.steps);
    };
    work.outputs = work.tile.phase < params.tiles.dilation ? steps(sequence.room) : 0;
    work.computed = min(work.outputs, steps(sequence.length));
    work.first_head = work.tile.column * params.block_heads;
    work.end_head = min(work.first_head + params.block_heads, params.heads);
    work.first_channel = work.first_head * params.head_channels / 8 * 8;
    work.end_channel = work.end_head * params.head_channels;
    return work;
}

// Where an output's tokens and channels go.
template <class X>
struct OutputRows {
    X* first;
    // Elements from one output to the next.
    unsigned long long stride;

    __device__ X* at(unsigned output, unsigned channel) const { return first + output * stride + channel; }
};

// Zero in the padding.
template <class X>
__device__ void clear(const OutputRows<X>& rows, const Params& params, const Work& work) {
    const unsigned first = work.first_head * params.head_channels;
#pragma unroll 1
    for (unsigned output = work.computed + threadIdx.x / WARP; output < work.outputs; output += blockDim.x / WARP) {
        if (params.y_unit == 16) {
            constexpr unsigned EACH = sizeof(uint4) / sizeof(X);
#pragma unroll 1
            for (unsigned channel = first + threadIdx.x % WARP * EACH; channel < work.end_channel;
                 channel += WARP * EACH) {
                *reinterpret_cast<uint4*>(rows.at(output, channel)) = uint4();
            }
        } else {
#pragma unroll 1
            for (unsigned channel = first + threadIdx.x % WARP; channel < work.end_channel; channel += WARP) {
                *rows.at(output, channel) = X();
            }
        }
    }
}

// Rows of memory by their position in a sequence.
struct Source {
    const unsigned char* rows;
    // Bytes from row to row.
    unsigned long long stride;
    // From the output to row 0, and those before the sequence that there are.
    int left;
    int past;
};

// Brings in the tokens of the tile and its halo, and queries where they are not among them.
template <class X>
__device__ void bring_rows(unsigned char* bytes, const X* x, const void* query, const X* history, const Params& params,
                           const Work& work) {
    const Tile& tile = work.tile;
    const unsigned query_size = params.wide_query != 0 ? sizeof(float) : sizeof(X);
    const unsigned offset = work.first_channel * unsigned(sizeof(X));
#pragma unroll 1
    for (unsigned which = 0; which < (params.own_row == NOWHERE ? 2 : 1); which++) {
        const bool tokens = which == 0;
        const WholeRows to = {bytes + (tokens ? WORK_BYTES : params.query_at),
                              tokens ? params.token_pitch : params.query_pitch,
                              tokens ? work.end_channel * unsigned(sizeof(X)) - offset
                                     : params.query_channels * query_size};
        const Source from = {tokens ? reinterpret_cast<const unsigned char*>(x) + offset
                                    : static_cast<const unsigned char*>(query),
                             tokens ? params.x_stride * sizeof(X) : params.query_stride * query_size,
                             tokens ? int(params.window.left) : 0, tokens ? work.past : 0};
        const unsigned count = tokens ? params.tiles.steps + params.window.width - 1 : work.computed;
        bring(tokens ? params.x_unit : params.query_unit, to, count, [&](unsigned row) -> const unsigned char* {
            const int position = tile.start + int(row * params.window.dilation) - from.left;
            if (position < -from.past || position >= tile.sequence.length) {
                return nullptr;
            }
            if (position < 0) {
                const unsigned long long at = (tile.index + 1ull) * params.window.reach - unsigned(-position);
                return reinterpret_cast<const unsigned char*>(history + at * params.channels) + offset;
            }
            return from.rows + (tile.sequence.first + unsigned(position)) * from.stride;
        });
    }
}
