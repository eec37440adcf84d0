// Products of the backward pass on tensor cores: those of `linear_backward.cu`, the same entries and the same numbers of a
// call, where one of the matrices at least is of 16 bits.
//
// module linear_backward_mma
//
// Numbers that the tensor core has no room for are sums of bf16 numbers (`parts.cuh`): three of f32, two of f16, one of bf16.
// The parts of A and B are multiplied each with each, but for those that are under 2^-23 of a term together: six products of
// f32 and f32, five of f32 and f16, three of f32 and bf16. Two matrices in f16 are multiplied as they are, and so are two in
// bf16. A number that is multiplied by its gate is of f32 then.
//
// A zero of a part times infinity would be NaN: where a sum is not finite it is made again by multiply-adds, from memory.
//
// A block of 8 warps makes a tile of C. For a step of 16 of the contraction the numbers of both matrices are read by quads,
// taken apart, and put into the block's memory, a plane for each part, while the step before is multiplied: what lies with the
// contraction side by side as rows of 16 numbers, and the other way as 16 rows of the tile's numbers, which the tensor
// core's loads turn. No bank is met twice. Two steps take 48 KB at most.
//
// Traffic is that of `linear_backward.cu`.
//
// Floor and prediction, written before the first run on a GPU. 32768 rows, 1024 inputs, 1024 outputs in bf16, on an H100 (494
// T multiply-adds/s of 16 bits, 3.0 TB/s): 34 G multiply-adds are 70 us each for dx and dW, 115 us at mma.sync's rate. For
// the 16 matrix instructions of a step a warp reads and puts away four quads a lane, some 150 instructions, and waits at a
// barrier: predicted 350 to 500 us each, a fifth of the floor, and four times as fast as multiply-adds. dW of dlogits in f32
// and queries in bf16 takes three products, predicted 600 to 800 us.

#include "shared/any_product.cuh"
#include "shared/mma.cuh"
#include "shared/parts.cuh"
#include "shared/slab.cuh"

constexpr unsigned WARPS = THREADS / 32;
static_assert(STEP == SIDE, "a step is as deep as a matrix");
// Most parts of a number.
constexpr unsigned MOST = 3;

// What a matrix is taken apart into.
struct Apart {
    unsigned parts;
    // Whether numbers are f16 as they are.
    unsigned as_f16;
};

__device__ inline unsigned parts_of(unsigned type) { return type == IN_F32 ? 3 : type == IN_F16 ? 2 : 1; }

// Part `which` of four numbers, and what is left of them.
__device__ inline uint2 take_part(float4& rest, unsigned as_f16) {
    uint2 part;
    if (as_f16 != 0) {
        const __half2 low = __float22half2_rn(make_float2(rest.x, rest.y)), high = __float22half2_rn(make_float2(rest.z, rest.w));
        part.x = *reinterpret_cast<const unsigned*>(&low);
        part.y = *reinterpret_cast<const unsigned*>(&high);
        return part;
    }
    // Cut, so that what is finite stays so; of the last part nothing is left that counts.
    float2 low = make_float2(rest.x, rest.y), high = make_float2(rest.z, rest.w);
    part.x = cut_pair(low);
    part.y = cut_pair(high);
    low = without(low, part.x);
    high = without(high, part.y);
    rest = make_float4(low.x, low.y, high.x, high.y);
    return part;
}

// Bytes from the first of a plane to a number of it: rows of STEP numbers where the contraction lies side by side, or STEP
// rows of a tile's numbers.
template <unsigned TILE, bool TURNED>
__device__ unsigned place_of(unsigned row, unsigned number) {
    return place<bf16, TURNED ? STEP : TILE>(row, number);
}

template <unsigned TILE>
constexpr unsigned PLANE = TILE * STEP * sizeof(bf16);

