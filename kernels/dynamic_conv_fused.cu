// Dynamic convolution in one launch: y[t, c] = bias[c] + sum_j normalize(logits)[t, h(c), j] x[t + j r - P, c], with
// logits[t, h, j] = (W q[t] + w_bias)[h K + j] that never leave the chip.
//
// module dynamic_conv_fused_f32 TOKEN=f32 PARAMETER=f32 WIDE=1
// module dynamic_conv_fused_f16 TOKEN=f16 PARAMETER=f16
// module dynamic_conv_fused_f16_f32 TOKEN=f16 PARAMETER=f32 WIDE=1
// module dynamic_conv_fused_bf16 TOKEN=bf16 PARAMETER=bf16
// module dynamic_conv_fused_bf16_f32 TOKEN=bf16 PARAMETER=f32 WIDE=1
//
// A block makes a tile of outputs of one phase, of all heads, or of some where there are few tokens. It brings the tokens
// of the tile and their halo into its memory once; an output's own token is a row of them, and so its query, unless queries
// are separate or P is no multiple of r: then they are brought in beside (`shared/whole_rows.cuh`). Then it goes from one
// group of heads to the next:
//   W comes by in stages of some slabs, two of them on their way while one is multiplied, also those of the next group while
//   this one is convolved. A warp has 32 x 32 logits in registers: on tensor cores where queries have 16 bits, and by
//   multiply-adds in f32 (`shared/generate.cuh`). They go into the block's memory.
//   A warp takes 16 outputs of a head at a time. It makes the band of their taps (`shared/token_band.cuh`) and has its
//   products with all channels of the head, which leave by its corner (`shared/corner.cuh`); it waits for no other warp. In
//   f32, and where heads have fewer than 16 channels, taps are normalised in place and convolved by multiply-adds
//   (`shared/tap_rows.cuh`).
// What is infinite or NaN spoils only outputs that have it in their window, or in their query.
//
// There is an entry for 3 products of a band, K up to 33, and one for 5, K up to 65; W in f32 has the latter alone. The
// former has registers for 16 warps, in two blocks or one; the plan says which, and all sizes are numbers at run time.
//
// The block's memory, of S tokens, N the logits of a group in whole 32s, and G slabs a stage; a pitch is an odd number of 16
// bytes, so that eight rows lie on different banks:
//   tokens S + K - 1 rows of C numbers; queries S rows of Cq, if they are not among those; W 3 G N 32 numbers; N biases and
//   S (N + 5) logits in f32; 768 bytes for each warp.
// With bands, and heads of whole eighths of channels, no bank is met twice by reads, nor by writes but where warps leave
// their logits: two lanes meet there, in 1 to 5 % of all passes, since rows lie as bands want to read them. By multiply-adds a
// sixth of the writes and, of narrow heads, up to a fifth of the reads and half of the writes meet one.
//
// Traffic, in sectors of 32 bytes, where rows begin on one: a tile reads S + K - 1 tokens and writes S; W once a tile.
//
// Floor and prediction, written before the first run on a GPU. 8 sequences of 4096 tokens, bf16, on an H100 (3.0 TB/s; 132
// multiprocessors at 1.7 GHz, 4 instructions a cycle each; mma.sync at 296 T multiply-adds/s; 5.5 TB/s from L2). A token of
// C = 512 in 8 heads takes 1110, 1240 and 1880 instructions of a warp at K = 3, 7 and 31, as the emulator counts them, and
// twice as many of C = 1024 in 16 heads. With so few warps half of the peak would be good: 3.4 a nanosecond for each
// multiprocessor. All other times are less, and overlap with it but for the first tokens of a block:
//   C = 512:   67 MB are 22 us. K = 3: tiles of 64, 6 us of W from L2, 8 of products; 81 us of issue. Predicted 65 to 95 us,
//              0.25 to 0.35 of the floor. K = 7: 90 us of issue, 70 to 105 us. K = 31: one block of 128 tokens, 28 us of
//              bytes, 12 of W, 22 of products, 137 of issue: 110 to 160 us, 0.15 to 0.2.
//   C = 1024:  134 MB are 45 us. K = 3: 160 us of issue, 130 to 190 us. K = 7: tiles of 64, 21 us of W; 140 to 210 us.
//              K = 31: tiles of 48, 59 us of bytes, 126 us of W, 75 of products, 280 of issue: 250 to 330 us.
// So what is to be made less is instructions: a third of them make bands, a third are products of bands and their outputs.

