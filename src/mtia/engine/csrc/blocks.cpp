// Block and element copies between device memory and the functional simulator's arrays. Plain C ABI (ctypes).
//
// A "box" is the part of a tile that the mask leaves: per dim an interval [lo, hi). Every function checks the addresses
// it is about to touch against the allocation [alloc_lo, alloc_hi) first (alloc_hi == 0: no check) and returns the
// index of the first offending program (or element), or -1.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int kMaxDims = 8;

struct Box {
    int nd;
    int64_t shape[kMaxDims];
    int64_t stride[kMaxDims];      // bytes in memory
    int64_t out_stride[kMaxDims];  // elements in the array
    int64_t lo[kMaxDims];
    int64_t hi[kMaxDims];

    bool empty() const {
        for (int d = 0; d < nd; ++d)
            if (lo[d] >= hi[d]) return true;
        return false;
    }
    bool full() const {
        for (int d = 0; d < nd; ++d)
            if (lo[d] > 0 || hi[d] < shape[d]) return false;
        return true;
    }
    void extent(int64_t base, int elem, int64_t& first, int64_t& last) const {
        first = last = base;
        for (int d = 0; d < nd; ++d) {
            int64_t a = stride[d] * lo[d], b = stride[d] * (hi[d] - 1);
            first += std::min(a, b);
            last += std::max(a, b);
        }
        last += elem;
    }
};

template <typename T>
void load_rows(T* out, const char* in, const Box& b, int d) {
    if (d == b.nd - 1) {
        int64_t n = b.hi[d] - b.lo[d];
        T* o = out + b.lo[d] * b.out_stride[d];
        const char* p = in + b.lo[d] * b.stride[d];
        if (b.stride[d] == (int64_t)sizeof(T)) {
            std::memcpy(o, p, n * sizeof(T));
        } else if (b.stride[d] == 0) {
            T v;
            std::memcpy(&v, p, sizeof(T));
            std::fill(o, o + n, v);
        } else {
            for (int64_t i = 0; i < n; ++i) std::memcpy(o + i, p + i * b.stride[d], sizeof(T));
        }
        return;
    }
    for (int64_t i = b.lo[d]; i < b.hi[d]; ++i)
        load_rows(out + i * b.out_stride[d], in + i * b.stride[d], b, d + 1);
}

template <typename T>
void store_rows(char* out, const T* in, const Box& b, int d) {
    if (d == b.nd - 1) {
        int64_t n = b.hi[d] - b.lo[d];
        const T* i0 = in + b.lo[d] * b.out_stride[d];
        char* p = out + b.lo[d] * b.stride[d];
        if (b.stride[d] == (int64_t)sizeof(T))
            std::memcpy(p, i0, n * sizeof(T));
        else
            for (int64_t i = 0; i < n; ++i) std::memcpy(p + i * b.stride[d], i0 + i, sizeof(T));
        return;
    }
    for (int64_t i = b.lo[d]; i < b.hi[d]; ++i)
        store_rows(out + i * b.stride[d], in + i * b.out_stride[d], b, d + 1);
}

struct Blocks {
    const int64_t* base;
    int64_t base_step;
    int64_t n_programs;
    int nd;
    const int64_t* shape;
    const int64_t* stride;
    const int64_t* lo;
    const int64_t* hi;
    int64_t bound_step;
    const uint8_t* active;
    int64_t alloc_lo, alloc_hi;
};

Box make_box(const Blocks& a) {
    Box b;
    b.nd = a.nd == 0 ? 1 : a.nd;
    if (a.nd == 0) {
        b.shape[0] = 1;
        b.stride[0] = 0;
        b.lo[0] = 0;
        b.hi[0] = 1;
    }
    for (int d = 0; d < a.nd; ++d) {
        b.shape[d] = a.shape[d];
        b.stride[d] = a.stride[d];
    }
    int64_t n = 1;
    for (int d = b.nd - 1; d >= 0; --d) {
        b.out_stride[d] = n;
        n *= b.shape[d];
    }
    return b;
}

