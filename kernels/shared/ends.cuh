// Tokens at the ends of a sequence: those of which not all taps are in range.
#pragma once

// `left` of them at the beginning, and those from `right` on. A sequence that is no longer than the window reaches has no
// others.
struct Ends {
    int left;
    int right;

    // Of a window with so many tokens before an output and after it.
    __device__ Ends(unsigned before, unsigned after, int length) {
        left = min(int(before), length);
        right = max(left, length - int(after));
    }

    __device__ bool has(int position) const { return position < left || position >= right; }

    // The number of a token among them, how many there are, and where number `number` stands.
    __device__ unsigned number(int position) const {
        return unsigned(position < left ? position : left + (position - right));
    }
    __device__ unsigned count(int length) const { return unsigned(left + (length - right)); }
    __device__ int position(unsigned number) const {
        return int(number) < left ? int(number) : right + (int(number) - left);
    }
};

// What a softmax over the taps in range is normalised by, of each of these tokens and each head: the largest logit, and one
// over the total. It lies in scratch memory, with room for as many tokens of each sequence; that may begin at any number.
struct EndRows {
    const float* softmax;
    // Of each sequence, and their heads.
    unsigned rows;
    unsigned heads;

    __device__ unsigned long long place(unsigned sequence, unsigned number, unsigned head) const {
        return 2 * ((static_cast<unsigned long long>(sequence) * rows + number) * heads + head);
    }

    __device__ float2 at(unsigned sequence, unsigned number, unsigned head) const {
        const float* const from = softmax + place(sequence, number, head);
        return make_float2(__ldg(from), __ldg(from + 1));
    }
};