#include "shared/element.cuh"
#include "shared/fused_tile.cuh"
#include "shared/generate.cuh"
#include "shared/tap_rows.cuh"
#include "shared/corner.cuh"
#include "shared/token_band.cuh"

// Threads of a block at most: 256 of each of two blocks, or 512 of one.
constexpr unsigned THREADS = 512;

// Stages of W that lie in the block's memory, a slab or more each: two on their way while one is multiplied.
constexpr unsigned STAGES = 3;

// The taps of an output that read a token.
__device__ inline Taps taps_in_range(const Params& params, const Work& work, unsigned output) {
    if (output >= work.computed) {
        return Taps{0, 0};
    }
    const int position = work.tile.start + int(output * params.window.dilation);
    return Taps{first_tap(params.window, work.past, position),
                end_tap(params.window, work.tile.sequence.length, position)};
}

// The row of an output's token.
__device__ inline unsigned token_of(const Work& work, const Params& params, unsigned output) {
    return work.tile.sequence.first + unsigned(work.tile.start) + output * params.window.dilation;
}

// Heads of a group, whose logits lie in the block's memory.
struct Group {
    TapRows taps;
    unsigned heads;
    // Their channels.
    unsigned begin;
    unsigned end;
};

// By products of matrices: a warp has 16 outputs of a head at a time, for which it waits for no other.
template <class X, unsigned PRODUCTS, class P>
__device__ void convolve_bands(unsigned char* bytes, const Group& group, const P* bias, const OutputRows<X>& outputs,
                               const Params& params, const Work& work) {
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    unsigned char* const corner = bytes + params.corners_at + warp * CORNER_BYTES;
    const unsigned rows = params.tiles.steps + params.window.width - 1;
    const unsigned units = (work.computed + SIDE - 1) / SIDE * group.heads;
#pragma unroll 1
    for (unsigned unit = warp; unit < units; unit += blockDim.x / WARP) {
        const unsigned head = unit % group.heads, output = unit / group.heads * SIDE;
        static_assert(KEPT_BYTES <= CORNER_BYTES);
        const Logits logits = {group.taps.at(output, head * params.window.width), group.taps.pitch, params.window.width,
                               params.normalize, params.dropout, group.begin / params.head_channels + head,
                               token_of(work, params, output), params.window.dilation, corner};
        TokenBand<X, PRODUCTS> band;
        band.load(logits, [&](unsigned n) { return taps_in_range(params, work, output + n); });
        const unsigned begin = group.begin + head * params.head_channels, end = begin + params.head_channels;
        // The first and the last channels may be of an eighth with other heads.
#pragma unroll 1
        for (unsigned first = begin / 8 * 8; first < end; first += CORNER_CHANNELS) {
#pragma unroll 1
            for (unsigned next = 0; next < CORNER_CHANNELS && first + next < end; next += 8) {
                const unsigned channel = first + next + lane % 4 * 2;
                const auto bias_of = [&](unsigned channel) {
                    return params.has_bias != 0 && channel >= begin && channel < end ? number(__ldg(bias + channel)) : 0.0f;
                };
                const unsigned char* tokens =
                    bytes + WORK_BYTES + (first + next - work.first_channel) * unsigned(sizeof(X));
                float2 values[2];
                // Rows past the last that there is are read where it lies, and multiplied by zeros.
                band.convolve(values, logits, make_float2(bias_of(channel), bias_of(channel + 1)), [&](unsigned row) {
                    return tokens + min(output + row, rows - 1) * params.token_pitch;
                });
#pragma unroll
                for (unsigned half = 0; half < 2; half++) {
                    unsigned char* to = corner + (lane / 4 + 8 * half) * CORNER_PITCH + next * unsigned(sizeof(X)) +
                                        lane % 4 * unsigned(2 * sizeof(X));
                    *reinterpret_cast<typename Pair<X>::Word*>(to) = Pair<X>::rounded(values[half]);
                }
            }
            __syncwarp();
            store_corner<X>(params.y_unit, corner, max(begin, first) - first, min(end - first, CORNER_CHANNELS),
                            [&](unsigned row) {
                                return output + row < work.computed ? outputs.at(output + row, first) : nullptr;
                            });
            __syncwarp();
        }
    }
}

