// The span-aware key on tensor cores: z[t] = (pointwise (depthwise_K(x))[t] + key_bias) q[t], x [tokens, C] and q [tokens, A]
// of 16 bits, depthwise [C, K], pointwise [A, C] and key_bias [A] of the same type or of f32, and so z [tokens, A].
//
// module span_key_f16 TOKEN=f16 PARAMETER=f16
// module span_key_f16_f32 TOKEN=f16 PARAMETER=f32
// module span_key_bf16 TOKEN=bf16 PARAMETER=bf16
// module span_key_bf16_f32 TOKEN=bf16 PARAMETER=f32
//
// A block makes a tile of z, 64 tokens by 128 outputs for each of its teams of four warps, of which it has one to three. Slab
// after slab of 32 channels, the first team convolves the tokens by multiply-adds in f32 (`shared/depthwise.cuh`), and puts the
// numbers into the block's memory as three bf16 parts each; meanwhile all teams multiply the slab before with theirs of the
// pointwise weights on tensor cores (`shared/parts_product.cuh`), and the next slab of x, taps and weights is copied. So what
// is convolved is nowhere else in memory, and as exact as f32. Bias and q go in before the sums are rounded: q comes into, and
// z leaves through, the memory of the slabs by wide units. A tile with sums that are infinite or NaN is made twice.
//
// In a slab of convolved numbers, every other octet of tokens has its rows swapped two by two: the two octets that a warp
// writes at a time then lie on different banks. No read or write of slabs, q or z meets a bank twice where rows are whole
// units of 16 bytes; of the taps, which come in as they lie, some do.
//
// Every tile of a column reads and convolves x anew: with `across` columns of tiles the depthwise work is K C across a token
// beside C A parts of the product. So the plan takes three teams for 384 outputs and more, where there are tiles enough: such
// a block has a multiprocessor for itself, with as many warps as three blocks of one team.
//
// Traffic, in sectors of 32 bytes, where rows of x, q, z and weights begin on one; a tile has tokens and its halo:
//   loads:   across (tokens of all tiles and their halos) ceil(C size(x) / 32) + tokens ceil(A size(q) / 32)
//            + tiles A ceil(C size(W) / 32) + across tiles C K size(taps) / 32 or a little more + with a bias, tiles A / 2
//   stores:  rows ceil(A size(z) / 32).
//
// Floor and prediction, written before the first run on a GPU, on an H100 (3.0 TB/s; 494 T multiply-adds/s of 16 bits, of
// which mma.sync reaches 0.6; 29 T multiply-adds/s of f32; 0.9 T instructions of a warp a second), bf16:
//   8 sequences of 4096 tokens, C = 768, A = 384, K = 9. 101 MB are 34 us, 9.7 G multiply-adds 20 us of the peak, 0.23 G of
//            f32 8 us: a floor of 34 us. Three products are 98 us of mma.sync. The emulator counts 3400 instructions of a warp
//            a token, in one column of three teams: 124 us of issue, beside the tensor cores. Predicted 130 to 170 us, 0.2 to
//            0.26 of the floor.
//   The same with C = A = 1024, K = 31. 203 MB are 68 us, 34 G multiply-adds 70 us, 1.04 G of f32 36 us: a floor of 70 us.
//            Three products are 348 us of mma.sync. 17 100 instructions a token, in three columns that convolve 3.1 G, are 620
//            us of issue. Predicted 620 to 750 us, 0.09 to 0.11.
//   W in f32 takes six products, and f16 five: 2 and 1.7 times the tensor cores' part, and 2.1 and 1.6 of the instructions.
// Parts and the convolution are what costs. Two parts fail the bound of the reference where terms are few; for C + K of 256
// and more, where it allows for the drift of long sums, they would hold it, and not be as good as f32.

#include "shared/depthwise.cuh"
#include "shared/parts_product.cuh"
#include "shared/slab.cuh"

static_assert(CHANNELS == DEPTH, "a slab of channels is a slab of the product");