void set_bounds(Box& b, const Blocks& a, int64_t p) {
    for (int d = 0; d < a.nd; ++d) {
        b.lo[d] = std::max<int64_t>(0, a.lo[p * a.bound_step + d]);
        b.hi[d] = std::min<int64_t>(a.shape[d], a.hi[p * a.bound_step + d]);
    }
}

template <typename T>
int64_t load_blocks(T* out, const Blocks& a, const T fill) {
    Box b = make_box(a);
    int64_t size = b.out_stride[0] * b.shape[0];
    for (int64_t p = 0; p < a.n_programs; ++p) {
        T* o = out + p * size;
        set_bounds(b, a, p);
        if ((a.active && !a.active[p]) || b.empty()) {
            std::fill(o, o + size, fill);
            continue;
        }
        int64_t base = a.base[p * a.base_step], first, last;
        b.extent(base, sizeof(T), first, last);
        if (a.alloc_hi && (first < a.alloc_lo || last > a.alloc_hi)) return p;
        if (!b.full()) std::fill(o, o + size, fill);
        load_rows(o, reinterpret_cast<const char*>(base), b, 0);
    }
    return -1;
}

template <typename T>
int64_t store_blocks(const T* in, int64_t in_step, const Blocks& a) {
    Box b = make_box(a);
    for (int64_t p = 0; p < a.n_programs; ++p) {
        set_bounds(b, a, p);
        if ((a.active && !a.active[p]) || b.empty()) continue;
        int64_t base = a.base[p * a.base_step], first, last;
        b.extent(base, sizeof(T), first, last);
        if (a.alloc_hi && (first < a.alloc_lo || last > a.alloc_hi)) return p;
        store_rows(reinterpret_cast<char*>(base), in + p * in_step, b, 0);
    }
    return -1;
}

template <typename T>
int64_t gather(T* out, const int64_t* address, int64_t n, const uint8_t* mask, T fill, int64_t lo, int64_t hi) {
    for (int64_t i = 0; i < n; ++i) {
        if (mask && !mask[i]) {
            out[i] = fill;
            continue;
        }
        int64_t at = address[i];
        if (hi && (at < lo || at + (int64_t)sizeof(T) > hi)) return i;
        std::memcpy(out + i, reinterpret_cast<const char*>(at), sizeof(T));
    }
    return -1;
}

template <typename T>
int64_t scatter(const T* in, const int64_t* address, int64_t n, const uint8_t* mask, int64_t lo, int64_t hi) {
    for (int64_t i = 0; i < n; ++i) {
        if (mask && !mask[i]) continue;
        int64_t at = address[i];
        if (hi && (at < lo || at + (int64_t)sizeof(T) > hi)) return i;
        std::memcpy(reinterpret_cast<char*>(at), in + i, sizeof(T));
    }
    return -1;
}

struct BFloat16 {
    uint16_t bits;
    operator float() const {
        uint32_t u = (uint32_t)bits << 16;
        float f;
        std::memcpy(&f, &u, 4);
        return f;
    }
    BFloat16() = default;
    BFloat16(float f) {
        uint32_t u;
        std::memcpy(&u, &f, 4);
        bits = f != f ? 0x7FC0 : (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
    }
};

enum Op { kAdd = 0, kMax, kMin, kUMax, kUMin, kAnd, kOr, kXor, kExchange };

template <typename T, typename U>
T combine_integer(int op, T old, T v) {
    switch (op) {
        case kAdd: return (T)((U)old + (U)v);
        case kMax: return std::max(old, v);
        case kMin: return std::min(old, v);
        case kUMax: return (T)std::max((U)old, (U)v);
        case kUMin: return (T)std::min((U)old, (U)v);
        case kAnd: return old & v;
        case kOr: return old | v;
        case kXor: return old ^ v;
        default: return v;
    }
}

template <typename T>
T combine_float(int op, T old, T v) {
    switch (op) {
        case kAdd: return (T)((float)old + (float)v);
        case kMax: return (float)old < (float)v ? v : old;
        case kMin: return (float)v < (float)old ? v : old;
        default: return v;
    }
}

template <>
double combine_float(int op, double old, double v) {
    return op == kAdd ? old + v : op == kMax ? std::max(old, v) : op == kMin ? std::min(old, v) : v;
}

template <typename T, typename F>
int64_t atomic_loop(T* old, const T* in, const int64_t* address, int64_t n, const uint8_t* mask, int64_t lo,
                    int64_t hi, F f) {
    for (int64_t i = 0; i < n; ++i) {
        if (mask && !mask[i]) {
            std::memset(old + i, 0, sizeof(T));
            continue;
        }
        int64_t at = address[i];
        if (hi && (at < lo || at + (int64_t)sizeof(T) > hi)) return i;
        T* p = reinterpret_cast<T*>(at);
        old[i] = *p;
        *p = f(*p, in[i]);
    }
    return -1;
}

}  // namespace

