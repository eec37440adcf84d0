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

// The same where there is something to copy. Where there is nothing the unit is zero, and `from` is not read.
__device__ inline void copy_if(bool exists, uint4* to, const uint4* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(exists ? 16u : 0u)
                 : "memory");
}

__device__ inline void copy_if(bool exists, uint2* to, const uint2* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(exists ? 8u : 0u)
                 : "memory");
}

__device__ inline void copy_if(bool exists, unsigned* to, const unsigned* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(exists ? 4u : 0u)
                 : "memory");
}

__device__ inline void copy_if(bool exists, unsigned short* to, const unsigned short* from) {
    *to = exists ? __ldg(from) : static_cast<unsigned short>(0);
}

// Waits for all that this thread copies: other threads see it after the next barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Ends a group: the copies that this thread has sent since the one before.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread but the last LEFT: other threads see what they copied after the next barrier.
template <unsigned LEFT>
__device__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
