// The gradients of a light convolution's parameters from the sums that the other kernels left, added always in the same
// order.
#pragma once

#include "light_conv_backward.cuh"
#include "taps.cuh"

// Among all threads of a block, for all of them.
__device__ inline float block_total(float number) {
    __shared__ float totals[WARPS];
    number = warp_total(number);
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        totals[threadIdx.x / WARP] = number;
    }
    __syncthreads();
    number = 0.0f;
#pragma unroll
    for (unsigned warp = 0; warp < WARPS; warp++) {
        number += totals[warp];
    }
    return number;
}

__device__ inline float block_largest(float number) {
    __shared__ float largest[WARPS];
    number = warp_largest(number);
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        largest[threadIdx.x / WARP] = number;
    }
    __syncthreads();
#pragma unroll
    for (unsigned warp = 0; warp < WARPS; warp++) {
        number = fmaxf(number, largest[warp]);
    }
    return number;
}

// The sum of `rows` numbers, row i at numbers[place(i)]: each warp has a part of the rows for 32 columns, and the first warp
// receives the sum of all parts. All threads of the block take part.
template <class At>
__device__ float sum_of_rows(unsigned rows, bool exists, At at) {
    __shared__ float parts[WARPS][WARP];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned long long all = rows;
    const unsigned end = unsigned((warp + 1) * all / WARPS);
    float sum = 0.0f;
    if (exists) {
#pragma unroll 4
        for (unsigned row = unsigned(warp * all / WARPS); row < end; row++) {
            sum += at(row);
        }
    }
    __syncthreads();
    parts[warp][lane] = sum;
    __syncthreads();
    sum = 0.0f;
    if (warp == 0) {
#pragma unroll
        for (unsigned part = 0; part < WARPS; part++) {
            sum += parts[part][lane];
        }
    }
    return sum;
}

template <class X>
__device__ void store_gradient(void* to, unsigned wide, unsigned long long at, float gradient) {
    if (sizeof(X) == sizeof(float) || wide != 0) {
        static_cast<float*>(to)[at] = gradient;
    } else {
        // The first of two that are rounded.
        static_cast<X*>(to)[at] = Pair<X>::rounded(make_float2(gradient, gradient)).x;
    }
}

template <class X>
__device__ void parameters_of(const void* weight, const uint4* sequences, float* scratch, void* dweight, void* dbias,
                              const Params& params) {
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const Window& window = params.window;
    const unsigned weights = params.wants_weight != 0 ? params.heads : 0;
    if (blockIdx.x >= weights) {
        const unsigned channel = (blockIdx.x - weights) * WARP + lane;
        const bool exists = channel < params.channels;
        const float* const from = scratch + params.biases_at + channel;
        const float sum = sum_of_rows(params.blocks, exists, [&](unsigned row) {
            return from[static_cast<unsigned long long>(row) * params.channels];
        });
        if (warp == 0 && exists) {
            store_gradient<X>(dbias, params.wide_gradients, channel, sum);
        }
        return;
    }
    const unsigned head = blockIdx.x;
    const Tiles& tiles = params.tiles;
    const bool in_range = params.normalize == SOFTMAX_IN_RANGE;
    // Whether there is a token whose weights are those of a softmax over all taps.
    float there = 0.0f;
#pragma unroll 1
    for (unsigned index = threadIdx.x; params.blocks > 0 && index < tiles.sequences; index += THREADS) {
        const unsigned length = unsigned(sequence_at(tiles, sequences, index).length);
        there = length > (in_range ? window.reach : 0) ? 1.0f : there;
    }
    const bool any = block_total(there) > 0.0f;
    const Parameters<X> logits = {weight, params.wide};
    const unsigned long long first_logit = static_cast<unsigned long long>(head) * window.width;
    const bool normal = any && params.normalize != NONE;
    float largest = LOWEST, total = 0.0f;
    if (normal) {
#pragma unroll 1
        for (unsigned tap = threadIdx.x; tap < window.width; tap += THREADS) {
            largest = fmaxf(largest, logits.at(first_logit + tap));
        }
        largest = block_largest(largest);
#pragma unroll 1
        for (unsigned tap = threadIdx.x; tap < window.width; tap += THREADS) {
            total += expf(logits.at(first_logit + tap) - largest);
        }
        total = block_total(total);
    }
    const auto weight_at = [&](unsigned tap) { return expf(logits.at(first_logit + tap) - largest) / total; };

    // Rows of sums: of every block, and of the columns that have channels of the head.
    const unsigned of_column = 2 * params.lanes, first_channel = head * params.head_channels;
    const unsigned first_column = first_channel / of_column;
    const unsigned columns = (first_channel + params.head_channels - 1) / of_column + 1 - first_column;
    float* const rows = scratch + params.sums_at;
    const auto place = [&](unsigned row, unsigned tap) {
        const unsigned block = row / columns, column = first_column + (row - block * columns);
        const unsigned in_column = head - column * of_column / params.head_channels;
        const unsigned long long at = static_cast<unsigned long long>(block) * tiles.columns + column;
        return (at * params.column_heads + in_column) * window.width + tap;
    };
    float mean = 0.0f;
#pragma unroll 1
    for (unsigned first = 0; any && first < window.width; first += WARP) {
        const unsigned tap = first + lane;
        const bool exists = tap < window.width;
        const float sum = sum_of_rows(params.blocks * columns, exists, [&](unsigned row) { return rows[place(row, tap)]; });
        if (warp == 0 && exists) {
            const float gradient = dropped(sum, params.dropout.factor(0, head, tap));
            // It was read by this warp last, and is again by this lane.
            rows[place(0, tap)] = gradient;
            if (normal) {
                mean = fmaf(weight_at(tap), gradient, mean);
            }
        }
    }
    mean = warp_total(mean);
#pragma unroll 1
    for (unsigned first = 0; first < window.width; first += WARP) {
        const unsigned tap = first + lane;
        const bool exists = tap < window.width;
        float gradient = 0.0f;
        if (warp == 0 && exists && any) {
            gradient = rows[place(0, tap)];
            gradient = normal ? weight_at(tap) * (gradient - mean) : gradient;
        }
        if (in_range) {
            const float* const ends = scratch + params.ends_at + first_logit * 2 + tap;
            const unsigned long long step = static_cast<unsigned long long>(params.heads) * 2 * window.width;
            gradient += sum_of_rows(params.end_warps, exists, [&](unsigned row) { return ends[row * step]; });
        }
        if (warp == 0 && exists) {
            store_gradient<X>(dweight, params.wide_gradients, first_logit + tap, gradient);
        }
    }
}
