// Taps that each output has for itself, in the block's memory, and their part of a convolution by multiply-adds.
//
// A row of memory is the taps of an output and a head, whole quads of them, zero past the last: an odd number of quads, so
// that neighbouring heads lie on different banks. The heads of an output are neighbours. Where threads of two groups read
// together, the rows of a group's eight outputs are followed by as many that are free.
#pragma once

#include "convolve.cuh"

constexpr unsigned QUAD = 4;

struct TokenTapRows {
    float4* quads;
    // Quads of a row.
    unsigned pitch;
    // Rows of an output: the heads that a tile can touch.
    unsigned heads;
    // Free rows after those of eight outputs, for each head: 1, or none.
    unsigned gap;

    __device__ unsigned row(unsigned output, unsigned head) const {
        return (output + output / STEPS * gap) * heads + head;
    }
};

// How the logits of a call lie.
template <class X>
struct TokenLogits {
    // Those of x's type, or in f32.
    Parameters<X> numbers;
    // From one token to the next.
    unsigned long long stride;
    // Taps K.
    unsigned width;
    unsigned normalize;
    Dropout dropout;
};

// Rows that are filled: outputs of a tile, with `heads` heads from `first_head` on.
struct TokenRows {
    const Tiles& tiles;
    const Window& window;
    const Tile& tile;
    int past;
    unsigned first_head;
    unsigned heads;

    // Of an output: the position in its sequence.
    __device__ int position(unsigned output) const { return output_at(tiles, tile, output).position; }

    // Of an output: the taps whose logits matter. None where nothing reads them.
    __device__ Taps taps(unsigned output, unsigned normalize) const {
        const Output at = output_at(tiles, tile, output);
        if (!at.exists || at.position >= tile.sequence.length) {
            return Taps{0, 0};
        }
        const Taps in_range = {first_tap(window, past, at.position),
                               end_tap(window, tile.sequence.length, at.position)};
        if (in_range.begin >= in_range.end) {
            return Taps{0, 0};
        }
        return normalize == SOFTMAX ? Taps{0, window.width} : in_range;
    }
};

// Among the lanes that have a row together: `across` of them, a power of two.
__device__ inline float largest_across(float number, unsigned across) {
#pragma unroll 1
    for (unsigned lane = across / 2; lane > 0; lane /= 2) {
        number = fmaxf(number, __shfl_xor_sync(0xffffffffu, number, lane));
    }
    return number;
}

__device__ inline float total_across(float number, unsigned across) {
#pragma unroll 1
    for (unsigned lane = across / 2; lane > 0; lane /= 2) {
        number += __shfl_xor_sync(0xffffffffu, number, lane);
    }
    return number;
}

