// Matrix multiply with a defined order of accumulation (multiply.hpp): blocks of rows x vectors stay in registers.

#include "multiply.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "functions.hpp"
#include "transpose.hpp"

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

namespace mtia {
namespace {

// One vector of float32 with a fused multiply-add, as wide as the host has.
#if defined(__AVX512F__)
struct Vector {
    static constexpr int kLanes = 16;
    __m512 v;
    static Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Vector all(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void add_product(Vector a, Vector b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
};
constexpr int kRows = 8, kColumns = 3;
#elif defined(__FMA__)
struct Vector {
    static constexpr int kLanes = 8;
    __m256 v;
    static Vector load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vector all(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void add_product(Vector a, Vector b) { v = _mm256_fmadd_ps(a.v, b.v, v); }
};
constexpr int kRows = 4, kColumns = 2;
#else
struct Vector {
    static constexpr int kLanes = 4;
    float v[kLanes];
    static Vector load(const float* p) {
        Vector x;
        std::memcpy(x.v, p, sizeof x.v);
        return x;
    }
    static Vector all(float f) { return {{f, f, f, f}}; }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    void add_product(Vector a, Vector b) {
        for (int i = 0; i < kLanes; ++i) v[i] = std::fma(a.v[i], b.v[i], v[i]);
    }
};
constexpr int kRows = 4, kColumns = 2;
#endif

template <int R, int C>
void block(float* out, const float* a, const float* b, const float* c, int64_t K, int64_t N) {
    Vector sum[R][C];
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < C; ++j) sum[i][j] = c ? Vector::load(c + i * N + j * Vector::kLanes) : Vector::all(0.0f);
    for (int64_t k = 0; k < K; ++k) {
        Vector row[C];
        for (int j = 0; j < C; ++j) row[j] = Vector::load(b + k * N + j * Vector::kLanes);
        for (int i = 0; i < R; ++i) {
            Vector x = Vector::all(a[i * K + k]);
            for (int j = 0; j < C; ++j) sum[i][j].add_product(x, row[j]);
        }
    }
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < C; ++j) sum[i][j].store(out + i * N + j * Vector::kLanes);
}

template <int C>
void column_of_blocks(float* out, const float* a, const float* b, const float* c, int64_t M, int64_t K, int64_t N) {
    int64_t m = 0;
    for (; C <= kColumns && m + kRows <= M; m += kRows) block<C <= kColumns ? kRows : 1, C>(out + m * N, a + m * K, b, c ? c + m * N : c, K, N);
    for (; m < M; ++m) block<1, C>(out + m * N, a + m * K, b, c ? c + m * N : c, K, N);
}

// --- a right-hand side that lies turned ----------------------------------------------------------------------------------

constexpr int kVectors = kSide / Vector::kLanes;

// Products k0 to k0 + n of R rows with kSide columns; `block`: those of b, transposed.
template <int R> void add_products(Vector (&sum)[R][kVectors], const float* a, const float* block, int64_t K, int n) {
    for (int k = 0; k < n; ++k)
        for (int i = 0; i < R; ++i) {
            Vector x = Vector::all(a[i * K + k]);
            for (int j = 0; j < kVectors; ++j) sum[i][j].add_product(x, Vector::load(block + k * kSide + j * Vector::kLanes));
        }
}

// The products beyond b's depth. Adding zero once does what adding it many times does.
template <int R> void add_rest(Vector (&sum)[R][kVectors], const float* a, float rest, int64_t K, int64_t n) {
    for (int i = 0; i < R; ++i) {
        bool all_zero = bits_of(rest) == 0;
        for (int64_t k = 0; k < n; ++k) all_zero &= bits_of(a[i * K + k]) == 0;
        for (int64_t k = 0; k < (all_zero ? std::min<int64_t>(n, 1) : n); ++k)
            for (int j = 0; j < kVectors; ++j) sum[i][j].add_product(Vector::all(a[i * K + k]), Vector::all(rest));
    }
}

// R rows of `a` with kSide columns. The columns after these are asked for ahead: K steps of one row are too short for
// the host's own prefetching.
template <int R>
void turned_block(float* out, const float* a, const Turned& b, int64_t column, const float* c, int64_t K, int64_t N) {
    alignas(64) float block[kSide * kSide];
    Vector sum[R][kVectors];
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < kVectors; ++j)
            sum[i][j] = c ? Vector::load(c + i * N + column + j * Vector::kLanes) : Vector::all(0.0f);
    const float* data = b.data + column * b.row;
    int64_t k = 0;
    for (; k + kSide <= b.depth; k += kSide) {
        for (int i = 0; i < kSide; ++i) __builtin_prefetch(data + (kSide + i) * b.row + k);
        transpose_block<float>((char*)block, kSide * 4, (const char*)(data + k), b.row * 4);
        add_products<R>(sum, a + k, block, K, kSide);
    }
    for (int i = 0; k + i < b.depth; ++i)
        for (int j = 0; j < kSide; ++j) block[i * kSide + j] = data[j * b.row + k + i];
    add_products<R>(sum, a + k, block, K, (int)(b.depth - k));
    add_rest<R>(sum, a + b.depth, b.rest, K, K - b.depth);
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < kVectors; ++j) sum[i][j].store(out + i * N + column + j * Vector::kLanes);
}

// One row: more columns at a time, so that the sums in flight hide the latency of an addition.
constexpr int kColumnsOfOneRow = 8;

template <class T, class F>
void plain(T* out, const T* a, const T* b, const T* c, int64_t M, int64_t K, int64_t N, int64_t first, F f) {
    for (int64_t m = 0; m < M; ++m)
        for (int64_t n = first; n < N; ++n) {
            T sum = c ? c[m * N + n] : T(0);
            for (int64_t k = 0; k < K; ++k) sum = f(a[m * K + k], b[k * N + n], sum);
            out[m * N + n] = sum;
        }
}

}  // namespace

