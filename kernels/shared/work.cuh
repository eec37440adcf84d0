// What a block of a convolution by multiply-adds works on.
#pragma once

#include "convolve.cuh"

// What the threads of a block have in common. It lies in the block's memory, and is read where it is used: registers are
// for tokens and sums.
struct Work {
    Tile tile;
    // Tokens of the history in reach.
    int past;
    unsigned first_channel;
    unsigned end_channel;
    unsigned first_head;
    unsigned heads;
    // The taps that read a token for some output.
    Taps taps;
};

// A column of a tile is `of_column` channels, and a chunk `chunk` taps.
__device__ inline Work work_of(const Tiles& tiles, const Window& window, const uint4* sequences, unsigned channels,
                               unsigned head_channels, unsigned of_column, unsigned chunk) {
    Work work;
    work.tile = tile_of(tiles, sequences);
    const Tile& tile = work.tile;
    work.past = min(tile.sequence.past, int(window.reach));
    work.first_channel = tile.column * of_column;
    work.end_channel = min(work.first_channel + of_column, channels);
    work.first_head = work.first_channel / head_channels;
    work.heads = (work.end_channel - 1) / head_channels - work.first_head + 1;
    // A chunk that holds all taps is normalised from itself.
    work.taps = taps_of(tiles, window, tile, work.past, chunk);
    return work;
}
