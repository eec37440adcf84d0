// Scores of 16 queries of a warp, by products of matrices: a lane has those of rows lane / 4 and lane / 4 + 8, which four
// lanes share.
#pragma once

#include "attention.cuh"
#include "mma.cuh"
#include "matrix_rows.cuh"

// The products of 16 queries and KEYS keys, each a row of WIDTH numbers.
template <class X, unsigned WIDTH, unsigned KEYS>
__device__ void multiply_keys(float (&scores)[KEYS / 8][4], const unsigned (&queries)[WIDTH / SIDE][4],
                              const unsigned char* keys) {
    const unsigned lane = thread_anew() % 32;
    const unsigned memory = unsigned(__cvta_generic_to_shared(keys));
    const unsigned first = place<X, WIDTH>(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8);
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            scores[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (unsigned c = 0; c < WIDTH / SIDE; c++) {
#pragma unroll
        for (unsigned n = 0; n < KEYS / 8; n += 2) {
            unsigned pair[4];
            load_matrices(pair, memory + (first ^ place<X, WIDTH>(n * 8, c * SIDE)));
            const unsigned columns[2][2] = {{pair[0], pair[1]}, {pair[2], pair[3]}};
            multiply_matrices<X>(scores[n], queries[c], columns[0]);
            multiply_matrices<X>(scores[n + 1], queries[c], columns[1]);
        }
    }
}

// Makes -infinity of the scores of keys that a query does not see. The first key is `first`, the first query `row`.
template <unsigned KEYS>
__device__ void hide(float (&scores)[KEYS / 8][4], const Attention& attention, const Work& work, int row, int first) {
    Seen seen[2];
    seen[0] = seen_by(attention, work, row + threadIdx.x % 32 / 4);
    seen[1] = seen_by(attention, work, row + threadIdx.x % 32 / 4 + 8);
#pragma unroll
    for (unsigned n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const int key = first + int(n * 8 + threadIdx.x % 4 * 2 + i % 2);
            const bool sees = key >= seen[i / 2].begin && key < seen[i / 2].end;
            scores[n][i] = sees ? scores[n][i] : -infinity();
        }
    }
}
