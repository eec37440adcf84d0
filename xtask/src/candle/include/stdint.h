// NVRTC brings no headers of the host. Its C++ library has these types in the global namespace too.
#pragma once
#include <cuda/std/cstdint>