void multiply(float* out, const float* a, const float* b, const float* c, int64_t M, int64_t K, int64_t N) {
    constexpr int64_t kLanes = Vector::kLanes;
    int64_t n = 0;
    for (; M < kRows && n + kColumnsOfOneRow * kLanes <= N; n += kColumnsOfOneRow * kLanes)
        column_of_blocks<kColumnsOfOneRow>(out + n, a, b + n, c ? c + n : c, M, K, N);
    for (; n + kColumns * kLanes <= N; n += kColumns * kLanes)
        column_of_blocks<kColumns>(out + n, a, b + n, c ? c + n : c, M, K, N);
    for (; n + kLanes <= N; n += kLanes) column_of_blocks<1>(out + n, a, b + n, c ? c + n : c, M, K, N);
    plain(out, a, b, c, M, K, N, n, [](float x, float y, float s) { return std::fma(x, y, s); });
}

void multiply(float* out, const float* a, const Turned& b, const float* c, int64_t M, int64_t K, int64_t N) {
    int64_t n = 0;
    for (; n + kSide <= N; n += kSide) {
        int64_t m = 0;
        for (; m + 4 <= M; m += 4) turned_block<4>(out + m * N, a + m * K, b, n, c ? c + m * N : c, K, N);
        for (; m + 2 <= M; m += 2) turned_block<2>(out + m * N, a + m * K, b, n, c ? c + m * N : c, K, N);
        for (; m < M; ++m) turned_block<1>(out + m * N, a + m * K, b, n, c ? c + m * N : c, K, N);
    }
    for (int64_t m = 0; m < M; ++m)
        for (int64_t i = n; i < N; ++i) {
            float sum = c ? c[m * N + i] : 0.0f;
            for (int64_t k = 0; k < K; ++k)
                sum = std::fma(a[m * K + k], k < b.depth ? b.data[i * b.row + k] : b.rest, sum);
            out[m * N + i] = sum;
        }
}

void multiply(double* out, const double* a, const double* b, const double* c, int64_t M, int64_t K, int64_t N) {
    plain(out, a, b, c, M, K, N, 0, [](double x, double y, double s) { return std::fma(x, y, s); });
}

void multiply(int32_t* out, const int32_t* a, const int32_t* b, const int32_t* c, int64_t M, int64_t K, int64_t N) {
    plain(out, a, b, c, M, K, N, 0,
          [](int32_t x, int32_t y, int32_t s) { return (int32_t)((uint32_t)s + (uint32_t)x * (uint32_t)y); });
}

}  // namespace mtia

extern "C" {

// `batch` multiplies one after the other; kind 0 float32, 1 float64, 2 int32. c may be null.
void mtia_multiply(int kind, void* out, const void* a, const void* b, const void* c, int64_t batch, int64_t M,
                   int64_t K, int64_t N) {
    auto all = [&](auto* o, auto* x, auto* y, auto* z) {
        for (int64_t i = 0; i < batch; ++i)
            mtia::multiply(o + i * M * N, x + i * M * K, y + i * K * N, z ? z + i * M * N : z, M, K, N);
    };
    if (kind == 0)
        all((float*)out, (const float*)a, (const float*)b, (const float*)c);
    else if (kind == 1)
        all((double*)out, (const double*)a, (const double*)b, (const double*)c);
    else
        all((int32_t*)out, (const int32_t*)a, (const int32_t*)b, (const int32_t*)c);
}
}
