// Depthwise convolution on the way into a product: slabs of CHANNELS channels of a tile of TILE_TOKENS tokens, convolved by
// multiply-adds in f32 while the next slab is copied.
//
// A thread has STEPS tokens of two channels, so that 128 threads make a slab; those beyond only copy and multiply. The slab
// that was convolved before is multiplied meanwhile. Tokens and taps lie in the block's memory twice, one slab that is read and one that comes in. A window whose taps or tokens are more
// than that memory holds comes chunk by chunk; its sums stay in registers until the last one.
//
// A channel is a head of its own: even ones come first in the memory of taps, so that a thread's two lie where those of its
// neighbours' do and eight threads read eight quads side by side. Taps come in as they lie, an octet after another, and
// where an octet is followed by that of another channel some of them meet on a bank.
#pragma once

#include "convolve.cuh"

constexpr unsigned TILE_TOKENS = 64;
constexpr unsigned CHANNELS = 32;
constexpr unsigned LANES = CHANNELS / 2;
constexpr unsigned CONVOLVERS = TILE_TOKENS / STEPS * LANES;
// Where odd channels begin among the quads of taps, and quads of all channels.
constexpr unsigned ODD = 20;
constexpr unsigned TAP_PITCH = 37;

// What the plan fills in.
//   phases * steps of `tiles` are at most TILE_TOKENS.
//   A row of a slab is CHANNELS numbers; `gap` and `of_phase` are those of `Rows`, for steps + taps - 1 rows of a phase.
struct DepthwiseParams {
    // Elements from one token to the next.
    unsigned long long x_stride;
    Tiles tiles;
    Window window;
    unsigned channels;
    // Taps of a chunk, a multiple of OCTET.
    unsigned taps;
    // Bytes of a unit in which x and history are read: 16, 8, 4 or 2, no less than an element.
    unsigned load_unit;
    unsigned gap;
    unsigned of_phase;
    // Bytes of a slab of tokens, a multiple of 16.
    unsigned token_bytes;
};

// What the threads of a block have in common.
struct Work {
    Tile tile;
    // Tokens of the history in reach.
    int past;
    // The taps that read a token for some output.
    Taps taps;
};

__device__ inline Work work_of(const DepthwiseParams& params, const uint4* sequences) {
    Work work;
    work.tile = tile_of(params.tiles, sequences);
    work.past = min(work.tile.sequence.past, int(params.window.reach));
    work.taps = taps_of(params.tiles, params.window, work.tile, work.past, params.taps);
    return work;
}

template <class X, class P>
struct Depthwise {
    const DepthwiseParams& params;
    const Work& work;
    const X* x;
    const X* history;
    const P* weight;
    // Of both slabs.
    float4* taps;
    unsigned char* tokens;

    __device__ Rows rows(unsigned stage) const {
        return Rows{tokens + stage * params.token_bytes, CHANNELS * unsigned(sizeof(X)), params.gap, params.of_phase};
    }

    __device__ TapMemory tap_memory(unsigned stage) const {
        return TapMemory{taps + stage * (params.taps / 4 * TAP_PITCH), TAP_PITCH};
    }

    // At least one, if only to say that the sums are zero.
    __device__ unsigned chunks() const { return max((work.taps.end - work.taps.begin + params.taps - 1) / params.taps, 1u); }

    __device__ Taps chunk_of(unsigned chunk) const {
        const unsigned first = work.taps.begin + chunk * params.taps;
        return Taps{first, min(first + params.taps, work.taps.end)};
    }

    // Begins to bring in tokens and taps.
    __device__ void bring(unsigned stage, unsigned slab, unsigned chunk) const {
        const Taps of = chunk_of(chunk);
        const unsigned count = of.end - of.begin, first_channel = slab * CHANNELS;
        if (count == 0) {
            return;
        }
        const Tokens<X> from = {x, params.x_stride, history, nullptr, 0, params.channels, first_channel};
        ::stage(params.load_unit, from, rows(stage), params.tiles, work.tile, params.window, work.past, of.begin, count);
        const TapMemory memory = tap_memory(stage);
        const unsigned octets = (count + OCTET - 1) / OCTET;
#pragma unroll 4
        for (unsigned number = threadIdx.x; number < CHANNELS * octets * OCTET; number += blockDim.x) {
            const unsigned channel = number / OCTET / octets;
            const unsigned tap = number - channel * (octets * OCTET);
            float value = 0.0f;
            if (tap < count && first_channel + channel < params.channels) {
                const unsigned long long row = first_channel + channel;
                value = ::number(__ldg(weight + row * params.window.width + of.begin + tap));
            }
            memory.at(channel / 2 + channel % 2 * ODD, tap) = value;
        }
    }

    // Adds a chunk to the sums of this thread's tokens. Those of tokens that there are not stay as they are.
    __device__ void add(float2 (&sums)[STEPS], unsigned stage, unsigned chunk) const {
        const unsigned group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
        const Output output = output_at(params.tiles, work.tile, group * STEPS);
        const int length = work.tile.sequence.length;
        if (!output.exists || output.position >= length) {
            return;
        }
        const Rows from = rows(stage);
        const Taps of = chunk_of(chunk);
        const Place place = {from.at(output.phase, output.step) + lane * unsigned(2 * sizeof(X)), from.pitch, from.gap,
                             output.position, {lane, lane + ODD}};
        accumulate<X, true>(sums, place, tap_memory(stage), params.window, work.past, length, of.begin, of.end - of.begin);
    }
};

// Convolves slab after slab, and multiplies those that are convolved. `bring(slab)` begins to bring in what the product reads
// beside the rows, `take(slab, sums)` puts a thread's convolved numbers where it reads them, and `use(slab)` multiplies: while
// the next slab is convolved by other warps, so that there are two places for both, slab % 2. All threads of the block take
// part.
template <class X, class P, class Bring, class Take, class Use>
__device__ void convolve_slabs(const Depthwise<X, P>& depthwise, Bring bring, Take take, Use use) {
    const unsigned slabs = (depthwise.params.channels + CHANNELS - 1) / CHANNELS, chunks = depthwise.chunks();
    float2 sums[STEPS];
    // What is convolved, and what was convolved before it. In the first round there is nothing yet.
    unsigned slab = 0, chunk = 0, stage = 0;
    bool there = false;
#pragma unroll 1
    for (;;) {
        wait_for_copies();
        // What is read now is there for all, and what lay where the next comes in was read by all.
        __syncthreads();
        const bool last = there && chunk + 1 == chunks;
        // What comes in.
        const unsigned next_slab = last ? slab + 1 : slab, next_chunk = there && !last ? chunk + 1 : 0;
        if (next_slab < slabs) {
            depthwise.bring(there ? stage ^ 1 : stage, next_slab, next_chunk);
        }
        if (last && slab < slabs) {
            bring(slab);
        }
        if (there && chunk == 0 && slab > 0) {
            use(slab - 1);
        }
        if (slab == slabs) {
            return;
        }
        if (there && threadIdx.x < CONVOLVERS) {
            if (chunk == 0) {
#pragma unroll
                for (unsigned n = 0; n < STEPS; n++) {
                    sums[n] = make_float2(0.0f, 0.0f);
                }
            }
            depthwise.add(sums, stage, chunk);
            if (last) {
                take(slab, sums);
            }
        }
        stage ^= there ? 1 : 0;
        slab = next_slab, chunk = next_chunk;
        there = true;
    }
}
