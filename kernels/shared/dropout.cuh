// Weight dropout: which weights are dropped, by numbers of the call. The same as `src/dropout.rs` says.
#pragma once

// Philox-4x32-10 (Salmon et al. 2011).
__device__ inline uint4 philox(uint4 counter, uint2 key) {
#pragma unroll 1
    for (unsigned round = 0; round < 10; round++) {
        const unsigned high = __umulhi(counter.x, 0xD2511F53u), low = counter.x * 0xD2511F53u;
        const unsigned other_high = __umulhi(counter.z, 0xCD9E8D57u), other_low = counter.z * 0xCD9E8D57u;
        counter = make_uint4(other_high ^ counter.y ^ key.x, other_low, high ^ counter.w ^ key.y, low);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// What the plan fills in.
struct Dropout {
    // Random numbers below it drop their weight: none, where it is 0.
    unsigned threshold;
    // What the weights that are kept are multiplied by.
    float scale;
    // The seed, low word first.
    unsigned seed;
    unsigned seed_high;

    // Which taps of four are kept, bit by bit, the first of which is tap 4 `quad`. The token is the row of a dynamic convolution,
    // and 0 for a light one. Rows are counted in 32 bits: the high word of any is 0.
    __device__ unsigned kept(unsigned token, unsigned head, unsigned quad) const {
        const uint4 numbers = philox(make_uint4(quad, head, token, 0), make_uint2(seed, seed_high));
        return (numbers.x >= threshold ? 1 : 0) | (numbers.y >= threshold ? 2 : 0) | (numbers.z >= threshold ? 4 : 0) |
               (numbers.w >= threshold ? 8 : 0);
    }

    // What a weight is multiplied by; 0 where it is dropped.
    __device__ float factor(unsigned token, unsigned head, unsigned tap) const {
        if (threshold == 0) {
            return 1.0f;
        }
        return (kept(token, head, tap / 4) >> tap % 4 & 1) != 0 ? scale : 0.0f;
    }
};

// A weight times its factor; also one that is infinite or NaN is 0 where it is dropped.
__device__ inline float dropped(float weight, float factor) { return factor == 0.0f ? 0.0f : weight * factor; }