// A team's part of a tile: four warps, two by two, of 32 tokens and 64 outputs each.
struct Key : Shape<TILE_TOKENS, 128, 2, 2> {
    static __device__ unsigned warp() { return threadIdx.x % THREADS / 32; }
    static __device__ unsigned warp_row() { return warp() / 2 * WARP_ROWS; }
    static __device__ unsigned warp_column() { return warp() % 2 * WARP_COLUMNS; }

    static __device__ unsigned row_place() {
        const unsigned lane = threadIdx.x % 32;
        return place<f16, DEPTH>(warp_row() + lane % 16, lane / 16 * 8);
    }
};

// Teams of a block, at most.
constexpr unsigned TEAMS = 3;
constexpr unsigned WARP_ROWS = Key::WARP_ROWS;
constexpr unsigned WARP_COLUMNS = Key::WARP_COLUMNS;

// The numbers of a call, in this order; the plan fills them.
//   Blocks are of 128 threads for each team. The block's memory has two slabs of W for each of them, the parts of two slabs of
//   rows, two slabs of taps and two of tokens; a warp's part of q or z, in f32, comes in the same place after them.
struct Params {
    DepthwiseParams depthwise;
    // Elements from one token to the next.
    unsigned long long query_stride;
    unsigned long long z_stride;
    unsigned outputs;
    unsigned has_bias;
    // Whether z is f32.
    unsigned wide;
    // Bytes of a unit in which W and q are read and z is written: 16, 8, 4 or 2, no less than an element. All rows are
    // aligned to it, and whole units.
    unsigned weight_unit;
    unsigned query_unit;
    unsigned z_unit;
};

// Which token of the tile a row of the product is, and the other way round.
__device__ inline unsigned swapped(unsigned row) { return row ^ (row / 8 & 1); }

// A warp's part of a tile, and where its rows and columns lie.
struct Part {
    const Tiles& tiles;
    const Tile& tile;
    unsigned char* strip;
    unsigned first_row;
    unsigned first_column;
    // All there are.
    unsigned columns;
};

// Numbers as they lie in memory: of 1 << `shift` bytes, and moved by units.
struct Lines {
    unsigned char* first;
    // Numbers from one token to the next.
    unsigned long long stride;
    unsigned shift;
    unsigned unit;
};

template <bool STORE, class Unit>
__device__ void move_unit(bool exists, unsigned char* strip, unsigned char* memory) {
    Unit* in_strip = reinterpret_cast<Unit*>(strip);
    Unit* in_memory = reinterpret_cast<Unit*>(memory);
    if (!STORE) {
        copy_if(exists, in_strip, in_memory);
    } else if (exists) {
        *in_memory = *in_strip;
    }
}

// Brings what there is of tokens before `end` from memory into the warp's strip, and zeros besides; or stores it from there.
template <bool STORE>
__device__ void move(const Part& part, const Lines& lines, int end) {
    static_assert(WARP_COLUMNS == 64, "eights of a row change places as in `place`");
    const unsigned units = (WARP_COLUMNS << lines.shift) / lines.unit;
    const unsigned row_shift = __ffs(units) - 1;
#pragma unroll 1
    for (unsigned number = threadIdx.x % 32; number < WARP_ROWS * units; number += 32) {
        const unsigned row = number >> row_shift, byte = (number & (units - 1)) * lines.unit;
        const unsigned column = part.first_column + (byte >> lines.shift);
        const Output output = output_at(part.tiles, part.tile, swapped(part.first_row + row));
        const bool exists = output.exists && output.position < end && column < part.columns;
        unsigned char* strip = part.strip + (row << 6 << lines.shift) + (byte ^ (row % 8 << 3 << lines.shift));
        const unsigned long long line = part.tile.sequence.first + unsigned(output.position);
        unsigned char* memory = lines.first + ((line * lines.stride + column) << lines.shift);
        if (lines.unit == 16) {
            move_unit<STORE, uint4>(exists, strip, memory);
        } else if (lines.unit == 8) {
            move_unit<STORE, uint2>(exists, strip, memory);
        } else if (lines.unit == 4) {
            move_unit<STORE, unsigned>(exists, strip, memory);
        } else {
            move_unit<STORE, unsigned short>(exists, strip, memory);
        }
    }
}

