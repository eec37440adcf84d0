// Layer norm and RMS norm of rows: y = (s - m) / sqrt(v + eps) weight + bias, with s = x or x + residual, m the mean of s (0
// for an RMS norm) and v the mean of (s - m)^2; plus the residual where it comes after. In f32, rounded once.
//
// module norm_f32 X=f32 HALVES=0
// module norm_f16 X=f16 HALVES=1
// module norm_bf16 X=bf16 HALVES=1
//
// Rows of up to 1024 numbers have a warp each, eight of them a block; longer ones have a block of 256 threads. A thread keeps
// up to 32 numbers of its row in registers, so that rows of up to 8192 are read once; of longer ones it reads what it does
// not keep once more for each step, mostly from the cache. Rows, weight and bias are read and written by units of 16, 8, 4 or
// 2 bytes, the most that all are aligned to, each with an entry of its own; of units below 16 a thread keeps four. Length and
// unit say in which order the sums of a row are made, and not where among the others it stands.
//
// Floor and prediction, written before the first run on a GPU. 32768 tokens of 1024 channels in bf16 on an H100 (3.0 TB/s):
// 134 MB without a residual, 45 us; 268 MB with one and the sum stored, 89 us. Some 10 operations a number are 340 M, 12 us
// of the f32 pipes. Predicted: 50 to 60 us and 95 to 115 us, as a warp has 4 loads of 16 bytes a thread under way at once.

#include "shared/element.cuh"
#include "shared/reduced.cuh"
#include "shared/units.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;

// Numbers of a row that a thread keeps.
constexpr unsigned KEPT = 32;

// Units of less than 16 bytes that a thread keeps: few, or the text would be long.
constexpr unsigned FEW = 4;

// Where the residual is added.
constexpr unsigned BEFORE = 1;
constexpr unsigned AFTER = 2;

// The numbers of a call, in this order; the plan fills them.
struct Params {
    // Elements from one row to the next.
    unsigned long long x_stride;
    unsigned long long residual_stride;
    unsigned long long y_stride;
    unsigned long long sum_stride;
    unsigned tokens;
    unsigned channels;
    float eps;
    // 1 for a layer norm, 0 for an RMS norm.
    unsigned layer;
    // 0: none, 1: before, 2: after.
    unsigned residual;
    unsigned has_bias;
    // Whether s is stored too.
    unsigned has_sum;
    // Whether weight and bias are f32.
    unsigned wide;
};

// A row, in units of some bytes, by ROW_THREADS threads.
template <class Unit, unsigned ROW_THREADS>
__device__ void norm(const X* x, const X* residual, const void* weight, const void* bias, X* y, X* sum,
                     const Params& params) {
    constexpr unsigned N = sizeof(Unit) / sizeof(X), STEP = ROW_THREADS * N;
    constexpr unsigned UNITS = sizeof(Unit) == 16 ? KEPT / N : FEW;
    constexpr bool BLOCK = ROW_THREADS > 32;
    __shared__ float shared[WARPS];
    const unsigned row = BLOCK ? blockIdx.x : blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= params.tokens) {
        return;
    }
    const unsigned channels = params.channels;
    const unsigned first = threadIdx.x % ROW_THREADS * N;
    // The first of this thread's that it does not keep.
    const unsigned rest = first + UNITS * STEP;
    const X* const x_row = x + row * params.x_stride;
    const X* const residual_row = residual + row * params.residual_stride;
    X* const y_row = y + row * params.y_stride;
    X* const sum_row = sum + row * params.sum_stride;
    const auto plus = [](float a, float b) { return a + b; };
    const auto reduced = [&](float number) {
        if constexpr (BLOCK) {
            return reduced_in_block<WARPS>(number, shared, plus);
        } else {
            return reduced_in_warp(number, plus);
        }
    };
    const auto read = [&](float* s, unsigned column) {
        load<X, Unit>(s, x_row + column);
        if (params.residual == BEFORE) {
            float other[N];
            load<X, Unit>(other, residual_row + column);
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                s[n] += other[n];
            }
        }
    };
    const auto write = [&](const float* s, unsigned column, float mean, float scale) {
        float numbers[N], out[N];
        load_parameters<X, Unit, N>(numbers, weight, column, params.wide);
        // First by one over the root: what comes of that is no more than the root of C, and cannot overflow.
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            out[n] = (s[n] - mean) * scale * numbers[n];
        }
        if (params.has_bias != 0) {
            load_parameters<X, Unit, N>(numbers, bias, column, params.wide);
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                out[n] += numbers[n];
            }
        }
        if (params.residual == AFTER) {
            load<X, Unit>(numbers, residual_row + column);
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                out[n] += numbers[n];
            }
        }
        store<X, Unit>(y_row + column, out);
    };

    float kept[UNITS][N];
