// Sums on their way out of a linear layer, where more is done to them than a bias and a ReLU: activations, which are too
// long to be had for each of a thread's sums, and a residual.
//
// The sums lie in the block's memory in f32, rows as `place.cuh` has them. First they are activated where they lie; then they
// leave, with the residual of four units at once, so that it is not waited for one by one.
#pragma once

#include "activation.cuh"
#include "element.cuh"
#include "place.cuh"

// What there is to do. All begins with the first row and column of a tile.
template <class Y>
struct Finish {
    Y* y;
    // Or none.
    const Y* residual;
    // Elements from one row to the next.
    unsigned long long y_stride;
    unsigned long long residual_stride;
    // How many there are.
    unsigned rows;
    unsigned columns;
    // 0: none.
    unsigned activation;
    // Whether all rows are whole quads, each aligned to its size.
    unsigned quads;
};

// Rows of WIDTH sums in the block's memory.
template <unsigned WIDTH>
struct SumRows {
    unsigned char* memory;
    // Of a GLU: from a number to its gate, in bytes between their rows, and in columns.
    unsigned gate_bytes;
    unsigned gate_columns;

    __device__ float4* quad(unsigned row, unsigned column) const {
        return reinterpret_cast<float4*>(memory + place<f32, WIDTH>(row, column));
    }

    __device__ float4 gates(unsigned row, unsigned column) const {
        return *reinterpret_cast<const float4*>(memory + gate_bytes + place<f32, WIDTH>(row, column + gate_columns));
    }
};

// One warp finishes rows `begin` to `end` of those that begin with `first_row` and `first_column` of the tile. There are
// rounds of four whole units of a lane in them.
template <unsigned WIDTH, class Y>
__device__ void finish_rows(const Finish<Y>& finish, const SumRows<WIDTH>& sums, unsigned begin, unsigned end,
                            unsigned first_row, unsigned first_column) {
    constexpr unsigned QUADS = WIDTH / 4, AT_ONCE = 32 / QUADS, AHEAD = 4;
    const unsigned lane = threadIdx.x % 32;
    const unsigned quad = lane % QUADS * 4;
    const unsigned columns = min(finish.columns - min(finish.columns, first_column), WIDTH);
    if (finish.activation > RELU) {
#pragma unroll 1
        for (unsigned row = begin + lane / QUADS; row < end; row += AT_ONCE) {
            if (quad < columns) {
                float4* at = sums.quad(row, quad);
                const float4 gates = finish.activation == GLU ? sums.gates(row, quad) : *at;
                *at = activated(finish.activation, *at, gates);
            }
        }
        __syncwarp();
    }
    if (finish.quads != 0) {
#pragma unroll 1
        for (unsigned row = begin + lane / QUADS; row < end; row += AHEAD * AT_ONCE) {
            float4 added[AHEAD];
            const auto exists = [&](unsigned n) {
                return quad < columns && first_row + row + n * AT_ONCE < finish.rows;
            };
#pragma unroll
            for (unsigned n = 0; n < AHEAD; n++) {
                added[n] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (exists(n) && finish.residual != nullptr) {
                    added[n] = quad_of(finish.residual + (first_row + row + n * AT_ONCE) * finish.residual_stride +
                                       first_column + quad);
                }
            }
#pragma unroll
            for (unsigned n = 0; n < AHEAD; n++) {
                if (exists(n)) {
                    const float4 sum = *sums.quad(row + n * AT_ONCE, quad);
                    store_quad_of(finish.y + (first_row + row + n * AT_ONCE) * finish.y_stride + first_column + quad,
                                  make_float4(sum.x + added[n].x, sum.y + added[n].y, sum.z + added[n].z,
                                              sum.w + added[n].w));
                }
            }
        }
        return;
    }
#pragma unroll 1
    for (unsigned row = begin; row < min(end, finish.rows - min(finish.rows, first_row)); row++) {
#pragma unroll 1
        for (unsigned column = lane; column < columns; column += 32) {
            const float sum = *(reinterpret_cast<const float*>(sums.quad(row, column & ~3u)) + column % 4);
            const unsigned long long in_row = first_column + column;
            float added = 0.0f;
            if (finish.residual != nullptr) {
                added = number(finish.residual[(first_row + row) * finish.residual_stride + in_row]);
            }
            finish.y[(first_row + row) * finish.y_stride + in_row] = rounded<Y>(sum + added);
        }
    }
}
