// The span-aware key: z[t] = (pointwise (depthwise_K(x))[t] + key_bias) q[t], x [tokens, C], depthwise [C, K], pointwise
// [A, C], key_bias [A], q and z [tokens, A], in f32.
//
// module span_key_f32
//
// This is the form by multiply-adds: f32 never goes to the tensor cores, which would round it. (16 bits do: that is
// `span_key_mma.cu`.) A block of 128 threads makes a tile of z, 64 tokens by 128 outputs; a thread has 8 x 8 of them. Slab
// after slab of 32 channels, it convolves its tokens (`shared/depthwise.cuh`) into the slab that the product reads, while the
// next slab of x, taps and pointwise weights is copied. No read or write of these meets a bank twice where rows are whole
// units of 16 bytes; of the taps, which come in as they lie, some do.
//
// Every tile of a column reads and convolves x anew: with `across` columns of tiles the depthwise work is K C across a token
// beside C A of the product, which is K / 128 of it. Traffic is as in `span_key_mma.cu`.
//
// Floor and prediction, written before the first run on a GPU, on an H100 (3.0 TB/s; 29 T multiply-adds/s):
//   8 sequences of 4096 tokens, C = 768, A = 384, K = 9. 9.7 G multiply-adds and 0.23 G of the depthwise convolution are 340
//            us; 203 MB are 68 us. The emulator counts 15 800 instructions of a warp a token: 580 us of issue at 0.9 T a
//            second. Predicted 600 to 760 us, 0.45 to 0.57 of the floor.
//   The same with C = A = 1024, K = 31. 35 G are 1.22 ms; the convolution eight times over is 8.3 G. 68 500 instructions a
//            token are 2.5 ms of issue. Predicted 2.6 to 3.1 ms, 0.39 to 0.47.

#include "shared/depthwise.cuh"
#include "shared/plain_product.cuh"

constexpr unsigned THREADS = 128;
constexpr unsigned COLUMNS = 128;
constexpr unsigned PITCH = pitch(CHANNELS);
// Rows and columns of threads, and what each has of rows and columns.
constexpr unsigned DOWN = 8;
constexpr unsigned ACROSS = 16;
constexpr unsigned EACH = 8;

// The numbers of a call, in this order; the plan fills them.
//   The block's memory has two slabs of W, of rows, of taps and of tokens.
struct Params {
    DepthwiseParams depthwise;
    // Elements from one token to the next.
    unsigned long long query_stride;
    unsigned long long z_stride;
    unsigned outputs;
    unsigned has_bias;
    // As in `span_key_mma.cu`; z is f32, and it and q are read and written number by number.
    unsigned wide;
    // Bytes of a unit in which W is read: 16, 8 or 4. All rows are aligned to it, and whole units.
    unsigned weight_unit;
    unsigned query_unit;
    unsigned z_unit;
};

extern "C" __global__ __launch_bounds__(THREADS, 2) void span_key(
    const float* __restrict__ x, const float* __restrict__ depthwise_weight, const float* __restrict__ weight,
    const float* __restrict__ bias, const float* __restrict__ query, const float* __restrict__ history,
    const uint4* __restrict__ sequences, float* __restrict__ z, const __grid_constant__ Params params) {
    extern __shared__ uint4 memory[];
    __shared__ Work work;

    if (threadIdx.x == 0) {
        work = work_of(params.depthwise, sequences);
    }
    __syncthreads();
    const Tiles& tiles = params.depthwise.tiles;
    const Tile& tile = work.tile;
    if (unsigned(tile.start) >= unsigned(tile.sequence.room)) {
        return;
    }
    float* const weights = reinterpret_cast<float*>(memory);
    float* const rows = weights + 2 * COLUMNS * PITCH;
    float* const taps = rows + 2 * TILE_TOKENS * PITCH;
    unsigned char* const tokens = reinterpret_cast<unsigned char*>(taps + 2 * (params.depthwise.taps * TAP_PITCH));
    const unsigned first_output = tile.column * COLUMNS;
    // A warp has 4 rows and 8 columns side by side: 8 outputs are a whole sector of memory.
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned my_row = warp % 2 * 4 + lane / 8;
    const unsigned my_column = warp / 2 * 8 + lane % 8;
    float sums[EACH][EACH];
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
#pragma unroll
        for (unsigned j = 0; j < EACH; j++) {
            sums[i][j] = 0.0f;
        }
    }
    if (tile.start < tile.sequence.length) {
        const Depthwise<f32, f32> depthwise = {
            params.depthwise, work, x, history, depthwise_weight, reinterpret_cast<float4*>(taps), tokens};
        convolve_slabs(
            depthwise,
            [&](unsigned slab) {
                stage_rows<CHANNELS, THREADS>(params.weight_unit, weights + slab % 2 * (COLUMNS * PITCH), COLUMNS, weight,
                                              params.depthwise.channels, first_output, params.outputs, slab * CHANNELS,
                                              params.depthwise.channels);
            },
            [&](unsigned slab, const float2(&convolved)[STEPS]) {
                float* to = rows + slab % 2 * (TILE_TOKENS * PITCH) + threadIdx.x / LANES * (STEPS * PITCH) + threadIdx.x % LANES * 2;
#pragma unroll
                for (unsigned n = 0; n < STEPS; n++) {
                    *reinterpret_cast<float2*>(to + n * PITCH) = convolved[n];
                }
            },
            [&](unsigned slab) {
                add_products<CHANNELS, DOWN, ACROSS>(sums, rows + slab % 2 * (TILE_TOKENS * PITCH) + my_row * PITCH,
                                                     weights + slab % 2 * (COLUMNS * PITCH) + my_column * PITCH);
            });
    }
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
        const Output token = output_at(tiles, tile, my_row + i * DOWN);
        if (!token.exists || token.position >= tile.sequence.room) {
            continue;
        }
        const unsigned long long row = tile.sequence.first + unsigned(token.position);
#pragma unroll
        for (unsigned j = 0; j < EACH; j++) {
            const unsigned output = first_output + my_column + j * ACROSS;
            if (output < params.outputs) {
                // Zero in the padding.
                float value = 0.0f;
                if (token.position < tile.sequence.length) {
                    const float start = params.has_bias != 0 ? bias[output] : 0.0f;
                    value = (sums[i][j] + start) * query[row * params.query_stride + output];
                }
                z[row * params.z_stride + output] = value;
            }
        }
    }
}
