// A tile of outputs from the sums of its product on tensor cores, finished as `finish_rows.cuh` has it.
#pragma once

#include "finish_rows.cuh"
#include "store_tile.cuh"

// Each warp puts its part of the tile into a strip of the block's memory, as many rows as there is room for at a time. Of a
// GLU every other strip has the gates of the one before, and the two warps finish half of its rows each. BYTES of the block's
// memory are free: all threads have done with what was there.
template <unsigned BYTES, class X, class W, class Shape, class Y>
__device__ void finish_tile(unsigned char* memory, const Product<X, W, Shape>& product, const Finish<Y>& finish) {
    constexpr unsigned WIDTH = Shape::WARP_COLUMNS;
    static_assert(Shape::COLUMNS == 2 * WIDTH, "numbers and gates lie in two warps side by side");
    constexpr unsigned ROOM = BYTES / Shape::WARPS / (16 * WIDTH * sizeof(f32));
    constexpr unsigned AT_ONCE = whole_part(Shape::ROW_MATRICES, ROOM), ROWS = AT_ONCE * 16;
    constexpr unsigned STRIP = ROWS * WIDTH * unsigned(sizeof(f32));
    const unsigned warp = threadIdx.x / 32;
    const bool gated = finish.activation == GLU;
    const SumRows<WIDTH> sums = {memory + (gated ? warp / 2 * 2 : warp) * STRIP, STRIP, 0};
    const unsigned begin = gated ? warp % 2 * (ROWS / 2) : 0, end = gated ? begin + ROWS / 2 : ROWS;
#pragma unroll
    for (unsigned first = 0; first < Shape::ROW_MATRICES; first += AT_ONCE) {
        if (first > 0) {
            __syncthreads();
        }
        put_strip<AT_ONCE, f32>(memory + warp * STRIP, product, first,
                                [](unsigned) { return [](unsigned, float2 sums) { return sums; }; });
        __syncthreads();
        finish_rows(finish, sums, begin, end, Shape::warp_row() + first * 16, gated ? 0 : Shape::warp_column());
    }
}
