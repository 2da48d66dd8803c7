// The native executor: runs the instructions that engine/functional/assembly/ makes of a TileProgram, one program
// instance after the other. Scalars and addresses are 64-bit registers; tiles are slots (pointers into an arena, or, for
// a lent load, into device memory). Instructions are runs of int32 words: operation, length, operands; what each
// operand is stands beside its handler. Every access is checked against the allocation of its pointer argument first.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "elementwise.hpp"
#include "functions.hpp"
#include "multiply.hpp"
#include "transpose.hpp"

extern "C" int64_t mtia_atomic(void*, const void*, const int64_t*, int64_t, const uint8_t*, int, int, int64_t, int64_t);
extern "C" int64_t mtia_compare_exchange(void*, const void*, const void*, const int64_t*, int64_t, const uint8_t*, int,
                                         int64_t, int64_t);

namespace mtia {
namespace {

constexpr int kMostDims = 8;
using Words = const int32_t*;

struct Failure {
    int64_t program = -1, command = -1, first = 0, last = 0, parameter = -1;
};

struct State {
    std::vector<int64_t> scalar;
    std::vector<char*> slot;
    std::vector<Turned> turned;  // by slot: where a turned load was left; no data: it was copied
    const int64_t *low, *high;  // per parameter: its allocation; high 0: not checked
    int64_t id[3], grid[3];
    Failure failure;

