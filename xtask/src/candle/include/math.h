// NVRTC knows the functions without a header. These are the constants that candle's kernels take from it.
#pragma once
#define INFINITY __int_as_float(0x7f800000)
#define M_SQRT1_2 0.70710678118654752440
#define M_2_SQRTPI 1.12837916709551257390