// Puts the weights of `count` taps from `first` on into memory. A chunk of all taps is normalised from itself; for others
// `softmax` has what the logits of each row are normalised by: it is found here with the chunk `begin`, the first of all.
template <class X>
__device__ void fill(const TokenLogits<X>& logits, const TokenRows& of, const TokenTapRows& memory, Softmax* softmax,
                     unsigned across, unsigned begin, unsigned first, unsigned count) {
    const unsigned at_once = blockDim.x / across, lane = threadIdx.x % across;
    const unsigned rows = of.tiles.phases * of.tiles.steps * of.heads;
    const unsigned padded = (count + QUAD - 1) / QUAD * QUAD;
    const bool whole = count == logits.width, normal = logits.normalize != NONE;
#pragma unroll 1
    for (unsigned base = 0; base < rows; base += at_once) {
        const unsigned row = base + threadIdx.x / across;
        const unsigned output = min(row, rows - 1) / of.heads, head = min(row, rows - 1) - output * of.heads;
        Taps taps = of.taps(output, logits.normalize);
        taps = row < rows ? taps : Taps{0, 0};
        const unsigned long long token = of.tile.sequence.first + unsigned(of.position(output));
        const unsigned long long from = token * logits.stride +
                                        static_cast<unsigned long long>(of.first_head + head) * logits.width;
        const unsigned place = memory.row(output, head);
        float largest = LOWEST, total = 0.0f;
        if (!whole && normal) {
            if (first == begin) {
#pragma unroll 1
                for (unsigned tap = taps.begin + lane; tap < taps.end; tap += across) {
                    largest = fmaxf(largest, logits.numbers.at(from + tap));
                }
                largest = largest_across(largest, across);
#pragma unroll 1
                for (unsigned tap = taps.begin + lane; tap < taps.end; tap += across) {
                    total += exponential(logits.numbers.at(from + tap) - largest);
                }
                total = total_across(total, across);
                if (row < rows && lane == 0) {
                    softmax[place] = Softmax{largest, total};
                }
            } else if (row < rows) {
                largest = softmax[place].largest;
                total = softmax[place].total;
            }
        }
        taps = within(taps, first, count);
        float* weights = reinterpret_cast<float*>(memory.quads + place * memory.pitch);
        const auto is_read = [&](unsigned tap) { return tap - taps.begin < taps.end - taps.begin; };
        if (row < rows) {
#pragma unroll 1
            for (unsigned tap = lane; tap < padded; tap += across) {
                const float logit = is_read(tap) ? logits.numbers.at(from + first + tap) : 0.0f;
                largest = whole && is_read(tap) ? fmaxf(largest, logit) : largest;
                weights[tap] = logit;
            }
        }
        if (normal) {
            if (whole) {
                largest = largest_across(largest, across);
                if (row < rows) {
#pragma unroll 1
                    for (unsigned tap = lane; tap < count; tap += across) {
                        total += is_read(tap) ? exponential(weights[tap] - largest) : 0.0f;
                    }
                }
                total = total_across(total, across);
            }
            const float scale = 1.0f / total;
            if (row < rows) {
#pragma unroll 1
                for (unsigned tap = lane; tap < count; tap += across) {
                    weights[tap] = is_read(tap) ? exponential(weights[tap] - largest) * scale : 0.0f;
                }
            }
        }
        if (logits.dropout.threshold != 0 && row < rows) {
#pragma unroll 1
            for (unsigned tap = lane; tap < count; tap += across) {
                const float factor = logits.dropout.factor(unsigned(token), of.first_head + head, first + tap);
                weights[tap] = dropped(weights[tap], factor);
            }
        }
    }
}

// The same for the gradient of x, where the weights of an output are those of the tokens that it reads: tap j of the mirrored
// window weighs what the token has for its own tap K - 1 - j. So a row of logits is one of a token, of the tile or its halo,
// and its weights go to the rows of as many outputs. Those of tokens that there are not are left as they were, and not read.
template <class X>
__device__ void fill_mirrored(const TokenLogits<X>& logits, const TokenRows& of, const TokenTapRows& memory, unsigned across,
                              unsigned first, unsigned count) {
    const unsigned at_once = blockDim.x / across, lane = threadIdx.x % across;
    const Tiles& tiles = of.tiles;
    const Window own = {of.window.width, of.window.dilation, of.window.reach - of.window.left, of.window.reach};
    const int length = of.tile.sequence.length;
    const unsigned of_phase = tiles.steps + count - 1, rows = tiles.phases * of_phase * of.heads;
    const bool normal = logits.normalize != NONE;
#pragma unroll 1
    for (unsigned base = 0; base < rows; base += at_once) {
        const unsigned row = base + threadIdx.x / across, item = min(row, rows - 1);
        const unsigned number = item / of.heads, head = item - number * of.heads;
        const unsigned phase = number / of_phase, step = number - phase * of_phase;
        const int position = of.tile.start + int(phase + (step + first) * tiles.dilation) - int(of.window.left);
        const bool there = row < rows && of.tile.phase + phase < tiles.dilation && position >= 0 && position < length;
        Taps taps = {0, 0};
        if (there) {
            taps = logits.normalize == SOFTMAX ? Taps{0, own.width}
                                               : Taps{first_tap(own, 0, position), end_tap(own, length, position)};
        }
        const unsigned token = of.tile.sequence.first + unsigned(position);
        const unsigned long long from = token * logits.stride +
                                        static_cast<unsigned long long>(of.first_head + head) * logits.width;
        float largest = LOWEST, total = 0.0f;
        if (normal) {
#pragma unroll 1
            for (unsigned tap = taps.begin + lane; tap < taps.end; tap += across) {
                largest = fmaxf(largest, logits.numbers.at(from + tap));
            }
            largest = largest_across(largest, across);
#pragma unroll 1
            for (unsigned tap = taps.begin + lane; tap < taps.end; tap += across) {
                total += exponential(logits.numbers.at(from + tap) - largest);
            }
            total = total_across(total, across);
        }
        if (!there) {
            continue;
        }
        const float scale = 1.0f / total;
        // Those of outputs of the tile.
        const unsigned begin = step + 1 > tiles.steps ? step + 1 - tiles.steps : 0, end = min(count, step + 1);
#pragma unroll 1
        for (unsigned tap = begin + lane; tap < end; tap += across) {
            const unsigned of_token = own.width - 1 - first - tap;
            float weight = logits.numbers.at(from + of_token);
            weight = normal ? exponential(weight - largest) * scale : weight;
            weight = dropped(weight, logits.dropout.factor(token, of.first_head + head, of_token));
            const unsigned place = memory.row(phase * tiles.steps + step - tap, head);
            reinterpret_cast<float*>(memory.quads + place * memory.pitch)[tap] = weight;
        }
    }
}

