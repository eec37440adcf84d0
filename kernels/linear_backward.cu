// Products of the backward pass by multiply-adds in f32, and sums of columns: numbers of any type, rounded once.
// (Where a matrix is of 16 bits its products are those of `linear_backward_mma.cu`; sums of columns and of chunks are here.)
//
// module linear_backward
//
// C = A B of C [rows, columns], contracted over `depth`. Which axis of A and B lies side by side in memory is the entry's:
//   product     A [rows, depth],  B [depth, columns]:  dx = da W
//   transposed  A [depth, rows],  B [depth, columns]:  dW = da^T x
//   by_rows     A [rows, depth],  B [columns, depth]:  a product as of the forward pass
// each with tiles of 128 x 128, and `_small` of 64 x 64 for products too small to fill a GPU with those. A is taken with a
// gate, see `gated`: dy of a ReLU with y, dz of a span key with q. To the sums an addend is added, and they may be multiplied
// once more, element by element, before the one rounding.
//
// A contraction over rows of tokens is long, and its product small: it is divided in chunks of a length that the plan fixes,
// whose sums in f32 go to scratch memory, and `add_chunks` adds them up in their order. So are sums of columns. The same call
// has the same bits each time.
//
// Where rows are of padded sequences, those in the padding are not read. A row of C in the padding is zero.
//
// A block of 16 x 16 threads makes a tile, slabs of STEP of the contraction in the block's memory, both operands with the
// tile's axis side by side: what lies the other way is turned on its way in, its columns exchanged so that no bank is met
// twice. A slab is read while the one before is multiplied. A thread has EACH rows and columns: quads 64 apart.
//
// Traffic, in sectors of 32 bytes, where rows of all matrices begin on one: A and its gate once for each column of tiles, B
// once for each row of tiles; C, or the chunks of it, once; `add_chunks` reads those again.
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs in f32, on an H100 (29 T
// multiply-adds/s, 3.0 TB/s): dx and dW are 34 G multiply-adds each, 1.17 ms, and 273 MB, 0.09 ms. For a step of the
// contraction a thread reads four quads of the block's memory for 64 multiply-adds, as long as these take: predicted 1.8 to
// 2.2 ms each. dbias reads 134 MB: 45 us, predicted 60.

#include "shared/any_product.cuh"

// Threads along each side of a tile.
constexpr unsigned SIDE = 16;
static_assert(SIDE * SIDE == THREADS);
// Between a thread's quads.
constexpr unsigned APART = QUAD * SIDE;

// Columns of a row of the block's memory, exchanged by eights where quads were turned.
template <bool TURNED>
__device__ unsigned exchanged(unsigned k, unsigned column) {
    return TURNED ? column ^ k / QUAD * 8 : column;
}

// Brings in STEP steps of the contraction from `first` on, for TILE rows (or columns) of the product from `tile` on, as rows
// of TILE numbers: zero where there is none. `exists(row)` says which rows of the memory are read.
template <unsigned TILE, bool TURNED, class Numbers, class Exists>
__device__ void stage(float* to, const Numbers& numbers, unsigned wide, unsigned tile, unsigned end_tile, unsigned first,
                      unsigned end, Exists exists) {
    // Numbers side by side, and the first row and column.
    constexpr unsigned ACROSS = TURNED ? STEP : TILE;
    const unsigned first_row = TURNED ? tile : first, end_row = TURNED ? end_tile : end;
    const unsigned first_column = TURNED ? first : tile, end_column = TURNED ? end : end_tile;
    if (wide == 0) {
#pragma unroll 1
        for (unsigned unit = threadIdx.x; unit < TILE * STEP; unit += THREADS) {
            const unsigned down = unit / ACROSS, across = unit % ACROSS;
            const unsigned row = first_row + down, column = first_column + across;
            const bool there = row < end_row && column < end_column && exists(row);
            to[TURNED ? across * TILE + exchanged<true>(across, down) : unit] = there ? numbers.number(row, column) : 0.0f;
        }
        return;
    }
    constexpr unsigned QUADS = ACROSS / QUAD;
#pragma unroll
    for (unsigned unit = threadIdx.x; unit < TILE * STEP / QUAD; unit += THREADS) {
        const unsigned down = unit / QUADS, across = unit % QUADS * QUAD;
        const unsigned row = first_row + down, column = first_column + across;
        float4 quad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < end_row && column < end_column && exists(row)) {
            quad = numbers.quad(row, column);
        }
        if (TURNED) {
#pragma unroll
            for (unsigned n = 0; n < QUAD; n++) {
                to[(across + n) * TILE + exchanged<true>(across, down)] = at(quad, n);
            }
        } else {
            *reinterpret_cast<float4*>(to + down * TILE + across) = quad;
        }
    }
}