extern "C" {

int64_t mtia_load_blocks(void* out, const int64_t* base, int64_t base_step, int64_t n_programs, int nd,
                         const int64_t* shape, const int64_t* stride, const int64_t* lo, const int64_t* hi,
                         int64_t bound_step, const uint8_t* active, int elem, int64_t fill, int64_t alloc_lo,
                         int64_t alloc_hi) {
    Blocks a{base, base_step, n_programs, nd, shape, stride, lo, hi, bound_step, active, alloc_lo, alloc_hi};
    switch (elem) {
        case 1: return load_blocks((uint8_t*)out, a, (uint8_t)fill);
        case 2: return load_blocks((uint16_t*)out, a, (uint16_t)fill);
        case 4: return load_blocks((uint32_t*)out, a, (uint32_t)fill);
        default: return load_blocks((uint64_t*)out, a, (uint64_t)fill);
    }
}

int64_t mtia_store_blocks(const void* in, int64_t in_step, const int64_t* base, int64_t base_step, int64_t n_programs,
                          int nd, const int64_t* shape, const int64_t* stride, const int64_t* lo, const int64_t* hi,
                          int64_t bound_step, const uint8_t* active, int elem, int64_t alloc_lo, int64_t alloc_hi) {
    Blocks a{base, base_step, n_programs, nd, shape, stride, lo, hi, bound_step, active, alloc_lo, alloc_hi};
    switch (elem) {
        case 1: return store_blocks((const uint8_t*)in, in_step, a);
        case 2: return store_blocks((const uint16_t*)in, in_step, a);
        case 4: return store_blocks((const uint32_t*)in, in_step, a);
        default: return store_blocks((const uint64_t*)in, in_step, a);
    }
}

int64_t mtia_gather(void* out, const int64_t* address, int64_t n, const uint8_t* mask, int elem, int64_t fill,
                    int64_t alloc_lo, int64_t alloc_hi) {
    switch (elem) {
        case 1: return gather((uint8_t*)out, address, n, mask, (uint8_t)fill, alloc_lo, alloc_hi);
        case 2: return gather((uint16_t*)out, address, n, mask, (uint16_t)fill, alloc_lo, alloc_hi);
        case 4: return gather((uint32_t*)out, address, n, mask, (uint32_t)fill, alloc_lo, alloc_hi);
        default: return gather((uint64_t*)out, address, n, mask, (uint64_t)fill, alloc_lo, alloc_hi);
    }
}

int64_t mtia_scatter(const void* in, const int64_t* address, int64_t n, const uint8_t* mask, int elem,
                     int64_t alloc_lo, int64_t alloc_hi) {
    switch (elem) {
        case 1: return scatter((const uint8_t*)in, address, n, mask, alloc_lo, alloc_hi);
        case 2: return scatter((const uint16_t*)in, address, n, mask, alloc_lo, alloc_hi);
        case 4: return scatter((const uint32_t*)in, address, n, mask, alloc_lo, alloc_hi);
        default: return scatter((const uint64_t*)in, address, n, mask, alloc_lo, alloc_hi);
    }
}

// kind: 0 int32, 1 int64, 2 float32, 3 float64, 4 float16, 5 bfloat16, 6 int16, 7 int8. In program order, so a run is repeatable.
int64_t mtia_atomic(void* old, const void* in, const int64_t* address, int64_t n, const uint8_t* mask, int kind,
                    int op, int64_t lo, int64_t hi) {
    switch (kind) {
        case 0:
            return atomic_loop((int32_t*)old, (const int32_t*)in, address, n, mask, lo, hi,
                               [op](int32_t a, int32_t b) { return combine_integer<int32_t, uint32_t>(op, a, b); });
        case 1:
            return atomic_loop((int64_t*)old, (const int64_t*)in, address, n, mask, lo, hi,
                               [op](int64_t a, int64_t b) { return combine_integer<int64_t, uint64_t>(op, a, b); });
        case 2:
            return atomic_loop((float*)old, (const float*)in, address, n, mask, lo, hi,
                               [op](float a, float b) { return combine_float<float>(op, a, b); });
        case 3:
            return atomic_loop((double*)old, (const double*)in, address, n, mask, lo, hi,
                               [op](double a, double b) { return combine_float<double>(op, a, b); });
        case 4:
            return atomic_loop((_Float16*)old, (const _Float16*)in, address, n, mask, lo, hi,
                               [op](_Float16 a, _Float16 b) { return combine_float<_Float16>(op, a, b); });
        case 5:
            return atomic_loop((BFloat16*)old, (const BFloat16*)in, address, n, mask, lo, hi,
                               [op](BFloat16 a, BFloat16 b) { return combine_float<BFloat16>(op, a, b); });
        case 6:
            return atomic_loop((int16_t*)old, (const int16_t*)in, address, n, mask, lo, hi,
                               [op](int16_t a, int16_t b) { return combine_integer<int16_t, uint16_t>(op, a, b); });
        default:
            return atomic_loop((int8_t*)old, (const int8_t*)in, address, n, mask, lo, hi,
                               [op](int8_t a, int8_t b) { return combine_integer<int8_t, uint8_t>(op, a, b); });
    }
}

int64_t mtia_compare_exchange(void* old, const void* expected, const void* desired, const int64_t* address, int64_t n,
                              const uint8_t* mask, int elem, int64_t lo, int64_t hi) {
    for (int64_t i = 0; i < n; ++i) {
        if (mask && !mask[i]) {
            std::memset((char*)old + i * elem, 0, elem);
            continue;
        }
        int64_t at = address[i];
        if (hi && (at < lo || at + elem > hi)) return i;
        char* p = reinterpret_cast<char*>(at);
        std::memcpy((char*)old + i * elem, p, elem);
        if (std::memcmp(p, (const char*)expected + i * elem, elem) == 0)
            std::memcpy(p, (const char*)desired + i * elem, elem);
    }
    return -1;
}

// Runs of consecutive addresses (elem apart) among the unmasked elements of each of n_programs rows of n addresses.
void mtia_count_runs(const int64_t* address, const uint8_t* mask, int64_t n_programs, int64_t n, int elem,
                     int64_t* runs, int64_t* first, int64_t* last, int64_t* count) {
    for (int64_t p = 0; p < n_programs; ++p) {
        int64_t r = 0, lo = INT64_MAX, hi = 0, c = 0, expected = INT64_MIN;
        for (int64_t i = 0; i < n; ++i) {
            int64_t k = p * n + i;
            if (mask && !mask[k]) continue;
            int64_t at = address[k];
            r += at != expected;
            expected = at + elem;
            lo = std::min(lo, at);
            hi = std::max(hi, at + elem);
            ++c;
        }
        runs[p] = r;
        first[p] = c ? lo : 0;
        last[p] = c ? hi : 0;
        count[p] = c;
    }
}

// The runs of consecutive addresses that mtia_count_runs counts, as intervals [lo, hi), program after program.
void mtia_list_runs(const int64_t* address, const uint8_t* mask, int64_t n_programs, int64_t n, int elem, int64_t* lo,
                    int64_t* hi) {
    int64_t r = -1;
    for (int64_t p = 0; p < n_programs; ++p) {
        int64_t expected = INT64_MIN;
        for (int64_t k = p * n; k < (p + 1) * n; ++k) {
            if (mask && !mask[k]) continue;
            if (address[k] != expected) lo[++r] = address[k];
            hi[r] = expected = address[k] + elem;
        }
    }
}

}  // extern "C"
