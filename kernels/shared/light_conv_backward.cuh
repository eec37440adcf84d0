// What the kernels of a light convolution's backward pass are told.
#pragma once

#include "dropout.cuh"
#include "stage.cuh"
#include "taps.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / WARP;

// What all kernels of a call are told, in this order; the plan fills it in.
//   lanes * octets * groups are at most THREADS.
//   lanes * 2 channels are a row: a multiple of 16 bytes, and at most 128. Where it is less, gap is a row, and otherwise 0.
//   of_phase has room for the rows of x, steps + taps - 1 of a phase, and of_dy_phase for those of dy, `steps`, with the gaps
//   between them.
//   taps is octets * 8, and chunks as many as it takes for all K.
//   The block's memory has phases * of_phase bytes for x, dy_at of them, and phases * of_dy_phase for dy; in the end it has
//   groups * taps * (2 * lanes + 1) numbers of f32.
// That is for sums by multiply-adds. For those by products of matrices, lanes is 8 times the groups of 16 channels of a
// column, `groups` are the parts that a tile's tokens are divided into, phases is 1 and steps a multiple of 16 groups; rows
// are 16 bytes further apart than they are long, and x has steps + 16 (PRODUCTS - 1) of them.
struct Params {
    // Elements from one token to the next.
    unsigned long long x_stride;
    unsigned long long dy_stride;
    // Where in scratch memory, in numbers of f32, sums of weights begin, those of biases, and those of the ends of sequences.
    // What ends are normalised by is the first of all.
    unsigned long long sums_at;
    unsigned long long biases_at;
    unsigned long long ends_at;
    Tiles tiles;
    Window window;
    unsigned channels;
    unsigned heads;
    // Channels of a head, R.
    unsigned head_channels;
    unsigned normalize;
    // Whether weights are f32 beside tokens of 16 bits, and whether gradients of parameters are.
    unsigned wide;
    unsigned wide_gradients;
    // What is wanted.
    unsigned wants_x;
    unsigned wants_weight;
    unsigned wants_bias;
    unsigned lanes;
    unsigned octets;
    unsigned groups;
    unsigned taps;
    unsigned chunks;
    // Tiles of a column, and blocks that divide them among themselves.
    unsigned all_tiles;
    unsigned blocks;
    // Heads that a column's channels can touch.
    unsigned column_heads;
    // Bytes of a unit in which x and dy are read: 16, 8, 4 or 2, and no less than an element.
    unsigned load_unit;
    // Of `Rows`, in bytes.
    unsigned gap;
    unsigned of_phase;
    unsigned of_dy_phase;
    unsigned dy_at;
    // Tokens at the ends of a sequence, and warps that divide them among themselves, for each head.
    unsigned end_rows;
    unsigned end_warps;
    Dropout dropout;
};
