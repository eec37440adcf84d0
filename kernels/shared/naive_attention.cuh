// What the kernels of naive attention have in common: where scores lie.
#pragma once

#include "attention.cuh"

// The weight of a key that a query does not see. It has to be left out: a value times zero may be NaN.
constexpr float UNSEEN = -1.0f;

// The numbers of a call of naive attention; the plan fills them.
struct NaiveAttention {
    Attention attention;
    // Numbers from one row of scores to the next, and rows of a head: as many as there are queries in all.
    unsigned long long score_stride;
    unsigned long long score_rows;
    // Bytes of a unit in which scores are read: 16, 8 or 4. All their rows are aligned to it, and whole units.
    unsigned score_unit;
    unsigned unused;
};

// Scores of the tile's first query.
__device__ inline unsigned long long first_score(const NaiveAttention& params, const Work& work) {
    return (work.head * params.score_rows + work.first_query) * params.score_stride;
}