// Brings in a step of the contraction from `first` on, as `stage` of `linear_backward.cu`, in parts.
template <unsigned TILE, bool TURNED, class Numbers, class Exists>
__device__ void stage_parts(unsigned char* to, const Numbers& numbers, const Apart& apart, unsigned wide, unsigned tile,
                            unsigned end_tile, unsigned first, unsigned end, Exists exists) {
    constexpr unsigned ACROSS = TURNED ? STEP : TILE;
    const unsigned first_row = TURNED ? tile : first, end_row = TURNED ? end_tile : end;
    const unsigned first_column = TURNED ? first : tile, end_column = TURNED ? end : end_tile;
    constexpr unsigned QUADS = ACROSS / QUAD;
#pragma unroll 1
    for (unsigned unit = threadIdx.x; unit < TILE * STEP / QUAD; unit += THREADS) {
        const unsigned down = unit / QUADS, across = unit % QUADS * QUAD;
        const unsigned row = first_row + down, column = first_column + across;
        const bool there = row < end_row && column < end_column && exists(row);
        unsigned char* const at = to + place_of<TILE, TURNED>(down, across);
        if (wide != 0 || !there) {
            float4 quad = there ? numbers.quad(row, column) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
            for (unsigned part = 0; part < apart.parts; part++) {
                *reinterpret_cast<uint2*>(at + part * PLANE<TILE>) = take_part(quad, apart.as_f16);
            }
            continue;
        }
#pragma unroll 1
        for (unsigned n = 0; n < QUAD; n++) {
            const float number = column + n < end_column ? numbers.number(row, column + n) : 0.0f;
            float4 alone = make_float4(number, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
            for (unsigned part = 0; part < apart.parts; part++) {
                const unsigned short bits = static_cast<unsigned short>(take_part(alone, apart.as_f16).x);
                *reinterpret_cast<unsigned short*>(at + part * PLANE<TILE> + 2 * n) = bits;
            }
        }
    }
}

// A warp's rows of A, 16 at a time, and columns of B.
template <unsigned TILE, bool TURNED>
__device__ void load_rows(unsigned (&rows)[4], const unsigned char* plane, unsigned first) {
    const unsigned lane = threadIdx.x % 32;
    if (TURNED) {
        load_matrices(rows, plane + place_of<TILE, true>(first + lane % 16, lane / 16 * 8));
        return;
    }
    unsigned pairs[2][2];
    load_columns(pairs, unsigned(__cvta_generic_to_shared(plane)) +
                            place_of<TILE, false>(lane / 16 * 8 + lane % 8, first + lane / 8 % 2 * 8));
    rows[0] = pairs[0][0], rows[1] = pairs[0][1], rows[2] = pairs[1][0], rows[3] = pairs[1][1];
}

// Of 16 columns.
template <unsigned TILE, bool TURNED>
__device__ void load_pair(unsigned (&columns)[2][2], const unsigned char* plane, unsigned first) {
    const unsigned lane = threadIdx.x % 32;
    if (TURNED) {
        unsigned both[4];
        load_matrices(both, plane + place_of<TILE, true>(first + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
        columns[0][0] = both[0], columns[0][1] = both[1], columns[1][0] = both[2], columns[1][1] = both[3];
        return;
    }
    load_columns(columns, unsigned(__cvta_generic_to_shared(plane)) +
                              place_of<TILE, false>(lane % 16, first + lane / 16 * 8));
}

__device__ inline bool are_finite(float4 quad) {
    // Zero times a number is zero.
    return fmaf(quad.x, 0.0f, fmaf(quad.y, 0.0f, fmaf(quad.z, 0.0f, quad.w * 0.0f))) == 0.0f;
}

template <unsigned TILE, bool A_TURNED, bool B_TURNED>
__device__ void multiply(const Params& params, const Gated& a, const Ungated& b, const Typed& addend,
                         const Typed& factor, const uint4* sequences, void* c) {
    // Warps are two by four.
    constexpr unsigned ROWS = TILE / 2, COLUMNS = TILE / 4;
    constexpr unsigned DOWN = ROWS / 16, PAIRS = COLUMNS / 16;
    constexpr unsigned OPERAND = MOST * PLANE<TILE>;
    // Two steps of both, one that is filled and one that is multiplied.
    __shared__ uint4 memory[2][2][OPERAND / sizeof(uint4)];

    const unsigned first_row = blockIdx.x / params.across % params.down * TILE;
    const unsigned first_column = blockIdx.x % params.across * TILE;
    const unsigned chunk = blockIdx.x / params.across / params.down;
    const unsigned begin = chunk * params.chunk, end = min(begin + params.chunk, params.depth);
    const unsigned a_type = params.gating == BY_PRODUCT ? IN_F32 : params.a_type;
    const unsigned as_f16 = a_type == IN_F16 && params.b_type == IN_F16;
    const Apart of_a = {as_f16 != 0 ? 1 : parts_of(a_type), as_f16};
    const Apart of_b = {as_f16 != 0 ? 1 : parts_of(params.b_type), as_f16};
    const auto exists = [&](unsigned row) { return is_token(params.time, sequences, row); };
    const auto exists_in_b = [&](unsigned row) { return A_TURNED || exists(row); };

    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned warp_row = warp / 4 * ROWS, warp_column = warp % 4 * COLUMNS;
    float sums[DOWN][2 * PAIRS][4];
#pragma unroll
    for (unsigned i = 0; i < DOWN; i++) {
#pragma unroll
        for (unsigned j = 0; j < 2 * PAIRS; j++) {
#pragma unroll
            for (unsigned n = 0; n < 4; n++) {
                sums[i][j][n] = 0.0f;
            }
        }
    }
    const unsigned steps = (end - begin + STEP - 1) / STEP;
#pragma unroll 1
    for (unsigned step = 0; step <= steps; step++) {
        // What the step before brought in is there for all, and what lay where this one is brought to was read by all.
        __syncthreads();
        if (step < steps) {
            const unsigned first = begin + step * STEP;
            stage_parts<TILE, A_TURNED>(reinterpret_cast<unsigned char*>(memory[step % 2][0]), a, of_a, params.a_wide,
                                        first_row, params.rows, first, end, exists);
            stage_parts<TILE, B_TURNED>(reinterpret_cast<unsigned char*>(memory[step % 2][1]), b, of_b, params.b_wide,
                                        first_column, params.columns, first, end, exists_in_b);
        }
        if (step == 0) {
            continue;
        }
        const unsigned char* of_rows = reinterpret_cast<const unsigned char*>(memory[(step - 1) % 2][0]);
#pragma unroll 1
        for (unsigned p = 0; p < of_a.parts; p++, of_rows += PLANE<TILE>) {
            unsigned rows[DOWN][4];
#pragma unroll
            for (unsigned i = 0; i < DOWN; i++) {
                load_rows<TILE, A_TURNED>(rows[i], of_rows, warp_row + i * 16);
            }
            const unsigned char* of_columns = reinterpret_cast<const unsigned char*>(memory[(step - 1) % 2][1]);
            // What is left out is under 2^-23 of the whole.
            const unsigned parts = min(of_b.parts, MOST - p);
#pragma unroll 1
            for (unsigned other = 0; other < parts; other++, of_columns += PLANE<TILE>) {
#pragma unroll
                for (unsigned j = 0; j < PAIRS; j++) {
                    unsigned columns[2][2];
                    load_pair<TILE, B_TURNED>(columns, of_columns, warp_column + j * 16);
#pragma unroll
                    for (unsigned half = 0; half < 2; half++) {
#pragma unroll
                        for (unsigned i = 0; i < DOWN; i++) {
                            if (as_f16 != 0) {
                                multiply_matrices<f16>(sums[i][2 * j + half], rows[i], columns[half]);
                            } else {
                                multiply_matrices<bf16>(sums[i][2 * j + half], rows[i], columns[half]);
                            }
                        }
                    }
                }
            }
        }
    }
    // Sums leave through the memory, 16 rows of each warp at a time, quad by quad.
    constexpr unsigned PITCH = COLUMNS + 8;
    static_assert(WARPS * 16 * PITCH * sizeof(float) <= sizeof(memory), "sums have room");
    float* const strip = reinterpret_cast<float*>(memory) + warp * (16 * PITCH);
    // Not unrolled but for what registers are read: the rest would be as many times the text.
#pragma unroll 1
    for (unsigned turn = 0; turn < DOWN; turn++) {
        // All have done with what was multiplied, and with the rows before.
        __syncthreads();
#pragma unroll
        for (unsigned i = 0; i < DOWN; i++) {
            if (i != turn) {
                continue;
            }
#pragma unroll
            for (unsigned j = 0; j < 2 * PAIRS; j++) {
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    const float* to = strip + (lane / 4 + 8 * half) * PITCH + j * 8 + lane % 4 * 2;
                    // The compiler would store them one by one.
                    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                                 "f"(sums[i][j][2 * half]), "f"(sums[i][j][2 * half + 1])
                                 : "memory");
                }
            }
        }
        __syncwarp();
#pragma unroll 1
        for (unsigned unit = lane; unit < 16 * COLUMNS / QUAD; unit += 32) {
            const unsigned number = unit / (COLUMNS / QUAD), across = unit % (COLUMNS / QUAD) * QUAD;
            // Of rows that are read together, where there are two, one is two after the other: so they meet no bank twice.
            const unsigned down = COLUMNS > 16 ? number : (number & ~3u) | (number & 1) << 1 | (number >> 1 & 1);
            const unsigned row = first_row + warp_row + turn * 16 + down, column = first_column + warp_column + across;
            if (row >= params.rows || column >= params.columns) {
                continue;
            }
            float4* const quad = reinterpret_cast<float4*>(strip + down * PITCH + across);
            if (!are_finite(*quad)) {
#pragma unroll 1
                for (unsigned n = 0; n < QUAD && column + n < params.columns; n++) {
                    float sum = 0.0f;
#pragma unroll 1
                    for (unsigned k = begin; k < end; k++) {
                        if (A_TURNED || exists(k)) {
                            const float of_row = A_TURNED ? a.number(row, k) : a.number(k, row);
                            sum = fmaf(of_row, B_TURNED ? b.number(column + n, k) : b.number(k, column + n), sum);
                        }
                    }
                    reinterpret_cast<float*>(quad)[n] = sum;
                }
            }
            finish(params, addend, factor, c, chunk, row, column, !A_TURNED || exists(row), quad);
        }
    }
}

// The addend may lie where C does: each number is read by the thread that writes it.
#define ENTRY(NAME, TILE, A_TURNED, B_TURNED)                                                                          \
    extern "C" __global__ __launch_bounds__(THREADS, 2) void NAME(                                                     \
        const void* a, const void* gate, const void* b, const void* addend, const void* factor,                        \
        const uint4* sequences, void* c, const __grid_constant__ Params params) {                                      \
        const Gated rows = {                                                                                           \
            {a, params.a_stride, params.a_type}, {gate, params.gate_stride, params.gate_type}, params.gating};         \
        const Ungated columns = {{b, params.b_stride, params.b_type}};                                                 \
        const Typed added = {addend, params.addend_stride, params.addend_type};                                        \
        const Typed times = {factor, params.factor_stride, params.factor_type};                                        \
        multiply<TILE, A_TURNED, B_TURNED>(params, rows, columns, added, times, sequences, c);                         \
    }

ENTRY(product, 128, true, false)
ENTRY(product_small, 64, true, false)
ENTRY(transposed, 128, false, false)
ENTRY(transposed_small, 64, false, false)
ENTRY(by_rows, 128, true, true)
ENTRY(by_rows_small, 64, true, true)