    int64_t at(int32_t reg, int64_t absent) const { return reg < 0 ? absent : scalar[(size_t)reg]; }
    char* tile(int32_t index) { return index < 0 ? nullptr : slot[(size_t)index]; }
    bool fail(int32_t command, int32_t parameter, int64_t first, int64_t last) {
        failure = {0, command, first, last, parameter};
        return false;
    }
    bool is_outside(int32_t parameter, int64_t first, int64_t last) const {
        return parameter >= 0 && high[parameter] && (first < low[parameter] || last > high[parameter]);
    }
};

// --- scalars ----------------------------------------------------------------------------------------------------------

const char* const kScalarNames[] = {"addi", "subi", "muli", "divsi", "remsi", "divui", "remui", "floordivsi",
                                    "ceildivsi", "andi", "ori", "xori", "shli", "shrsi", "shrui", "maxsi", "minsi",
                                    "maxui", "minui", "eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt",
                                    "uge", "move", "extui"};

int64_t wrapped(int64_t x, int bits) {
    if (bits == 1) return x & 1;
    return bits == 64 ? x : (int64_t)((uint64_t)x << (64 - bits)) >> (64 - bits);
}

int64_t unsigned_of(int64_t x, int bits) { return bits == 64 ? x : x & (int64_t)(((uint64_t)1 << bits) - 1); }

int64_t floor_divide(int64_t a, int64_t b) {
    int64_t q = a / b;
    return q * b != a && (a < 0) != (b < 0) ? q - 1 : q;
}

int64_t signed_divide(int64_t a, int64_t b) { return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / (b ? b : 1); }

int64_t scalar_result(int op, int64_t a, int64_t b, int bits) {
    uint64_t ua = (uint64_t)unsigned_of(a, bits), ub = (uint64_t)unsigned_of(b, bits);
    switch (op) {
        case 0: return (int64_t)((uint64_t)a + (uint64_t)b);
        case 1: return (int64_t)((uint64_t)a - (uint64_t)b);
        case 2: return (int64_t)((uint64_t)a * (uint64_t)b);
        case 3: return signed_divide(a, b);
        case 4: return b == 0 || b == -1 ? 0 : a % b;
        case 5: return (int64_t)(ua / (ub ? ub : 1));
        case 6: return ub ? (int64_t)(ua % ub) : 0;
        case 7: return b == -1 ? signed_divide(a, b) : floor_divide(a, b ? b : 1);
        case 8: return b == -1 ? signed_divide(a, b) : -floor_divide(-a, b ? b : 1);
        case 9: return a & b;
        case 10: return a | b;
        case 11: return a ^ b;
        case 12: return ub < (uint64_t)bits ? (int64_t)(ua << ub) : 0;
        case 13: return a >> (ub < (uint64_t)bits ? ub : 63);
        case 14: return ub < (uint64_t)bits ? (int64_t)(ua >> ub) : 0;
        case 15: return std::max(a, b);
        case 16: return std::min(a, b);
        case 17: return ua > ub ? a : b;
        case 18: return ua < ub ? a : b;
        case 19: return a == b;
        case 20: return a != b;
        case 21: return a < b;
        case 22: return a <= b;
        case 23: return a > b;
        case 24: return a >= b;
        case 25: return ua < ub;
        case 26: return ua <= ub;
        case 27: return ua > ub;
        case 28: return ua >= ub;
        case 30: return (int64_t)ua;
        default: return a;
    }
}

// operation, destination, a, b, bits of the operands, bits of the result
bool run_scalar(State& s, Words w) {
    s.scalar[(size_t)w[3]] = wrapped(scalar_result(w[2], s.scalar[(size_t)w[4]], s.at(w[5], 0), w[6]), w[7]);
    return true;
}

// destination, condition, a, b
bool run_choose(State& s, Words w) {
    s.scalar[(size_t)w[2]] = s.scalar[(size_t)w[3]] ? s.scalar[(size_t)w[4]] : s.scalar[(size_t)w[5]];
    return true;
}

// low, high, predicate (0 less, 1 less or equal, 2 equal), base, stride, extent: indices i with base + stride * i <op> 0
bool run_interval(State& s, Words w) {
    int64_t& lo = s.scalar[(size_t)w[2]];
    int64_t& hi = s.scalar[(size_t)w[3]];
    int64_t base = s.scalar[(size_t)w[5]], stride = s.scalar[(size_t)w[6]], n = w[7], offset = w[4] == 1;
    lo = 0, hi = n;
    if (w[4] == 2) {
        if (stride == 0) {
            hi = base == 0 ? n : 0;
        } else {
            int64_t at = floor_divide(-base, stride);
            lo = at * stride + base == 0 ? at : n;
            hi = lo + 1;
        }
    } else if (stride == 0) {
        hi = base < offset ? n : 0;
    } else if (stride > 0) {
        hi = -floor_divide(base - offset, stride);
    } else {
        lo = floor_divide(base - offset, -stride) + 1;
    }
    return true;
}

// destination, axis
bool run_program_id(State& s, Words w) {
    s.scalar[(size_t)w[2]] = s.id[w[3]];
    return true;
}
bool run_num_programs(State& s, Words w) {
    s.scalar[(size_t)w[2]] = s.grid[w[3]];
    return true;
}

// register, slot, byte offset, bits of the integer
bool run_to_scalar(State& s, Words w) {
    int64_t x = 0;
    std::memcpy(&x, s.tile(w[3]) + w[4], (size_t)std::max(1, w[5] / 8));
    s.scalar[(size_t)w[2]] = wrapped(x, w[5]);
    return true;
}

// slot, register, bytes
bool run_from_scalar(State& s, Words w) {
    std::memcpy(s.tile(w[2]), &s.scalar[(size_t)w[3]], (size_t)w[4]);
    return true;
}

// --- element-wise -----------------------------------------------------------------------------------------------------

// loop, elements, destination, then (slot, byte offset) of each operand
bool run_apply(State& s, Words w) {
    auto operand = [&](int i) -> const char* { return w[i] < 0 ? nullptr : s.slot[(size_t)w[i]] + w[i + 1]; };
    loop_at(w[2])(s.tile(w[4]), operand(5), operand(7), operand(9), w[3]);
    return true;
}

// loop, elements a row, bytes of a result, destination, outer dims, their extents; per operand: slot, offset, strides
bool run_apply_rows(State& s, Words w) {
    int nd = w[6];
    Words extent = w + 7, operand = extent + nd;
    Loop loop = loop_at(w[2]);
    const char* in[3] = {};
    Words stride[3] = {};
    for (int i = 0; i < 3; ++i, operand += 2 + nd) {
        if (operand[0] >= 0) in[i] = s.slot[(size_t)operand[0]] + operand[1];
        stride[i] = operand + 2;
    }
    char* out = s.tile(w[5]);
    int64_t row_bytes = (int64_t)w[3] * w[4];
    int32_t at[kMostDims] = {};
    while (true) {
        loop(out, in[0], in[1], in[2], w[3]);
        out += row_bytes;
        int d = nd - 1;
        for (; d >= 0; --d) {
            bool more = ++at[d] < extent[d];
            for (int i = 0; i < 3; ++i)
                if (in[i]) in[i] += more ? stride[i][d] : -(int64_t)stride[i][d] * (extent[d] - 1);
            if (more) break;
            at[d] = 0;
        }
        if (d < 0) return true;
    }
}

// --- blocks of memory -------------------------------------------------------------------------------------------------

// A rectangular copy: per dim an extent and byte strides on both sides.
struct Copy {
    int nd = 0;
    int64_t extent[kMostDims], to[kMostDims], from[kMostDims];

    void dim(int64_t n, int64_t to_stride, int64_t from_stride) {
        if (n == 1) return;
        if (nd && to[nd - 1] == to_stride * n && from[nd - 1] == from_stride * n) {  // one longer dim with the one before
            extent[nd - 1] *= n, to[nd - 1] = to_stride, from[nd - 1] = from_stride;
            return;
        }
        extent[nd] = n, to[nd] = to_stride, from[nd] = from_stride, ++nd;
    }
    bool is_one_run(int elem) const { return nd == 0 || (nd == 1 && to[0] == elem && from[0] == elem); }
};

inline void copy_bytes(char* to, const char* from, int64_t n) {
    for (; n >= 64; n -= 64, to += 64, from += 64) __builtin_memcpy(to, from, 64);
    if (n) std::memcpy(to, from, (size_t)n);
}

template <class T> void copy_row(char* to, const char* from, int64_t n, int64_t to_stride, int64_t from_stride) {
    constexpr int64_t kBytes = sizeof(T);
    if (to_stride == kBytes && from_stride == kBytes) {
        n * kBytes > 4096 ? (void)std::memcpy(to, from, (size_t)(n * kBytes)) : copy_bytes(to, from, n * kBytes);
    } else if (to_stride == kBytes && from_stride == 0) {
        std::fill((T*)to, (T*)to + n, *(const T*)from);
    } else {
        for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, sizeof(T));
    }
}

// [n, m] where `to` runs along the second dim and `from` along the first.
template <class T>
void copy_transposed(char* to, const char* from, int64_t n, int64_t m, int64_t to_row, int64_t from_row) {
    constexpr int64_t kBytes = sizeof(T);
    for (int64_t j = 0; j < m; j += kSide)  // 16 rows of `from` at a time: as many streams as a prefetcher follows
        for (int64_t i = 0; i < n; i += kSide) {
            char* t = to + i * to_row + j * kBytes;
            const char* f = from + i * kBytes + j * from_row;
            if (i + kSide <= n && j + kSide <= m) {
                transpose_block<T>(t, to_row, f, from_row);
                continue;
            }
            for (int64_t x = 0; x < std::min<int64_t>(kSide, n - i); ++x)
                for (int64_t y = 0; y < std::min<int64_t>(kSide, m - j); ++y)
                    std::memcpy(t + x * to_row + y * kBytes, f + x * kBytes + y * from_row, sizeof(T));
        }
}

template <class T> void copy_dims(const Copy& c, int d, char* to, const char* from) {
    constexpr int64_t kBytes = sizeof(T);
    if (d == c.nd - 1) return copy_row<T>(to, from, c.extent[d], c.to[d], c.from[d]);
    if (d == c.nd - 2 && c.to[d + 1] == kBytes && c.from[d] == kBytes && c.from[d + 1] != 0)
        return copy_transposed<T>(to, from, c.extent[d], c.extent[d + 1], c.to[d], c.from[d + 1]);
    if (d == c.nd - 2 && c.from[d + 1] == kBytes && c.to[d] == kBytes)
        return copy_transposed<T>(to, from, c.extent[d + 1], c.extent[d], c.to[d + 1], c.from[d]);
    for (int64_t i = 0; i < c.extent[d]; ++i) copy_dims<T>(c, d + 1, to + i * c.to[d], from + i * c.from[d]);
}

void run_copy_of(Copy c, int elem, char* to, const char* from) {
    if (c.nd == 0) c.extent[0] = 1, c.to[0] = c.from[0] = elem, c.nd = 1;
    switch (elem) {
        case 1: return copy_dims<uint8_t>(c, 0, to, from);
        case 2: return copy_dims<uint16_t>(c, 0, to, from);
        case 4: return copy_dims<uint32_t>(c, 0, to, from);
        default: return copy_dims<uint64_t>(c, 0, to, from);
    }
}

void fill(char* to, int64_t n, int elem, int64_t bits) {
    switch (elem) {
        case 1: std::memset(to, (int)bits, (size_t)n); return;
        case 2: std::fill_n((uint16_t*)to, n, (uint16_t)bits); return;
        case 4: std::fill_n((uint32_t*)to, n, (uint32_t)bits); return;
        default: std::fill_n((uint64_t*)to, n, (uint64_t)bits); return;
    }
}

// What one program's block access covers: addresses, the box the mask leaves, the tile's elements.
struct Reach {
    int64_t base, first, last, n_elements = 1, skipped = 0;  // skipped: bytes into the tile where the box begins
    bool is_empty = false, is_full = true;
    Copy copy;
};

// per dim, four words: extent, stride register, low register, high register (-1: absent); `tile_strides` in elements
Reach reach_of(const State& s, Words dims, int nd, int elem, int32_t base, int32_t flag, const int64_t* tile_strides,
               bool is_load) {
    Reach r;
    r.base = s.scalar[(size_t)base];
    if (!s.at(flag, 1)) r.is_empty = true;
    r.first = r.last = r.base;
    int64_t address = r.base;
    for (int d = 0; d < nd; ++d) {
        int64_t n = dims[4 * d], stride = s.at(dims[4 * d + 1], 0);
        int64_t lo = std::max<int64_t>(0, s.at(dims[4 * d + 2], 0)), hi = std::min(n, s.at(dims[4 * d + 3], n));
        r.n_elements *= n;
        if (lo >= hi) {
            r.is_empty = true;
            continue;
        }
        r.is_full &= lo == 0 && hi == n;
        r.first += std::min(stride * lo, stride * (hi - 1));
        r.last += std::max(stride * lo, stride * (hi - 1));
        address += stride * lo;
        r.skipped += tile_strides[d] * elem * lo;
        int64_t in_tile = tile_strides[d] * elem;
        is_load ? r.copy.dim(hi - lo, in_tile, stride) : r.copy.dim(hi - lo, stride, in_tile);
    }
    r.base = address;
    r.last += elem;
    return r;
}

// What a load of [K, N] leaves in memory where N lies whole, K from its beginning, and K's elements are neighbours.
Turned turned_at(const State& s, Words dims, const Reach& r, int64_t fill_bits) {
    int64_t row = s.at(dims[5], 0), lo_k = s.at(dims[2], 0), lo_n = s.at(dims[6], 0), hi_n = s.at(dims[7], dims[4]);
    bool fits = !r.is_empty && s.at(dims[1], 0) == 4 && row % 4 == 0 && r.base % 4 == 0 && lo_k <= 0 && lo_n <= 0 &&
                hi_n >= dims[4];
    if (!fits) return {};
    return {(const float*)r.base, row / 4, std::min<int64_t>(dims[0], s.at(dims[3], dims[0])),
            from_bits((uint32_t)fill_bits)};
}

// slot, bytes of an element, lent (1: its bytes in a row, 2: turned, for a multiply), command, parameter, base register,
// flag register, fill register, dims, dims' words
bool run_load(State& s, Words w, char* const* home) {
    int elem = w[3], nd = w[10];
    Words dims = w + 11;
    int64_t strides[kMostDims], n = 1;
    for (int d = nd - 1; d >= 0; --d) strides[d] = n, n *= dims[4 * d];
    Reach r = reach_of(s, dims, nd, elem, w[7], w[8], strides, true);
    if (!r.is_empty && s.is_outside(w[6], r.first, r.last)) return s.fail(w[5], w[6], r.first, r.last);
    if (w[4] == 2) {
        s.turned[(size_t)w[2]] = turned_at(s, dims, r, s.scalar[(size_t)w[9]]);
        if (s.turned[(size_t)w[2]].data) return true;
    } else if (w[4]) {  // lent: the slot may point into device memory
        bool lends = !r.is_empty && r.is_full && r.copy.is_one_run(elem);
        s.slot[(size_t)w[2]] = lends ? (char*)r.base : home[w[2]];
        if (lends) return true;
    }
    char* out = s.tile(w[2]);
    if (r.is_empty || !r.is_full) fill(out, r.n_elements, elem, s.scalar[(size_t)w[9]]);
    if (!r.is_empty) run_copy_of(r.copy, elem, out + r.skipped, (const char*)r.base);
    return true;
}

// slot, offset, bytes of an element, command, parameter, base register, flag register, dims, dims' words, tile strides
bool run_store(State& s, Words w) {
    int elem = w[4], nd = w[9];
    Words dims = w + 10, tile = dims + 4 * nd;
    int64_t strides[kMostDims];
    for (int d = 0; d < nd; ++d) strides[d] = tile[d];
    Reach r = reach_of(s, dims, nd, elem, w[7], w[8], strides, false);
    if (r.is_empty) return true;
    if (s.is_outside(w[6], r.first, r.last)) return s.fail(w[5], w[6], r.first, r.last);
    run_copy_of(r.copy, elem, (char*)r.base, s.tile(w[2]) + w[3] + r.skipped);
    return true;
}

// destination slot, source slot, source offset, bytes of an element, dims; per dim: extent, stride to, stride from (bytes)
bool run_copy(State& s, Words w) {
    Copy c;
    for (int d = 0; d < w[7]; ++d) c.dim(w[8 + 3 * d], w[9 + 3 * d], w[10 + 3 * d]);
    run_copy_of(c, w[6], s.tile(w[2]) + w[3], s.tile(w[4]) + w[5]);
    return true;
}

template <class T>
bool gather(State& s, T* out, const int64_t* address, const uint8_t* mask, int64_t n, T other, Words w) {
    int64_t low = s.low[w[7]], high = s.high[w[7]] ? s.high[w[7]] : INT64_MAX;
    int64_t first = INT64_MAX, last = INT64_MIN;
    for (int64_t i = 0; !mask && i < n; ++i) first = std::min(first, address[i]), last = std::max(last, address[i]);
    if (!mask && first >= low && last <= high - (int64_t)sizeof(T)) {
        for (int64_t i = 0; i < n; ++i) std::memcpy(out + i, (const char*)address[i], sizeof(T));
        return true;
    }
    for (int64_t i = 0; i < n; ++i) {
        if (mask && !mask[i]) {
            out[i] = other;
            continue;
        }
        int64_t at = address[i];
        if (at < low || at + (int64_t)sizeof(T) > high) return s.fail(w[8], w[7], at, at + (int64_t)sizeof(T));
        std::memcpy(out + i, (const char*)at, sizeof(T));
    }
    return true;
}

// slot, address slot, mask slot, bytes of an element, elements, parameter, command, fill register
bool run_gather(State& s, Words w) {
    const int64_t* address = (const int64_t*)s.tile(w[3]);
    const uint8_t* mask = (const uint8_t*)s.tile(w[4]);
    int64_t other = s.scalar[(size_t)w[9]];
    char* out = s.tile(w[2]);
    switch (w[5]) {
        case 1: return gather<uint8_t>(s, (uint8_t*)out, address, mask, w[6], (uint8_t)other, w);
        case 2: return gather<uint16_t>(s, (uint16_t*)out, address, mask, w[6], (uint16_t)other, w);
        case 4: return gather<uint32_t>(s, (uint32_t*)out, address, mask, w[6], (uint32_t)other, w);
        default: return gather<uint64_t>(s, (uint64_t*)out, address, mask, w[6], (uint64_t)other, w);
    }
}

// data slot, address slot, mask slot, bytes of an element, elements, parameter, command
bool run_scatter(State& s, Words w) {
    const char* data = s.tile(w[2]);
    const int64_t* address = (const int64_t*)s.tile(w[3]);
    const uint8_t* mask = (const uint8_t*)s.tile(w[4]);
    for (int64_t i = 0, elem = w[5]; i < w[6]; ++i) {
        if (mask && !mask[i]) continue;
        if (s.is_outside(w[7], address[i], address[i] + elem)) return s.fail(w[8], w[7], address[i], address[i] + elem);
        std::memcpy((char*)address[i], data + i * elem, (size_t)elem);
    }
    return true;
}

// old slot, data slot, address slot, mask slot, bytes, elements, parameter, command, kind, operation
bool run_atomic(State& s, Words w) {
    const int64_t* address = (const int64_t*)s.tile(w[4]);
    int64_t bad = mtia_atomic(s.tile(w[2]), s.tile(w[3]), address, w[7], (const uint8_t*)s.tile(w[5]), w[10], w[11],
                              s.low[w[8]], s.high[w[8]]);
    return bad < 0 || s.fail(w[9], w[8], address[bad], address[bad] + w[6]);
}

// old slot, expected slot, desired slot, address slot, bytes, elements, parameter, command
bool run_exchange(State& s, Words w) {
    const int64_t* address = (const int64_t*)s.tile(w[5]);
    int64_t bad = mtia_compare_exchange(s.tile(w[2]), s.tile(w[3]), s.tile(w[4]), address, w[7], nullptr, w[6],
                                        s.low[w[8]], s.high[w[8]]);
    return bad < 0 || s.fail(w[9], w[8], address[bad], address[bad] + w[6]);
}

// --- symbolic values made tiles ---------------------------------------------------------------------------------------

template <class T> void linear(T* out, int64_t base, const int64_t* stride, Words extent, int nd) {
    if (nd == 0) {
        *out = (T)base;
        return;
    }
    int64_t row = 1;
    if (nd == 1) {
        const int64_t n = extent[0], step = stride[0];
        for (int64_t i = 0; i < n; ++i) out[i] = (T)(base + i * step);
        return;
    }
    for (int d = 1; d < nd; ++d) row *= extent[d];
    for (int32_t i = 0; i < extent[0]; ++i) {
        linear(out + i * row, base + i * stride[0], stride + 1, extent + 1, nd - 1);
    }
}

// slot, bytes of an element, base register, dims, extents, stride registers
bool run_linear(State& s, Words w) {
    int nd = w[5];
    Words extent = w + 6, registers = extent + nd;
    int64_t stride[kMostDims], base = s.scalar[(size_t)w[4]];
    for (int d = 0; d < nd; ++d) stride[d] = s.at(registers[d], 0);
    char* out = s.tile(w[2]);
    switch (w[3]) {
        case 1: linear((int8_t*)out, base, stride, extent, nd); break;
        case 2: linear((int16_t*)out, base, stride, extent, nd); break;
        case 4: linear((int32_t*)out, base, stride, extent, nd); break;
        default: linear((int64_t*)out, base, stride, extent, nd); break;
    }
    return true;
}

void box(char* out, bool inside, const State& s, Words dims, int nd) {
    int64_t row = 1, n = dims[0];
    for (int d = 1; d < nd; ++d) row *= dims[3 * d];
    int64_t lo = std::min(n, std::max<int64_t>(0, s.at(dims[1], 0))), hi = std::max(lo, std::min(n, s.at(dims[2], n)));
    if (nd == 1 || !inside) {
        std::memset(out, 0, (size_t)(n * row));
        if (inside) std::memset(out + lo, 1, (size_t)(hi - lo));
        return;
    }
    for (int64_t i = 0; i < n; ++i) box(out + i * row, i >= lo && i < hi, s, dims + 3, nd - 1);
}

// slot, flag register, dims; per dim: extent, low register, high register
bool run_box(State& s, Words w) {
    box(s.tile(w[2]), s.at(w[3], 1) != 0, s, w + 5, w[4]);
    return true;
}

// --- reductions, scans, matrices --------------------------------------------------------------------------------------

// loop, bytes of an element, outer, n, inner, destination, source, its offset, scratch: halves are folded until one is left
bool run_fold(State& s, Words w) {
    Loop loop = loop_at(w[2]);
    int64_t elem = w[3], n_all = w[5], inner = w[6];
    char *out = s.tile(w[7]), *scratch = s.tile(w[10]);
    const char* source = s.tile(w[8]) + w[9];
    for (int64_t o = 0; o < w[4]; ++o, out += inner * elem, source += n_all * inner * elem) {
        const char* x = source;
        char* next = scratch;
        int64_t n = n_all;
        while (n > 1) {  // x[0 : h] with the last h; an odd one in the middle waits
            int64_t h = n / 2, left = n - h;
            char* y = left == 1 ? out : next;
            loop(y, x, x + left * inner * elem, nullptr, h * inner);
            if (left > h) std::memcpy(y + h * inner * elem, x + h * inner * elem, (size_t)(inner * elem));
            x = y, next = y + left * inner * elem, n = left;
        }
        if (x == source) std::memcpy(out, source, (size_t)(inner * elem));
    }
    return true;
}

template <class T, class A>
void scan(T* out, const T* in, int64_t n, int64_t step, bool multiplies) {
    A sum = multiplies ? 1 : 0;
    for (int64_t i = 0; i < n; ++i) {
        sum = multiplies ? sum * in[i * step] : sum + in[i * step];
        out[i * step] = (T)sum;
    }
}

// kind (0 float32, 1 float64, 2 int32, 3 int64), multiplies, reversed, outer, n, inner, destination, source
bool run_scan(State& s, Words w) {
    int64_t n = w[6], inner = w[7];
    auto all = [&](auto* out, auto* in, auto accumulator) {
        using A = decltype(accumulator);
        using T = std::remove_reference_t<decltype(*out)>;
        for (int64_t o = 0; o < w[5]; ++o)
            for (int64_t i = 0; i < inner; ++i) {
                int64_t at = o * n * inner + i + (w[4] ? (n - 1) * inner : 0);
                scan<T, A>(out + at, in + at, n, w[4] ? -inner : inner, w[3] != 0);
            }
    };
    char *out = s.tile(w[8]), *in = s.tile(w[9]);
    switch (w[2]) {
        case 0: all((float*)out, (const float*)in, double{}); break;
        case 1: all((double*)out, (const double*)in, double{}); break;
        case 2: all((int32_t*)out, (const int32_t*)in, uint32_t{}); break;
        default: all((int64_t*)out, (const int64_t*)in, uint64_t{}); break;
    }
    return true;
}

// kind, destination, a, b, c (-1: zero), batch, M, K, N, whether b may be turned
bool run_multiply(State& s, Words w) {
    int64_t batch = w[7], M = w[8], K = w[9], N = w[10];
    if (w[11] && s.turned[(size_t)w[5]].data) {
        multiply((float*)s.tile(w[3]), (const float*)s.tile(w[4]), s.turned[(size_t)w[5]], (const float*)s.tile(w[6]), M, K, N);
        return true;
    }
    auto all = [&](auto* out, auto* a, auto* b, auto* c) {
        for (int64_t i = 0; i < batch; ++i)
            multiply(out + i * M * N, a + i * M * K, b + i * K * N, c ? c + i * M * N : c, M, K, N);
    };
    char *out = s.tile(w[3]), *a = s.tile(w[4]), *b = s.tile(w[5]), *c = s.tile(w[6]);
    switch (w[2]) {
        case 0: all((float*)out, (const float*)a, (const float*)b, (const float*)c); break;
        case 1: all((double*)out, (const double*)a, (const double*)b, (const double*)c); break;
        default: all((int32_t*)out, (const int32_t*)a, (const int32_t*)b, (const int32_t*)c); break;
    }
    return true;
}

// Block-scaled elements to float32, each element by its scale: both are bytes that mean what their tables of 256 say.
// destination, elements, scales, element table, scale table, batch, rows, depth, group, packed (two to a byte along the
// depth, low half first), turned (elements and destination [depth, rows], else [rows, depth]); scales [rows, groups]
bool run_unpack(State& s, Words w) {
    float* out = (float*)s.tile(w[2]);
    const uint8_t *elements = (const uint8_t*)s.tile(w[3]), *scales = (const uint8_t*)s.tile(w[4]);
    const float *element = (const float*)s.tile(w[5]), *factor = (const float*)s.tile(w[6]);
    int64_t rows = w[8], depth = w[9], group = w[10], groups = depth / group, packed = w[11];
    bool turned = w[12];
    for (int64_t b = 0; b < w[7]; ++b) {
        for (int64_t outer = 0; outer < (turned ? depth : rows); ++outer)
            for (int64_t inner = 0; inner < (turned ? rows : depth); ++inner) {
                int64_t row = turned ? inner : outer, k = turned ? outer : inner;
                uint8_t code = turned ? elements[k / packed * rows + row] : elements[(row * depth + k) / packed];
                if (packed == 2) code = k % 2 ? code >> 4 : code & 15;
                *out++ = element[code] * factor[scales[row * groups + k / group]];
            }
        elements += rows * depth / packed;
        scales += rows * groups;
    }
    return true;
}

// slot, source slot, index slot (int64), bytes of an element, outer, inner, extent of source, extent of index, command
bool run_take(State& s, Words w) {
    char *out = s.tile(w[2]), *source = s.tile(w[3]);
    const int64_t* index = (const int64_t*)s.tile(w[4]);
    int64_t elem = w[5], outer = w[6], inner = w[7], n = w[8], m = w[9];
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t j = 0; j < m; ++j)
            for (int64_t i = 0; i < inner; ++i, out += elem, ++index) {
                if (*index < 0 || *index >= n) return s.fail(w[10], -1, *index, n);
                std::memcpy(out, source + ((o * n + *index) * inner + i) * elem, (size_t)elem);
            }
    return true;
}

// slot (int32 or int64 counts), source slot (int64), mask slot, elements, bins, bytes of a count
bool run_histogram(State& s, Words w) {
    char* out = s.tile(w[2]);
    const int64_t* x = (const int64_t*)s.tile(w[3]);
    const uint8_t* mask = (const uint8_t*)s.tile(w[4]);
    std::memset(out, 0, (size_t)w[6] * (size_t)w[7]);
    for (int64_t i = 0; i < w[5]; ++i)
        if (x[i] >= 0 && x[i] < w[6] && (!mask || mask[i])) w[7] == 4 ? (void)++((int32_t*)out)[x[i]] : (void)++((int64_t*)out)[x[i]];
    return true;
}

template <class T> void sort_rows(T* x, int64_t n_elements, int64_t n, bool descending) {
    for (T* end = x + n_elements; x < end; x += n)
        descending ? std::sort(x, x + n, std::greater<T>()) : std::sort(x, x + n);
}

// slot, source slot, bytes of an element, elements, extent of the last dim, descending
bool run_sort(State& s, Words w) {
    char* out = s.tile(w[2]);
    std::memcpy(out, s.tile(w[3]), (size_t)w[4] * (size_t)w[5]);
    switch (w[4]) {
        case 1: sort_rows((int8_t*)out, w[5], w[6], w[7]); break;
        case 2: sort_rows((int16_t*)out, w[5], w[6], w[7]); break;
        case 4: sort_rows((int32_t*)out, w[5], w[6], w[7]); break;
        default: sort_rows((int64_t*)out, w[5], w[6], w[7]); break;
    }
    return true;
}

// mask slot, elements, command
bool run_assert(State& s, Words w) {
    const uint8_t* ok = (const uint8_t*)s.tile(w[2]);
    for (int64_t i = 0; i < w[3]; ++i)
        if (!ok[i]) return s.fail(w[4], -1, 0, 0);
    return true;
}

// --- the machine ------------------------------------------------------------------------------------------------------

enum Code {
    kHalt, kJump, kBranch, kScalar, kChoose, kInterval, kProgramId, kNumPrograms, kToScalar, kFromScalar, kApply,
    kApplyRows, kLoad, kStore, kCopy, kGather, kScatter, kAtomic, kExchange, kLinear, kBox, kFold, kScan, kMultiply,
    kUnpack, kTake, kHistogram, kAssert, kSwap, kSort,
};
const char* const kCodeNames[] = {"halt", "jump", "branch", "scalar", "choose", "interval", "program_id",
                                  "num_programs", "to_scalar", "from_scalar", "apply", "apply_rows", "load", "store",
                                  "copy", "gather", "scatter", "atomic", "exchange", "linear", "box", "fold", "scan",
                                  "multiply", "unpack", "take", "histogram", "assert", "swap", "sort"};

// Runs from `start` to the next halt; false where an instruction failed.
bool run(State& s, Words code, int64_t start, char* const* home) {
    Words w = code + start;
    while (true) {
        bool ok = true;
        switch (w[0]) {
            case kHalt: return true;
            case kJump: w = code + w[2]; continue;
            case kBranch: w = s.scalar[(size_t)w[2]] ? w + w[1] : code + w[3]; continue;  // to w[3] where zero
            case kScalar: ok = run_scalar(s, w); break;
            case kChoose: ok = run_choose(s, w); break;
            case kInterval: ok = run_interval(s, w); break;
            case kProgramId: ok = run_program_id(s, w); break;
            case kNumPrograms: ok = run_num_programs(s, w); break;
            case kToScalar: ok = run_to_scalar(s, w); break;
            case kFromScalar: ok = run_from_scalar(s, w); break;
            case kApply: ok = run_apply(s, w); break;
            case kApplyRows: ok = run_apply_rows(s, w); break;
            case kLoad: ok = run_load(s, w, home); break;
            case kStore: ok = run_store(s, w); break;
            case kCopy: ok = run_copy(s, w); break;
            case kGather: ok = run_gather(s, w); break;
            case kScatter: ok = run_scatter(s, w); break;
            case kAtomic: ok = run_atomic(s, w); break;
            case kExchange: ok = run_exchange(s, w); break;
            case kLinear: ok = run_linear(s, w); break;
            case kBox: ok = run_box(s, w); break;
            case kFold: ok = run_fold(s, w); break;
            case kScan: ok = run_scan(s, w); break;
            case kMultiply: ok = run_multiply(s, w); break;
            case kUnpack: ok = run_unpack(s, w); break;
            case kTake: ok = run_take(s, w); break;
            case kHistogram: ok = run_histogram(s, w); break;
            case kAssert: ok = run_assert(s, w); break;
            case kSort: ok = run_sort(s, w); break;
            case kSwap: std::swap(s.slot[(size_t)w[2]], s.slot[(size_t)w[3]]); break;
            default: std::abort();
        }
        if (!ok) return false;
        w += w[1];
    }
}

