// One number of many threads: of a warp, or of a block.
#pragma once

template <class Of>
__device__ inline float reduced_in_warp(float number, Of of) {
#pragma unroll
    for (unsigned lanes = 16; lanes > 0; lanes /= 2) {
        number = of(number, __shfl_xor_sync(0xffffffffu, number, lanes));
    }
    return number;
}

// Of all threads of a block of WARPS warps. `shared` has room for one number of each.
template <unsigned WARPS, class Of>
__device__ inline float reduced_in_block(float number, float* shared, Of of) {
    number = reduced_in_warp(number, of);
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = number;
    }
    __syncthreads();
    number = shared[0];
    for (unsigned warp = 1; warp < WARPS; warp++) {
        number = of(number, shared[warp]);
    }
    __syncthreads();
    return number;
}