// The rows of a thread's outputs, for its two channels.
template <bool SPLIT>
struct OutputRows {
    // Of the first output, and of the second channel's head where that is another one.
    const float4* first;
    const float4* second;
    // Quads from an output's row to that of the next.
    unsigned step;

    __device__ float2 at(unsigned n, unsigned tap) const {
        const float weight = reinterpret_cast<const float*>(first + n * step)[tap];
        return make_float2(weight, SPLIT ? reinterpret_cast<const float*>(second + n * step)[tap] : weight);
    }
};

// Taps that are in range for all the outputs; the first is the first of an octet.
template <class X, bool SPLIT>
__device__ void add_inside(float2 (&sums)[STEPS], const Place& place, const OutputRows<SPLIT>& rows, Taps taps) {
    float2 tokens[STEPS + QUAD - 1];
    const unsigned char* row = place.tokens + bytes_to(taps.begin, place.pitch, place.gap);
#pragma unroll
    for (unsigned i = 0; i < STEPS - 1; i++) {
        tokens[i] = token_at<X>(row);
        row += place.pitch;
    }
    unsigned tap = taps.begin;
    // Twice, so that the tokens change places without being moved.
#pragma unroll 2
    for (; tap + QUAD <= taps.end; tap += QUAD) {
#pragma unroll
        for (unsigned j = 0; j < QUAD; j++) {
            tokens[STEPS - 1 + j] = token_at<X>(row);
            // Eight rows end with the first that is read for an octet.
            row += j == 0 && tap % OCTET == 0 ? place.pitch + place.gap : place.pitch;
        }
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            const float4 first = rows.first[n * rows.step + tap / QUAD];
            const float4 second = SPLIT ? rows.second[n * rows.step + tap / QUAD] : first;
            multiply_add(sums[n], make_float2(first.x, second.x), tokens[n]);
            multiply_add(sums[n], make_float2(first.y, second.y), tokens[n + 1]);
            multiply_add(sums[n], make_float2(first.z, second.z), tokens[n + 2]);
            multiply_add(sums[n], make_float2(first.w, second.w), tokens[n + 3]);
        }
#pragma unroll
        for (unsigned i = 0; i < STEPS - 1; i++) {
            tokens[i] = tokens[i + QUAD];
        }
    }
    // Up to three are left over.
    const bool first_half = tap % OCTET == 0;
#pragma unroll
    for (unsigned j = 0; j < QUAD - 1; j++) {
        if (tap + j >= taps.end) {
            break;
        }
        tokens[STEPS - 1 + j] = token_at<X>(row);
        row += j == 0 && first_half ? place.pitch + place.gap : place.pitch;
#pragma unroll
        for (unsigned n = 0; n < STEPS; n++) {
            multiply_add(sums[n], rows.at(n, tap + j), tokens[n + j]);
        }
    }
}

// Adds a chunk of `count` taps, from tap `first` on, the weights of which are in memory.
template <class X, bool SPLIT>
__device__ void accumulate(float2 (&sums)[STEPS], const Place& place, const OutputRows<SPLIT>& rows,
                           const Window& window, int past, int length, unsigned first, unsigned count) {
    const auto inside = [&](Taps taps) { add_inside<X, SPLIT>(sums, place, rows, taps); };
    const auto weight_of = [&](unsigned tap) { return [&rows, tap](unsigned n) { return rows.at(n, tap); }; };
    accumulate_by<X>(sums, place, window, past, length, first, count, inside, weight_of);
}