// Rounds the sums into the warp's strip.
template <class Z>
__device__ void round(unsigned char* strip, const Sums<Key>& sums) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < Key::ROW_MATRICES; i++) {
#pragma unroll
        for (unsigned j = 0; j < Key::COLUMN_MATRICES; j++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned at = place<Z, WARP_COLUMNS>(i * 16 + half * 8 + lane / 4, j * 8 + lane % 4 * 2);
                *reinterpret_cast<typename Pair<Z>::Word*>(strip + at) =
                    Pair<Z>::rounded(make_float2(sums.of[i][j][half * 2], sums.of[i][j][half * 2 + 1]));
            }
        }
    }
}

template <class X, class P>
__device__ void span_key(const X* x, const P* depthwise_weight, const P* weight, const P* bias, const X* query,
                         const X* history, const uint4* sequences, void* z, const Params& params) {
    using Product = PartsProduct<P, Key>;
    constexpr unsigned WEIGHT_BYTES = Key::COLUMNS * DEPTH * sizeof(P);
    extern __shared__ uint4 memory[];
    __shared__ Work work;
    // Whether a warp has sums that are infinite or NaN.
    __shared__ bool wild[TEAMS * Key::WARPS];

    if (threadIdx.x == 0) {
        work = work_of(params.depthwise, sequences);
    }
    __syncthreads();
    const Tiles& tiles = params.depthwise.tiles;
    const Tile& tile = work.tile;
    if (unsigned(tile.start) >= unsigned(tile.sequence.room)) {
        return;
    }
    const unsigned teams = blockDim.x / Key::THREADS, team = threadIdx.x / Key::THREADS;
    unsigned char* const all_weights = reinterpret_cast<unsigned char*>(memory);
    unsigned char* const weights = all_weights + team * (2 * WEIGHT_BYTES);
    unsigned char* const rows = all_weights + teams * (2 * WEIGHT_BYTES);
    unsigned char* const taps = rows + 2 * (3 * Product::PLANE);
    unsigned char* const tokens = taps + 2 * (params.depthwise.taps / 4 * TAP_PITCH * unsigned(sizeof(float4)));
    const unsigned first_output = (tile.column * teams + team) * Key::COLUMNS;
    const unsigned outputs = first_output < params.outputs ? params.outputs - first_output : 0;
    Product product;
    product.clear();
    const Depthwise<X, P> depthwise = {
        params.depthwise, work, x, history, depthwise_weight, reinterpret_cast<float4*>(taps), tokens};
    bool careful = false;
#pragma unroll 1
    while (tile.start < tile.sequence.length) {
        Stager<P, Key::COLUMNS, Key::THREADS> columns(
            {weight + static_cast<unsigned long long>(first_output) * params.depthwise.channels,
             params.depthwise.channels, outputs, params.depthwise.channels, params.weight_unit});
        convolve_slabs(
            depthwise,
            [&](unsigned slab) { columns.copy(weights + slab % 2 * WEIGHT_BYTES, slab * DEPTH); },
            [&](unsigned slab, const float2(&sums)[STEPS]) {
                const unsigned group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
                const unsigned at = place<bf16, DEPTH>(swapped(group * STEPS), lane * 2);
                unsigned char* const slab_rows = rows + slab % 2 * (3 * Product::PLANE);
#pragma unroll
                for (unsigned n = 0; n < STEPS; n++) {
                    const Parts all = finite_parts(sums[n]);
                    // Row n of the octet, or its neighbour.
                    unsigned* to = reinterpret_cast<unsigned*>(slab_rows + (at ^ place<bf16, DEPTH>(n, 0)));
                    to[0] = all.high;
                    to[Product::PLANE / 4] = all.middle;
                    to[Product::PLANE / 2] = all.low;
                }
            },
            [&](unsigned slab) {
                // The last tile may have fewer outputs, and some warps none.
                if (Key::warp_column() < outputs) {
                    product.add(rows + slab % 2 * (3 * Product::PLANE), weights + slab % 2 * WEIGHT_BYTES, careful);
                }
            });
        if (careful) {
            break;
        }
        const bool any = __any_sync(0xffffffffu, product.wild());
        if (threadIdx.x % 32 == 0) {
            wild[threadIdx.x / 32] = any;
        }
        __syncthreads();
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
            careful = careful || wild[warp];
        }
        if (!careful) {
            break;
        }
        product.clear();
    }
    // The last slab was used by all.
    __syncthreads();

    const unsigned lane = threadIdx.x % 32;
    constexpr unsigned STRIP = WARP_ROWS * WARP_COLUMNS * sizeof(float);
    const Part part = {tiles, tile, reinterpret_cast<unsigned char*>(memory) + threadIdx.x / 32 * STRIP,
                       Key::warp_row(), first_output + Key::warp_column(), params.outputs};
    const int length = tile.sequence.length;
    unsigned char* const queries_first = reinterpret_cast<unsigned char*>(const_cast<X*>(query));
    move<false>(part, {queries_first, params.query_stride, 1, params.query_unit}, length);
    wait_for_copies();
    __syncwarp();
    const auto bias_at = [&](unsigned output) {
        return params.has_bias != 0 && output < params.outputs ? number(bias[output]) : 0.0f;
    };
    // Which of the thread's rows are tokens.
    bool computed[Key::ROW_MATRICES * 2];
