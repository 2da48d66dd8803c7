// The table of element-wise loops that the native executor and the interpreter share: name -> loop over arrays.
#pragma once

#include <cstdint>

namespace mtia {

// out[i] = f(a[i], b[i], c[i]) for n elements; operands marked 's' in the name's suffix are one element for all.
using Loop = void (*)(void* out, const void* a, const void* b, const void* c, int64_t n);

Loop loop_at(int id);

}  // namespace mtia