#pragma unroll
    for (unsigned unit = 0; unit < UNITS; unit++) {
        const unsigned column = first + unit * STEP;
        if (column < channels) {
            read(kept[unit], column);
        } else {
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                kept[unit][n] = 0.0f;
            }
        }
    }
    if (params.has_sum != 0) {
#pragma unroll
        for (unsigned unit = 0; unit < UNITS; unit++) {
            const unsigned column = first + unit * STEP;
            if (column < channels) {
                store<X, Unit>(sum_row + column, kept[unit]);
            }
        }
    }
    float total = 0.0f;
#pragma unroll
    for (unsigned unit = 0; unit < UNITS; unit++) {
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            total += kept[unit][n];
        }
    }
    if (params.layer != 0 || params.has_sum != 0) {
#pragma unroll 1
        for (unsigned column = rest; column < channels; column += STEP) {
            float s[N];
            read(s, column);
            if (params.has_sum != 0) {
                store<X, Unit>(sum_row + column, s);
            }
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                total += s[n];
            }
        }
    }
    const float count = float(channels);
    const float mean = params.layer != 0 ? reduced(total) / count : 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (unsigned unit = 0; unit < UNITS; unit++) {
        if (first + unit * STEP < channels) {
#pragma unroll
            for (unsigned n = 0; n < N; n++) {
                const float d = kept[unit][n] - mean;
                squares += d * d;
            }
        }
    }
#pragma unroll 1
    for (unsigned column = rest; column < channels; column += STEP) {
        float s[N];
        read(s, column);
#pragma unroll
        for (unsigned n = 0; n < N; n++) {
            squares += (s[n] - mean) * (s[n] - mean);
        }
    }
    const float scale = rsqrtf(reduced(squares) / count + params.eps);
#pragma unroll
    for (unsigned unit = 0; unit < UNITS; unit++) {
        const unsigned column = first + unit * STEP;
        if (column < channels) {
            write(kept[unit], column, mean, scale);
        }
    }
#pragma unroll 1
    for (unsigned column = rest; column < channels; column += STEP) {
        float s[N];
        read(s, column);
        write(s, column, mean, scale);
    }
}

#define ENTRY(NAME, UNIT, ROW_THREADS)                                                                                 \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(                                                        \
        const X* __restrict__ x, const X* __restrict__ residual, const void* __restrict__ weight,                      \
        const void* __restrict__ bias, X* __restrict__ y, X* __restrict__ sum, const __grid_constant__ Params params) { \
        norm<UNIT, ROW_THREADS>(x, residual, weight, bias, y, sum, params);                                            \
    }

ENTRY(norm_warp_16, uint4, 32)
ENTRY(norm_warp_8, uint2, 32)
ENTRY(norm_warp_4, unsigned, 32)
ENTRY(norm_block_16, uint4, THREADS)
ENTRY(norm_block_8, uint2, THREADS)
ENTRY(norm_block_4, unsigned, THREADS)
#if HALVES
ENTRY(norm_warp_2, unsigned short, 32)
ENTRY(norm_block_2, unsigned short, THREADS)
#endif