// By multiply-adds.
template <class X, class P>
__device__ void convolve_rows(unsigned char* bytes, const Group& group, const P* bias, const OutputRows<X>& outputs,
                              const Params& params, const Work& work) {
    const unsigned width = params.window.width;
#pragma unroll 1
    for (unsigned item = threadIdx.x; item < group.heads * params.tiles.steps; item += blockDim.x) {
        // Threads side by side have rows side by side.
        const unsigned head = item / params.tiles.steps, row = item - head * params.tiles.steps;
        if (row < work.computed) {
            float* const taps = group.taps.at(row, head * width);
            normalize_taps(taps, width, params.normalize, taps_in_range(params, work, row));
            if (params.dropout.threshold != 0) {
                drop_taps(taps, width, params.dropout, token_of(work, params, row),
                          group.begin / params.head_channels + head);
            }
        }
    }
    __syncthreads();
    const TapTile tile = {bytes + WORK_BYTES, params.token_pitch, work.first_channel, work.computed, group.taps, width,
                          group.begin, group.end, params.head_channels};
    convolve_tap_rows<X>(tile, [&](unsigned output, unsigned channel, float2 sums) {
        const bool there[2] = {channel >= group.begin, channel + 1 < group.end};
        if (params.has_bias != 0) {
            sums.x += there[0] ? number(__ldg(bias + channel)) : 0.0f;
            sums.y += there[1] ? number(__ldg(bias + channel + 1)) : 0.0f;
        }
        X* to = outputs.at(output, channel);
        const auto pair = Pair<X>::rounded(sums);
        if (there[0] && there[1] && params.y_unit >= sizeof(pair)) {
            *reinterpret_cast<typename Pair<X>::Word*>(to) = pair;
            return;
        }
        if (there[0]) {
            to[0] = pair.x;
        }
        if (there[1]) {
            to[1] = pair.y;
        }
    });
}

