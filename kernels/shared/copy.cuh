// Copies from memory into the block's own, by units of 16, 8, 4 or 2 bytes, each aligned to its size at both ends.
#pragma once

// Copies a unit without waiting for it, where the device can.
__device__ inline void copy(uint4* to, const uint4* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

__device__ inline void copy(uint2* to, const uint2* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

__device__ inline void copy(unsigned* to, const unsigned* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

__device__ inline void copy(unsigned short* to, const unsigned short* from) { *to = __ldg(from); }

// Waits for all that this thread copies: other threads see it after the next barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Ends a group of copies.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups that this thread ended but the last one.
__device__ inline void wait_for_all_but_last_group() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }
