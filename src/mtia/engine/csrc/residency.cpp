// What the shared SRAM holds between launches: disjoint address ranges in least-recently-touched order.
// Plain C ABI; the Python face and the meaning of each call are in engine/memory.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <list>
#include <map>

namespace {

struct Segment {
    int64_t lo, hi, n_bytes, dirty_bytes;

    Segment part(int64_t from, int64_t to) const {
        int64_t a = std::max(lo, from), b = std::min(hi, to);
        double share = double(b - a) / double(hi - lo);
        return {a, b, std::llrint(n_bytes * share), std::llrint(dirty_bytes * share)};
    }
};

struct Residency {
    int64_t capacity;
    int64_t total = 0;
    std::list<Segment> order;                                  // least recently touched first
    std::map<int64_t, std::list<Segment>::iterator> by_start;

    using Place = std::list<Segment>::iterator;

    void insert(Place before, const Segment& s) {
        by_start[s.lo] = order.insert(before, s);
        total += s.n_bytes;
    }
    void erase(Place at) {
        total -= at->n_bytes;
        by_start.erase(at->lo);
        order.erase(at);
    }
    // First segment that may overlap [lo, ...): the one before lo if it reaches in, else the next.
    std::map<int64_t, Place>::iterator first_overlap(int64_t lo) {
        auto it = by_start.upper_bound(lo);
        if (it != by_start.begin()) {
            auto before = std::prev(it);
            if (before->second->hi > lo) return before;
        }
        return it;
    }
    int64_t resident(int64_t lo, int64_t hi) {
        int64_t found = 0;
        for (auto it = first_overlap(lo); it != by_start.end() && it->first < hi; ++it)
            found += it->second->part(lo, hi).n_bytes;
        return found;
    }
    int64_t remove(int64_t lo, int64_t hi) {
        int64_t dirty = 0;
        auto it = first_overlap(lo);
        while (it != by_start.end() && it->first < hi) {
            Place at = it->second;
            Segment s = *at;
            ++it;
            dirty += s.part(lo, hi).dirty_bytes;
            Place after = std::next(at);
            erase(at);
            if (s.lo < lo) insert(after, s.part(s.lo, lo));
            if (s.hi > hi) insert(after, s.part(hi, s.hi));
        }
        return dirty;
    }
    void append(Segment s) {
        if (!order.empty()) {
            Place last = std::prev(order.end());
            if (last->hi == s.lo && (last->dirty_bytes != 0) == (s.dirty_bytes != 0)) {
                s = {last->lo, s.hi, last->n_bytes + s.n_bytes, last->dirty_bytes + s.dirty_bytes};
                erase(last);
            }
        }
        insert(order.end(), s);
    }
    int64_t shrink() {
        int64_t written_back = 0;
        while (total > capacity) {
            Place at = order.begin();
            int64_t over = total - capacity;
            if (at->n_bytes <= over) {
                written_back += at->dirty_bytes;
                erase(at);
                continue;
            }
            Segment s = *at;
            double share = double(over) / double(s.n_bytes);
            int64_t dirty = std::llrint(s.dirty_bytes * share);
            int64_t cut = s.hi - s.lo > 1 ? s.lo + std::max<int64_t>(1, std::llrint((s.hi - s.lo) * share)) : s.lo;
            erase(at);
            insert(order.begin(), {std::min(cut, s.hi - 1), s.hi, s.n_bytes - over, s.dirty_bytes - dirty});
            written_back += dirty;
        }
        return written_back;
    }
};

}  // namespace

extern "C" {

void* mtia_residency_new(int64_t capacity) { return new Residency{capacity}; }

void mtia_residency_delete(void* r) { delete static_cast<Residency*>(r); }

void* mtia_residency_copy(void* r) {
    auto* from = static_cast<Residency*>(r);
    auto* copy = new Residency{from->capacity};
    for (const Segment& s : from->order) copy->insert(copy->order.end(), s);
    return copy;
}

int64_t mtia_residency_bytes(void* r) { return static_cast<Residency*>(r)->total; }

int64_t mtia_residency_count(void* r) { return (int64_t) static_cast<Residency*>(r)->order.size(); }

// Segments in order, four numbers each.
void mtia_residency_read(void* r, int64_t* out) {
    for (const Segment& s : static_cast<Residency*>(r)->order) {
        *out++ = s.lo;
        *out++ = s.hi;
        *out++ = s.n_bytes;
        *out++ = s.dirty_bytes;
    }
}

// n ranges of (lo, hi): the resident share of each.
void mtia_residency_fractions(void* r, const int64_t* ranges, int64_t n, double* out) {
    auto* residency = static_cast<Residency*>(r);
    for (int64_t i = 0; i < n; ++i) {
        int64_t lo = ranges[2 * i], hi = ranges[2 * i + 1];
        out[i] = hi <= lo ? 0.0 : std::min(1.0, double(residency->resident(lo, hi)) / double(hi - lo));
    }
}

// Dirty bytes that `incoming` new bytes would push out.
int64_t mtia_residency_pressure(void* r, int64_t incoming) {
    auto* residency = static_cast<Residency*>(r);
    int64_t excess = residency->total + incoming - residency->capacity, dirty = 0;
    for (const Segment& s : residency->order) {
        if (excess <= 0) break;
        dirty += s.n_bytes <= excess ? s.dirty_bytes : std::llrint(double(s.dirty_bytes) * excess / s.n_bytes);
        excess -= s.n_bytes;
    }
    return dirty;
}

int64_t mtia_residency_remove(void* r, int64_t lo, int64_t hi) { return static_cast<Residency*>(r)->remove(lo, hi); }

void mtia_residency_clear(void* r) {
    auto* residency = static_cast<Residency*>(r);
    residency->order.clear();
    residency->by_start.clear();
    residency->total = 0;
}

// n ranges of (lo, hi, written, n_bytes), streamed side by side: each keeps the same share if not all fit.
int64_t mtia_residency_touch(void* r, const int64_t* ranges, int64_t n) {
    auto* residency = static_cast<Residency*>(r);
    int64_t total = 0, written_back = 0;
    for (int64_t i = 0; i < n; ++i) total += ranges[4 * i + 3];
    double kept = total ? std::min(1.0, double(residency->capacity) / double(total)) : 1.0;
    for (int64_t i = 0; i < n; ++i) {
        int64_t lo = ranges[4 * i], hi = ranges[4 * i + 1], n_bytes = ranges[4 * i + 3];
        bool written = ranges[4 * i + 2];
        int64_t dirty = residency->remove(lo, hi);
        int64_t start = hi - std::max<int64_t>(1, (int64_t)((hi - lo) * kept));
        int64_t stays = std::min(hi - start, (int64_t)(n_bytes * kept));
        dirty = written ? stays : std::min(dirty, stays);
        written_back += written ? n_bytes - stays : 0;
        residency->append({start, hi, stays, dirty});
    }
    return written_back + residency->shrink();
}

}  // extern "C"