template <unsigned EACH, bool A_TURNED, bool B_TURNED>
__device__ void multiply(const Params& params, const Gated& a, const Ungated& b, const Typed& addend,
                         const Typed& factor, const uint4* sequences, void* c) {
    constexpr unsigned TILE = EACH * SIDE;
    // Two of each, one that is filled and one that is read.
    __shared__ float4 memory[2][2][TILE * STEP / QUAD];
    static_assert(sizeof(memory) >= THREADS * EACH * sizeof(float4), "quads of all threads leave by it");

    const unsigned tile = blockIdx.x / params.across % params.down;
    const unsigned first_row = tile * TILE, first_column = blockIdx.x % params.across * TILE;
    const unsigned chunk = blockIdx.x / params.across / params.down;
    const unsigned begin = chunk * params.chunk, end = min(begin + params.chunk, params.depth);
    const auto fill = [&](unsigned which, unsigned first) {
        // Rows of A are those of the product, or of the contraction.
        const auto exists = [&](unsigned row) { return is_token(params.time, sequences, row); };
        const auto exists_in_b = [&](unsigned row) { return A_TURNED || exists(row); };
        stage<TILE, A_TURNED>(reinterpret_cast<float*>(memory[which][0]), a, params.a_wide, first_row, params.rows, first, end, exists);
        stage<TILE, B_TURNED>(reinterpret_cast<float*>(memory[which][1]), b, params.b_wide, first_column, params.columns,
                              first, end, exists_in_b);
    };
    const unsigned my_row = threadIdx.x / SIDE * QUAD, my_column = threadIdx.x % SIDE * QUAD;
    float sums[EACH][EACH];
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) {
#pragma unroll
        for (unsigned j = 0; j < EACH; j++) {
            sums[i][j] = 0.0f;
        }
    }
    const unsigned steps = (end - begin + STEP - 1) / STEP;
#pragma unroll 1
    for (unsigned step = 0; step <= steps; step++) {
        // What the step before brought in is there for all, and what lay where this one is brought to was read by all.
        __syncthreads();
        if (step < steps) {
            fill(step % 2, begin + step * STEP);
        }
        if (step == 0) {
            continue;
        }
        const float* rows = reinterpret_cast<const float*>(memory[(step - 1) % 2][0]);
        const float* columns = reinterpret_cast<const float*>(memory[(step - 1) % 2][1]);
#pragma unroll 1
        for (unsigned k = 0; k < STEP; k += QUAD) {
            const unsigned row_at = exchanged<A_TURNED>(k, my_row), column_at = exchanged<B_TURNED>(k, my_column);
#pragma unroll
            for (unsigned n = 0; n < QUAD; n++) {
                float row[EACH], column[EACH];
#pragma unroll
                for (unsigned i = 0; i < EACH; i += QUAD) {
                    const float4 of_row = *reinterpret_cast<const float4*>(rows + (k + n) * TILE + i / QUAD * APART + row_at);
                    const float4 of_column =
                        *reinterpret_cast<const float4*>(columns + (k + n) * TILE + i / QUAD * APART + column_at);
#pragma unroll
                    for (unsigned m = 0; m < QUAD; m++) {
                        row[i + m] = at(of_row, m);
                        column[i + m] = at(of_column, m);
                    }
                }
#pragma unroll
                for (unsigned i = 0; i < EACH; i++) {
#pragma unroll
                    for (unsigned j = 0; j < EACH; j++) {
                        sums[i][j] = fmaf(row[i], column[j], sums[i][j]);
                    }
                }
            }
        }
    }
    // Quads leave through memory of the thread's own: a loop over registers would be as many times the text.
    constexpr unsigned QUADS = EACH / QUAD, AT_ONCE = EACH / QUADS;
    float4* const mine = &memory[0][0][0] + threadIdx.x;