template <class X, class P, unsigned PRODUCTS>
__device__ void dynamic_conv(const X* x, const P* weight, const P* weight_bias, const void* query, const P* bias,
                             const X* history, const uint4* sequences, X* y, const Params& params) {
    extern __shared__ uint4 memory[];
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    Work& work = *reinterpret_cast<Work*>(memory);
    if (threadIdx.x == 0) {
        work = work_of(params, sequences);
    }
    __syncthreads();
    if (work.outputs == 0) {
        return;
    }
    const unsigned long long first_row = work.tile.sequence.first + unsigned(work.tile.start);
    const OutputRows<X> outputs = {y + first_row * params.y_stride, params.tiles.dilation * params.y_stride};
    clear(outputs, params, work);
    if (work.computed == 0) {
        return;
    }
    bring_rows(bytes, x, query, history, params, work);

    // Slabs of W come one after another, also those of the next group while this one is convolved.
    const unsigned width = params.window.width;
    const unsigned slab_bytes = params.slab_rows * DEPTH * unsigned(sizeof(P));
    const unsigned stage_bytes = params.stage_slabs * slab_bytes;
    const unsigned stages_end = params.slabs_at + STAGES * stage_bytes;
    const unsigned block_heads = work.end_head - work.first_head;
    unsigned next_head = 0, next_at = params.slabs_at, left = 0;
    WeightRows<P> next;
    const auto copy_next = [&] {
        if (left == 0 && next_head < block_heads) {
            const unsigned heads = min(params.group_heads, block_heads - next_head);
            const unsigned long long row = static_cast<unsigned long long>(work.first_head + next_head) * width;
            next.begin(weight + row * params.query_channels, heads * width, params.query_channels, params.weight_unit);
            next_head += heads;
            left = (params.query_channels + DEPTH - 1) / DEPTH;
        }
        const unsigned count = min(left, params.stage_slabs);
#pragma unroll 1
        for (unsigned slab = 0; slab < count; slab++) {
            next.copy(bytes + next_at + slab * slab_bytes, params.query_channels, params.weight_unit);
        }
        left -= count;
        next_at += stage_bytes;
        next_at = next_at < stages_end ? next_at : params.slabs_at;
        // A group for every stage, empty or not, so that those left are counted right.
        end_group();
    };

    // A warp's part of the logits.
    const unsigned parts_down = (params.tiles.steps + PART - 1) / PART;
    const unsigned part_row = threadIdx.x / WARP % parts_down * PART;
    const unsigned part_column = threadIdx.x / WARP / parts_down * PART;
    const bool wide = sizeof(X) == sizeof(float) || params.wide_query != 0;
    const bool own = params.own_row != NOWHERE;
    const unsigned query_pitch = own ? params.token_pitch : params.query_pitch;
    const unsigned char* const queries =
        bytes + (own ? WORK_BYTES + params.own_row * params.token_pitch : params.query_at) + part_row * query_pitch;
    float* const biases = reinterpret_cast<float*>(bytes + params.weight_bias_at);
    Group group;
    group.taps = {reinterpret_cast<float*>(bytes + params.taps_at), params.tap_pitch};
#pragma unroll 1
    for (unsigned head = 0; head < block_heads; head += params.group_heads) {
        group.heads = min(params.group_heads, block_heads - head);
        group.begin = (work.first_head + head) * params.head_channels;
        group.end = group.begin + group.heads * params.head_channels;
        const unsigned columns = group.heads * width;
        for (unsigned column = threadIdx.x; column < params.slab_rows; column += blockDim.x) {
            const unsigned at = (work.first_head + head) * width + column;
            biases[column] = params.has_weight_bias != 0 && column < columns ? number(__ldg(weight_bias + at)) : 0.0f;
        }
        const bool works = part_row < work.computed && part_column < columns;
        Generator<X, P> generator;
        generator.clear();
        QueryRows rows = {queries, query_pitch, work.computed - part_row};
        // The first stages of all are on their way before any is used.
        unsigned early = head > 0 ? 0 : STAGES - 1;
#pragma unroll 1
        for (unsigned slabs = (params.query_channels + DEPTH - 1) / DEPTH; slabs > 0;) {
            if (early == 0) {
                wait_for_groups<STAGES - 2>();
                // The stage that is used now is there for all, and the one where the next is copied to was used.
                __syncthreads();
            }
            copy_next();
            if (early > 0) {
                early--;
                continue;
            }
            const unsigned count = min(slabs, params.stage_slabs);
            slabs -= count;
            if (works) {
                // Where the next copy goes, this stage lies until then.
                const unsigned char* from = bytes + next_at + part_column * DEPTH * unsigned(sizeof(P));
#pragma unroll 1
                for (unsigned slab = 0; slab < count; slab++) {
                    generator.add(wide, rows, from);
                    rows.first += DEPTH * (wide ? sizeof(float) : sizeof(X));
                    from += slab_bytes;
                }
            }
        }
        if (works) {
            const LogitRows logits = {group.taps.at(part_row, part_column), group.taps.pitch,
                                      params.tiles.steps - part_row};
            leave_logits(generator, wide, logits, biases + part_column);
        }
        __syncthreads();
        if constexpr (sizeof(X) == 2) {
            if (params.banded != 0) {
                convolve_bands<X, PRODUCTS>(bytes, group, bias, outputs, params, work);
                continue;
            }
        }
        convolve_rows(bytes, group, bias, outputs, params, work);
    }
}

#define ENTRY(NAME, PRODUCTS, MOST)                                                                                    \
    extern "C" __global__ __launch_bounds__(MOST, 1) void NAME(                                                        \
        const TOKEN* __restrict__ x, const PARAMETER* __restrict__ weight, const PARAMETER* __restrict__ weight_bias,  \
        const void* __restrict__ query, const PARAMETER* __restrict__ bias, const TOKEN* __restrict__ history,         \
        const uint4* __restrict__ sequences, TOKEN* __restrict__ y, const __grid_constant__ Params params) {           \
        dynamic_conv<TOKEN, PARAMETER, PRODUCTS>(x, weight, weight_bias, query, bias, history, sequences, y, params);  \
    }

// By the number of products of a band: K up to 33 and up to 65. W in f32 beside tokens of 16 bits takes so many registers that
// a multiprocessor holds one block anyway, and f32 has no bands.
#ifndef WIDE
ENTRY(dynamic_conv_3, 3, THREADS)
#endif
ENTRY(dynamic_conv_5, 5, THREADS / 2)
