// The dot product engine's arithmetic, shared by the interpreter and the native executor.
#pragma once

#include <cstdint>

namespace mtia {

// out[M, N] = c[M, N] + a[M, K] @ b[K, N], row-major: each element starts from c (zero where c is null) and takes its K
// products in order, one fused multiply-add each. Blocking over M and N never shows in the result.
void multiply(float* out, const float* a, const float* b, const float* c, int64_t M, int64_t K, int64_t N);
void multiply(double* out, const double* a, const double* b, const double* c, int64_t M, int64_t K, int64_t N);
void multiply(int32_t* out, const int32_t* a, const int32_t* b, const int32_t* c, int64_t M, int64_t K, int64_t N);

// A right-hand side [K, N] left where it lies, turned: element (k, n) at data[n * row + k]. Beyond `depth` every element
// is `rest`.
struct Turned {
    const float* data = nullptr;
    int64_t row = 0, depth = 0;
    float rest = 0;
};

// As above, bit for bit, for few rows: b is read once, in its own order.
void multiply(float* out, const float* a, const Turned& b, const float* c, int64_t M, int64_t K, int64_t N);

}  // namespace mtia