#pragma unroll 1
    for (unsigned half = 0; half < QUADS; half++) {
        __syncthreads();
#pragma unroll
        for (unsigned row = 0; row < EACH; row++) {
            if (row / AT_ONCE != half) {
                continue;
            }
#pragma unroll
            for (unsigned j = 0; j < QUADS; j++) {
                const float* quad = &sums[row][j * QUAD];
                mine[(row % AT_ONCE * QUADS + j) * THREADS] = make_float4(quad[0], quad[1], quad[2], quad[3]);
            }
        }
#pragma unroll 1
        for (unsigned number = 0; number < AT_ONCE * QUADS; number++) {
            const unsigned row = first_row + half * APART + my_row + number / QUADS;
            const unsigned column = first_column + my_column + number % QUADS * APART;
            if (row < params.rows && column < params.columns) {
                const bool exists = !A_TURNED || is_token(params.time, sequences, row);
                finish(params, addend, factor, c, chunk, row, column, exists, &mine[number * THREADS]);
            }
        }
    }
}

// The addend may lie where C does: each number is read by the thread that writes it.
#define ENTRY(NAME, EACH, A_TURNED, B_TURNED)                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, 2) void NAME(                                                     \
        const void* a, const void* gate, const void* b, const void* addend, const void* factor,                        \
        const uint4* sequences, void* c, const __grid_constant__ Params params) {                                      \
        const Gated rows = {                                                                                           \
            {a, params.a_stride, params.a_type}, {gate, params.gate_stride, params.gate_type}, params.gating};         \
        const Ungated columns = {{b, params.b_stride, params.b_type}};                                                 \
        const Typed added = {addend, params.addend_stride, params.addend_type};                                        \
        const Typed times = {factor, params.factor_stride, params.factor_type};                                        \
        multiply<EACH, A_TURNED, B_TURNED>(params, rows, columns, added, times, sequences, c);                         \
    }

ENTRY(product, 8, true, false)
ENTRY(product_small, 4, true, false)
ENTRY(transposed, 8, false, false)
ENTRY(transposed_small, 4, false, false)
ENTRY(by_rows, 8, true, true)
ENTRY(by_rows_small, 4, true, true)

// The numbers of sums of columns, in this order; the plan fills them.
struct ColumnParams {
    // Elements from one row to the next, of the matrix and its gate.
    unsigned long long stride;
    unsigned long long gate_stride;
    // Elements from a chunk of sums to the next.
    unsigned long long sum_chunk;
    unsigned rows;
    unsigned columns;
    // Rows of a chunk.
    unsigned chunk;
    // Blocks side by side.
    unsigned across;
    // As of a product.
    unsigned time;
    unsigned gating;
    unsigned type;
    unsigned gate_type;
    unsigned sum_type;
    unsigned unused;
};

constexpr unsigned WARP = 32;
constexpr unsigned WARPS = THREADS / WARP;

// The sums of 32 columns over a chunk of rows, that are tokens: a warp has every so many of the rows.
extern "C" __global__ __launch_bounds__(THREADS) void column_sums(const void* numbers, const void* gate,
                                                                 const uint4* sequences, void* sums,
                                                                 const __grid_constant__ ColumnParams params) {
    __shared__ float of_warps[WARPS][WARP];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const unsigned column = blockIdx.x % params.across * WARP + lane;
    const unsigned chunk = blockIdx.x / params.across;
    const unsigned begin = chunk * params.chunk, end = min(begin + params.chunk, params.rows);
    const Gated matrix = {
        {numbers, params.stride, params.type}, {gate, params.gate_stride, params.gate_type}, params.gating};
    float sum = 0.0f;
    if (column < params.columns) {
#pragma unroll 4
        for (unsigned row = begin + warp; row < end; row += WARPS) {
            if (is_token(params.time, sequences, row)) {
                sum += matrix.number(row, column);
            }
        }
    }
    of_warps[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < params.columns) {
#pragma unroll
        for (unsigned other = 1; other < WARPS; other++) {
            sum += of_warps[other][lane];
        }
        store_number(sums, params.sum_type, chunk * params.sum_chunk + column, sum);
    }
}

// The numbers of what adds chunks up, in this order; the plan fills them.
struct ChunkParams {
    // Numbers of a chunk, and from one chunk to the next.
    unsigned long long numbers;
    unsigned long long stride;
    unsigned chunks;
    unsigned type;
};

// Adds up chunks of f32 in their order, a number a thread.
extern "C" __global__ __launch_bounds__(THREADS) void add_chunks(const float* chunks, void* sums,
                                                                const __grid_constant__ ChunkParams params) {
    const unsigned long long number = static_cast<unsigned long long>(blockIdx.x) * THREADS + threadIdx.x;
    if (number >= params.numbers) {
        return;
    }
    float sum = 0.0f;
#pragma unroll 4
    for (unsigned chunk = 0; chunk < params.chunks; chunk++) {
        sum += chunks[chunk * params.stride + number];
    }
    store_number(sums, params.type, number, sum);
}