#pragma unroll
    for (unsigned i = 0; i < Key::ROW_MATRICES * 2; i++) {
        const Output output = output_at(tiles, tile, swapped(part.first_row + i * 8 + lane / 4));
        computed[i] = output.exists && output.position < length;
    }
#pragma unroll
    for (unsigned j = 0; j < Key::COLUMN_MATRICES; j++) {
        const unsigned column = j * 8 + lane % 4 * 2;
        const float2 start = make_float2(bias_at(part.first_column + column), bias_at(part.first_column + column + 1));
#pragma unroll
        for (unsigned i = 0; i < Key::ROW_MATRICES; i++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = i * 16 + half * 8 + lane / 4;
                const float2 queries =
                    Pair<X>::numbers(*reinterpret_cast<const typename Pair<X>::Word*>(
                        part.strip + place<X, WARP_COLUMNS>(row, column)));
                // Zero in the padding.
                float* sums = product.sums.of[i][j] + half * 2;
                sums[0] = computed[i * 2 + half] ? (sums[0] + start.x) * queries.x : 0.0f;
                sums[1] = computed[i * 2 + half] ? (sums[1] + start.y) * queries.y : 0.0f;
            }
        }
    }
    __syncwarp();
    if (params.wide != 0) {
        round<f32>(part.strip, product.sums);
    } else {
        round<X>(part.strip, product.sums);
    }
    __syncwarp();
    const unsigned shift = params.wide != 0 ? 2 : 1;
    move<true>(part, {static_cast<unsigned char*>(z), params.z_stride, shift, params.z_unit}, tile.sequence.room);
}

extern "C" __global__ __launch_bounds__(TEAMS* Key::THREADS, 1) void span_key(
    const TOKEN* __restrict__ x, const PARAMETER* __restrict__ depthwise, const PARAMETER* __restrict__ weight,
    const PARAMETER* __restrict__ bias, const TOKEN* __restrict__ query, const TOKEN* __restrict__ history,
    const uint4* __restrict__ sequences, void* __restrict__ z, const __grid_constant__ Params params) {
    span_key<TOKEN, PARAMETER>(x, depthwise, weight, bias, query, history, sequences, z, params);
}