// What engine/functional/executor.py passes: one assembled program.
struct Assembled {
    Words code;
    int64_t body;                // where the part that each program runs begins; what comes before runs once
    const int64_t* registers;    // their first values: room for arguments, constants
    int64_t n_registers;
    const int64_t* slots;        // byte offset in the arena; -1 - offset in `data`
    int64_t n_slots;
    int64_t arena_bytes;
    const char* data;
};

struct Aligned {
    void operator()(char* p) const { std::free(p); }
};

char* arena(int64_t n_bytes) {  // kept by the thread, as large as the largest program so far
    thread_local std::unique_ptr<char, Aligned> held;
    thread_local int64_t size = 0;
    if (size < n_bytes) {
        size = (n_bytes + 4095) / 4096 * 4096;
        held.reset();
        held.reset((char*)std::aligned_alloc(64, (size_t)size));
        if (!held) throw std::bad_alloc();
    }
    return held.get();
}

int64_t run_programs(const Assembled& p, const int64_t* arguments, const int64_t* low, const int64_t* high,
                     int64_t n_arguments, const int64_t* grid, int64_t first, int64_t count, Failure& failure) {
    State s;
    s.scalar.assign(p.registers, p.registers + p.n_registers);
    std::copy(arguments, arguments + n_arguments, s.scalar.begin());
    char* memory = arena(p.arena_bytes);
    s.slot.resize((size_t)p.n_slots);
    s.turned.resize((size_t)p.n_slots);
    for (int64_t i = 0; i < p.n_slots; ++i)
        s.slot[(size_t)i] = p.slots[i] >= 0 ? memory + p.slots[i] : const_cast<char*>(p.data) + (-1 - p.slots[i]);
    std::vector<char*> home = s.slot;
    s.low = low, s.high = high;
    for (int axis = 0; axis < 3; ++axis) s.grid[axis] = grid[axis], s.id[axis] = 0;
    run(s, p.code, 0, home.data());
    for (int64_t i = first; i < first + count; ++i) {
        s.id[0] = i % grid[0], s.id[1] = i / grid[0] % grid[1], s.id[2] = i / (grid[0] * grid[1]);
        if (!run(s, p.code, p.body, home.data())) {
            failure = s.failure;
            failure.program = i;
            return i;
        }
    }
    return -1;
}

template <size_t N> int find(const char* const (&names)[N], const char* name) {
    for (size_t i = 0; i < N; ++i)
        if (std::strcmp(names[i], name) == 0) return (int)i;
    return -1;
}

}  // namespace
}  // namespace mtia

extern "C" {

int mtia_find_code(const char* name) { return mtia::find(mtia::kCodeNames, name); }
int mtia_find_scalar(const char* name) { return mtia::find(mtia::kScalarNames, name); }

// Runs every program of the grid; -1, or the program that failed with `failure` filled in.
int64_t mtia_execute(const void* assembled, const int64_t* arguments, const int64_t* low, const int64_t* high,
                     int64_t n_arguments, int64_t x, int64_t y, int64_t z, int64_t* failure) {
    const int64_t grid[3] = {x, y, z};
    mtia::Failure found;
    int64_t bad = mtia::run_programs(*(const mtia::Assembled*)assembled, arguments, low, high, n_arguments, grid, 0,
                                     x * y * z, found);
    if (bad >= 0) std::memcpy(failure, &found, sizeof found);
    return bad;
}
}
