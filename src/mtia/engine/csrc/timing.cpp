// The discrete-event loop of the timing engine (mtia/engine/timing.py explains the model and fills the structures).
//
// One launch: every program instance is the same list of nodes (commands with a cost), dealt round-robin to PEs. Inside
// a PE the core issues nodes in order and each engine runs its own nodes in order, so a PE is a dataflow graph over
// time stamps; requests to the shared servers (SRAM, DRAM, die-to-die) leave a heap in time order. Every node carries
// how its completion time splits over parts, copied from the predecessor that bound it: that is the critical path.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <queue>
#include <unordered_map>
#include <vector>

namespace {

using i64 = int64_t;
using i32 = int32_t;

enum Unit { CORE, VECTOR, SFU, MLU, DPE, DMA_IN, DMA_OUT, N_UNITS };
enum Part { P_DPE, P_VECTOR, P_MLU, P_SRAM, P_DRAM, P_NOC, P_CORE, P_LATENCY, N_PARTS };
constexpr int PART_OF_UNIT[N_UNITS] = {P_CORE, P_VECTOR, P_VECTOR, P_MLU, P_DPE, P_NOC, P_NOC};
constexpr i64 UNRESOLVED = -1;
constexpr i64 PENDING = -2;
constexpr int MAX_LEADERS = 16;
constexpr i64 CHUNK = 1 << 20;  // anonymous bytes in one queue entry

struct Parts {
    i64 fs[N_PARTS];
};

}  // namespace

extern "C" {

struct MtiaAccess {
    const i64 *base, *end, *bytes, *runs;
    i32 base_step, end_step, bytes_step, runs_step;  // 0: one value for all programs, 1: an array
    i64 run_bytes;                                   // contiguous bytes; 0: bytes / runs
    i32 write, atomic, indexed, use_dma_runs;        // use_dma_runs: the core issues one DMA command per run
    i32 once, unused;                                // once: no other access of the launch touches its blocks
    double unique_frac;                              // indexed: distinct bytes over all bytes of the launch
};

struct MtiaSegment {  // resident before the launch, least recently used first
    i64 lo, hi, bytes, dirty_bytes;
};

struct MtiaLaunch {
    i64 n_programs;
    i32 rows, cols, n_nodes, n_segments, ring, max_distance, can_skip;
    i32 multicast;  // 0: none, 1: rows and columns of PEs, more: clusters of so many neighbouring PEs
    const i32 *unit;
    const i64 *cost_fs, *issue_fs;
    const i64 *latency_fs;  // from when the engine is free again to when the result is there
    const i32 *access, *active;
    const i32 *dep_offset, *dep;
    const i32 *wait_offset, *wait_node, *wait_distance;
    const MtiaAccess *accesses;
    const uint8_t *const *active_masks;
    const MtiaSegment *segments;
    const i32 *run_end;  // per wave: last wave of the run of alike waves it belongs to
    i64 noc_latency_fs, sram_latency_fs, dram_latency_fs;
    i64 sram_capacity_bytes, sram_line_bytes, dram_page_bytes, max_outstanding_bytes;
    double read_fs_per_byte, write_fs_per_byte;      // the DMA engine
    double port_fs_per_byte, sram_fs_per_byte, dram_fs_per_byte, d2d_fs_per_byte, run_fs;
    double reduction_fs_per_byte;  // between neighbouring PEs; 0: no reduction network
    double dram_write_fs_per_byte;
    double tolerance_frac;
    i64 max_spans;
    i32 span_pes, resident_programs;
    i64 program_fs;  // to set a block up
    double dram_gap_bytes;  // that DRAM could have moved in the time that each run of contiguous addresses loses
};

struct MtiaSpan {
    i32 pe, node;
    i64 program, start_fs, end_fs;
};

struct MtiaResult {
    i64 makespan_fs;
    i64 parts_fs[8];
    i64 sram_bytes, dram_read_bytes, dram_write_bytes, noc_bytes, hit_bytes, merged_bytes;
    i64 sram_busy_fs, dram_busy_fs, noc_busy_fs;
    i64 n_spans, n_events, n_skipped_waves, n_simulated_waves;
    i64 last_pe;    // the one that ended last
    i64 stuck_pe;   // one that could not go on, with the node its core stands at; -1: none
    i64 stuck_node;
    double port_busy_fs;
};
}

namespace {

struct BlockKey {
    i64 base, extent;
    bool operator==(const BlockKey &o) const { return base == o.base && extent == o.extent; }
};

struct BlockHash {
    size_t operator()(const BlockKey &k) const {
        uint64_t h = (uint64_t)k.base * 0x9E3779B97F4A7C15ull ^ ((uint64_t)k.extent * 0xC2B2AE3D27D4EB4Full);
        return h ^ (h >> 29);
    }
};

struct Leader {
    i32 row, col;
    i64 until_fs;
    bool update;  // an atomic update that others add to, not a read that others listen to
};

struct Block {
    i64 bytes = 0, dirty_bytes = 0, stamp = -1, ready_fs = 0;
    bool present = false;
    int n_leaders = 0, next_leader = 0;
    std::unique_ptr<Leader[]> leaders;
};

// What waits to be evicted, least recently touched first. `block` null: anonymous bytes (indexed rows, skipped waves),
// or, with segment >= 0, what was resident before the launch.
struct Aged {
    Block *block;
    i64 stamp, bytes, dirty_bytes;
    int segment;
};

struct Lookup {
    i64 hit_bytes = 0, miss_bytes = 0;
    i64 evicted_dirty_bytes = 0;
    Block *block = nullptr;
};

class Cache {
  public:
    Cache(const MtiaLaunch &launch) : capacity_(launch.sram_capacity_bytes) {
        for (int s = 0; s < launch.n_segments; ++s) {
            const MtiaSegment &seg = launch.segments[s];
            segments_.push_back({seg.lo, seg.hi, seg.bytes, 0,
                                 seg.bytes > 0 ? (double)seg.dirty_bytes / (double)seg.bytes : 0.0});
            queue_.push_back({nullptr, 0, seg.bytes, seg.dirty_bytes, s});
            used_ += seg.bytes;
        }
        by_address_.resize(segments_.size());
        for (size_t i = 0; i < by_address_.size(); ++i) by_address_[i] = (int)i;
        std::sort(by_address_.begin(), by_address_.end(),
                  [&](int a, int b) { return segments_[a].lo < segments_[b].lo; });
    }

    // Looks a block up and makes it the most recently used.
    Lookup touch(i64 base, i64 end, i64 bytes, bool write) {
        Lookup out;
        Block &block = blocks_[BlockKey{base, end - base}];
        out.block = &block;
        if (block.present) {
            out.hit_bytes = std::min(bytes, block.bytes);
        } else {
            block.bytes = out.hit_bytes = take_resident(base, end, bytes, block.dirty_bytes);
            block.present = true;
        }
        out.miss_bytes = bytes - out.hit_bytes;
        i64 grown = std::max<i64>(0, bytes - block.bytes);
        block.bytes += grown;
        used_ += grown;
        inserted_ += grown;
        if (write) block.dirty_bytes = std::min(block.bytes, std::max(block.dirty_bytes, bytes));
        block.stamp = ++clock_;
        queue_.push_back({&block, block.stamp, 0, 0, -1});
        out.evicted_dirty_bytes = shrink();
        return out;
    }

    // Rows picked by index: only what is new to the launch and not resident misses.
    Lookup touch_indexed(i64 base, i64 end, i64 bytes, double unique_frac, bool write) {
        Lookup out;
        double fits = total_unique_ > 0 ? std::min(1.0, (double)capacity_ / total_unique_) : 1.0;
        double first = 1.0 - (1.0 - unique_frac) * fits;
        double resident = resident_frac(base, end);
        out.miss_bytes = (i64)std::llround((double)bytes * first * (1.0 - resident));
        out.hit_bytes = bytes - out.miss_bytes;
        add_anonymous(out.miss_bytes, write ? out.miss_bytes : 0);
        out.evicted_dirty_bytes = shrink();
        return out;
    }

    // A block that nothing else in the launch touches: no need to find it again.
    Lookup touch_once(i64 base, i64 end, i64 bytes, bool write) {
        Lookup out;
        i64 dirty = 0;
        out.hit_bytes = take_resident(base, end, bytes, dirty);
        out.miss_bytes = bytes - out.hit_bytes;
        add_anonymous(out.miss_bytes, write ? out.miss_bytes : 0);
        if (out.hit_bytes > 0) {  // moved from its segment to the young end, so already counted
            queue_.push_back({nullptr, 0, out.hit_bytes, write ? out.hit_bytes : dirty, -1});
        }
        out.evicted_dirty_bytes = shrink();
        return out;
    }

    void add_anonymous(i64 bytes, i64 dirty_bytes) {
        if (bytes <= 0) return;
        if (!queue_.empty() && !queue_.back().block && queue_.back().segment < 0 && queue_.back().bytes < CHUNK) {
            queue_.back().bytes += bytes;
            queue_.back().dirty_bytes += dirty_bytes;
        } else {
            queue_.push_back({nullptr, 0, bytes, dirty_bytes, -1});
        }
        used_ += bytes;
        inserted_ += bytes;
    }

    // Bytes that may be inserted before what happens at the old end of the queue changes in kind.
    i64 regime_bytes(i64 wave_bytes, double written_frac) {
        if (used_ + wave_bytes <= capacity_) return capacity_ - used_;
        double expected = -1, total = 0, bytes = 0, dirty = 0;
        for (const Aged &aged : queue_) {
            bytes += (double)live_bytes(aged);
            dirty += (double)(aged.block ? (live_bytes(aged) > 0 ? aged.block->dirty_bytes : 0) : aged.dirty_bytes);
            if (bytes < 2 * (double)wave_bytes) continue;
            if (expected < 0) expected = dirty / bytes;
            if (std::abs(dirty / bytes - expected) > 0.05) return (i64)total;
            total += bytes;
            bytes = dirty = 0;
        }
        return std::abs(expected - written_frac) < 0.05 ? INT64_MAX : (i64)total;
    }

    i64 skip(i64 bytes, i64 dirty_bytes) {  // as if waves that insert so much had run
        add_anonymous(bytes, dirty_bytes);
        return shrink();
    }

    i64 inserted() const { return inserted_; }
    void set_total_unique(double bytes) { total_unique_ = bytes; }

    // Drops queue entries that a later touch replaced, so that the queue stays in proportion to what is resident.
    void compact() {
        if (queue_.size() < 65536 || queue_.size() < 4 * blocks_.size()) return;
        std::deque<Aged> kept;
        for (const Aged &aged : queue_)
            if (live_bytes(aged) > 0) kept.push_back(aged);
        queue_.swap(kept);
    }

  private:
    struct Segment {
        i64 lo, hi, left, moved;  // left: not evicted; moved: touched by this launch, so held by blocks
        double dirty_frac;
        double owed = 0;  // blocks of it that should have been found, less those that were
    };

    i64 live_bytes(const Aged &aged) const {
        if (!aged.block) return aged.bytes;
        return aged.block->present && aged.block->stamp == aged.stamp ? aged.block->bytes : 0;
    }

    template <class F> void overlapping(i64 lo, i64 hi, F &&visit) {
        auto it = std::upper_bound(by_address_.begin(), by_address_.end(), hi - 1,
                                   [&](i64 v, int s) { return v < segments_[s].lo; });
        while (it != by_address_.begin()) {
            Segment &seg = segments_[*--it];
            if (seg.hi <= lo) break;  // segments do not overlap one another
            visit(seg, std::min(hi, seg.hi) - std::max(lo, seg.lo));
        }
    }

    double resident_frac(i64 lo, i64 hi) {
        double covered = 0;
        overlapping(lo, hi, [&](Segment &seg, i64 overlap) {
            covered += (double)overlap * (double)seg.left / (double)(seg.hi - seg.lo);
        });
        return hi > lo ? std::min(1.0, covered / (double)(hi - lo)) : 0.0;
    }

    // Bytes of a block that were resident before the launch: they move from their segments to the block. Where a share
    // of a segment is left, that share of its blocks is whole: a block that misses a line waits as long as one that
    // misses all.
    i64 take_resident(i64 lo, i64 hi, i64 bytes, i64 &dirty_bytes) {
        if (segments_.empty()) return 0;
        double frac = hi > lo ? (double)bytes / (double)(hi - lo) : 0.0;
        double taken = 0, dirty = 0;
        overlapping(lo, hi, [&](Segment &seg, i64 overlap) {
            double all = std::min(frac * (double)overlap, (double)bytes - taken);
            double n = all * whole_or_none(seg);
            taken += n;
            dirty += n * seg.dirty_frac;
            seg.moved += (i64)std::llround(n);
        });
        dirty_bytes = (i64)std::llround(dirty);
        return std::min<i64>(bytes, (i64)std::llround(taken));
    }

    static double whole_or_none(Segment &seg) {
        double left = (double)seg.left / (double)(seg.hi - seg.lo);
        if (left >= 1 || left <= 0) return left;
        seg.owed += left;
        if (seg.owed < 0.5) return 0;
        seg.owed -= 1;
        return 1;
    }

    // What was touched since the launch began belongs to its own blocks now. True if there was any.
    bool leave_segment(Aged &front) {
        Segment &seg = segments_[front.segment];
        i64 moved = std::min(front.bytes, seg.moved);
        seg.moved = 0;
        if (moved <= 0) return false;
        front.dirty_bytes -= (i64)((__int128)front.dirty_bytes * moved / front.bytes);
        front.bytes -= moved;
        if (front.bytes == 0) queue_.pop_front();
        return true;
    }

    i64 shrink() {
        i64 dirty = 0;
        while (used_ > capacity_ && !queue_.empty()) {
            Aged &front = queue_.front();
            if (front.block) {
                Block *block = front.block;
                if (block->present && block->stamp == front.stamp) {
                    used_ -= block->bytes;
                    dirty += block->dirty_bytes;
                    block->present = false;
                    block->bytes = block->dirty_bytes = 0;
                }
                queue_.pop_front();
                continue;
            }
            if (front.segment >= 0 && leave_segment(front)) continue;
            i64 out = std::min(front.bytes, used_ - capacity_);
            i64 out_dirty = front.bytes > 0 ? (i64)((__int128)front.dirty_bytes * out / front.bytes) : 0;
            if (front.segment >= 0) segments_[front.segment].left -= out;
            front.bytes -= out;
            front.dirty_bytes -= out_dirty;
            used_ -= out;
            dirty += out_dirty;
            if (front.bytes <= 0) queue_.pop_front();
        }
        return dirty;
    }

    i64 capacity_, used_ = 0, inserted_ = 0, clock_ = 0;
    double total_unique_ = 0;
    std::unordered_map<BlockKey, Block, BlockHash> blocks_;
    std::deque<Aged> queue_;
    std::vector<Segment> segments_;
    std::vector<int> by_address_;
};

struct Server {
    i64 free_fs = 0, busy_fs = 0;
    double fs_per_byte = 0;
    // Serves `bytes` first come first served from `arrival` on; returns when the last byte is out.
    i64 serve(i64 arrival, i64 bytes) { return serve(arrival, bytes, fs_per_byte); }

    i64 serve(i64 arrival, i64 bytes, double rate) {
        i64 duration = (i64)std::llround((double)bytes * rate);
        free_fs = std::max(arrival, free_fs) + duration;
        busy_fs += duration;
        return free_fs;
    }
};

struct Engine {
    i64 q = 0;  // program ordinal on this PE
    i32 k = 0;  // position in the engine's list
    i64 free_fs = 0;
    i64 span_end_fs = 0;
    Parts parts{};
};

struct Pe {
    i32 row, col, id;
    i64 n_programs;
    i64 core_free_fs = 0;
    Parts core_parts{};
    i64 core_q = 0;
    i32 core_k = 0;
    bool entered = false;
    Engine engines[N_UNITS];
    i64 port_in_fs = 0, port_out_fs = 0;
    i64 *done, *issued;
    Parts *parts;
    std::vector<i64> program_end_fs;  // by place in the ring, with its parts: what a block that follows waits for
    std::vector<Parts> program_end_parts;
    std::vector<i32> unresolved;
    i64 end_fs = 0;
    Parts end_parts{};
};

struct Request {
    i64 t, seq;
    i64 q;
    i32 pe, node;
};

struct Later {
    bool operator()(const Request &a, const Request &b) const {
        if (a.t != b.t) return a.t > b.t;
        if (a.pe != b.pe) return a.pe > b.pe;
        return a.seq > b.seq;
    }
};

struct Counters {
    i64 sram, dram_read, dram_write, noc, hit, merged, sram_busy, dram_busy, noc_busy, inserted;
    double port;
};

struct Free {
    void operator()(void *p) const { std::free(p); }
};

class Simulation {
  public:
    Simulation(const MtiaLaunch &launch, MtiaResult &result, MtiaSpan *spans)
        : in_(launch), out_(result), spans_(spans), cache_(launch) {
        n_pes_ = in_.rows * in_.cols;
        n_nodes_ = in_.n_nodes;
        ring_ = in_.ring;
        sram_.fs_per_byte = in_.sram_fs_per_byte;
        dram_.fs_per_byte = in_.dram_fs_per_byte;
        d2d_.fs_per_byte = in_.d2d_fs_per_byte;
        for (int i = 0; i < n_nodes_; ++i) lists_[in_.unit[i]].push_back(i);
        double unique = 0;
        for (int i = 0; i < n_nodes_; ++i)
            if (in_.access[i] >= 0 && in_.accesses[in_.access[i]].indexed) unique += unique_bytes(in_.access[i]);
        cache_.set_total_unique(unique);
        make_pes();
        n_waves_ = (in_.n_programs + n_pes_ - 1) / n_pes_;
        wave_count_.assign(n_waves_, 0);
        wave_fs_.assign(n_waves_, 0);
        if (in_.can_skip) wave_parts_.resize(n_waves_);
    }

    void run() {
        for (Pe &pe : pes_) advance(pe);
        while (!heap_.empty()) {
            Request request = heap_.top();
            heap_.pop();
            ++out_.n_events;
            serve(request);
            advance(pes_[request.pe]);
            if (in_.can_skip && wave_done_ != wave_seen_) try_skip();
        }
        finish();
    }

  private:
    // --- set-up ---

    double unique_bytes(int a) const {
        const MtiaAccess &acc = in_.accesses[a];
        double total = 0;
        if (!acc.bytes_step) total = (double)acc.bytes[0] * (double)in_.n_programs;
        else for (i64 p = 0; p < in_.n_programs; ++p) total += (double)acc.bytes[p];
        return total * acc.unique_frac;
    }

    void make_pes() {
        i64 busiest = (in_.n_programs + n_pes_ - 1) / n_pes_;
        while (ring_ > 1 && ring_ / 2 >= busiest) ring_ /= 2;  // never below what a PE holds: it holds no more
        size_t per_pe = (size_t)ring_ * n_nodes_;
        int used = (int)std::min<i64>(n_pes_, in_.n_programs);
        stamps_.reset(static_cast<i64 *>(std::malloc(sizeof(i64) * 2 * per_pe * used)));
        parts_.reset(static_cast<Parts *>(std::malloc(sizeof(Parts) * per_pe * used)));
        pes_.resize(used);
        for (int i = 0; i < used; ++i) {
            Pe &pe = pes_[i];
            pe.id = i;
            pe.row = i / in_.cols;
            pe.col = i % in_.cols;
            pe.n_programs = (in_.n_programs - i + n_pes_ - 1) / n_pes_;
            pe.done = stamps_.get() + per_pe * 2 * i;
            pe.issued = pe.done + per_pe;
            pe.parts = parts_.get() + per_pe * i;
            pe.unresolved.assign(ring_, 0);
            if (in_.resident_programs > 0) {
                pe.program_end_fs.assign(ring_, 0);
                pe.program_end_parts.resize(ring_);
            }
        }
    }

    i64 program_of(const Pe &pe, i64 q) const { return q * n_pes_ + pe.id; }
    size_t at(i64 q, i32 node) const { return (size_t)(q & (ring_ - 1)) * n_nodes_ + node; }
    static i64 pick(const i64 *values, i32 step, i64 program) { return values[step ? program : 0]; }

    bool is_active(i32 node, i64 program) const {
        i32 a = in_.active[node];
        return a < 0 || in_.active_masks[a][program];
    }

    // --- a PE ---

    // Blocks: with `resident_programs` of them on the PE, the next begins when the oldest has ended.
    bool is_full(const Pe &pe) const {
        i64 before = pe.core_q - in_.resident_programs;
        return in_.resident_programs > 0 && before >= 0 && pe.unresolved[before & (ring_ - 1)] != 0;
    }

    bool may_enter(const Pe &pe) const {
        if (is_full(pe)) return false;
        if (pe.core_q < ring_) return true;
        if (pe.unresolved[pe.core_q & (ring_ - 1)] != 0) return false;
        for (int u = 1; u < N_UNITS; ++u)
            if (!lists_[u].empty() && pe.engines[u].q - in_.max_distance <= pe.core_q - ring_) return false;
        return true;
    }

    void enter(Pe &pe) {
        size_t first = at(pe.core_q, 0);
        std::fill(pe.done + first, pe.done + first + n_nodes_, UNRESOLVED);
        std::fill(pe.issued + first, pe.issued + first + n_nodes_, UNRESOLVED);
        pe.unresolved[pe.core_q & (ring_ - 1)] = n_nodes_;
        pe.entered = true;
        if (in_.resident_programs <= 0) return;
        if (pe.core_q >= in_.resident_programs) {
            i64 before = (pe.core_q - in_.resident_programs) & (ring_ - 1);
            if (pe.program_end_fs[before] > pe.core_free_fs) {
                pe.core_free_fs = pe.program_end_fs[before];
                pe.core_parts = pe.program_end_parts[before];
            }
        }
        pe.program_end_fs[pe.core_q & (ring_ - 1)] = 0;
        pe.core_free_fs += in_.program_fs;
        pe.core_parts.fs[P_LATENCY] += in_.program_fs;
    }

    void advance(Pe &pe) {
        bool changed = true;
        while (changed) {
            changed = advance_core(pe);
            for (int u = 1; u < N_UNITS; ++u)
                if (!lists_[u].empty()) changed |= advance_engine(pe, u);
        }
    }

    struct Binding {
        i64 t;
        const Parts *parts;
        void meet(i64 other, const Parts *other_parts) {
            if (other > t) {
                t = other;
                parts = other_parts;
            }
        }
    };

    bool meet_dependencies(Pe &pe, i64 q, i32 node, Binding &bound) {
        for (i32 d = in_.dep_offset[node]; d < in_.dep_offset[node + 1]; ++d) {
            size_t s = at(q, in_.dep[d]);
            if (pe.done[s] < 0) return false;
            bound.meet(pe.done[s], &pe.parts[s]);
        }
        for (i32 w = in_.wait_offset[node]; w < in_.wait_offset[node + 1]; ++w) {
            i64 before = q - in_.wait_distance[w];
            if (before < 0) continue;
            size_t s = at(before, in_.wait_node[w]);
            if (pe.done[s] < 0) return false;
            bound.meet(pe.done[s], &pe.parts[s]);
        }
        return true;
    }

    bool advance_core(Pe &pe) {
        bool changed = false;
        while (pe.core_q < pe.n_programs) {
            if (!pe.entered) {
                if (!may_enter(pe)) break;
                enter(pe);
            }
            if (pe.core_k == n_nodes_) {
                ++pe.core_q;
                pe.core_k = 0;
                pe.entered = false;
                changed = true;
                continue;
            }
            if (!issue(pe)) break;
            ++pe.core_k;
            changed = true;
        }
        return changed;
    }

    bool issue(Pe &pe) {
        i32 node = pe.core_k;
        i64 q = pe.core_q;
        size_t s = at(q, node);
        i64 program = program_of(pe, q);
        if (!is_active(node, program)) {
            pe.issued[s] = pe.core_free_fs;
            pe.parts[s] = pe.core_parts;
            resolve(pe, q, node, pe.core_free_fs);
            return true;
        }
        if (in_.unit[node] == CORE) {
            Binding bound{pe.core_free_fs, &pe.core_parts};
            if (!meet_dependencies(pe, q, node, bound)) return false;
            i64 start = bound.t;
            Parts parts = *bound.parts;
            parts.fs[P_CORE] += in_.cost_fs[node];
            pe.core_free_fs = start + in_.cost_fs[node];
            pe.core_parts = parts;
            pe.parts[s] = parts;
            pe.issued[s] = start;
            record(pe, q, node, start, pe.core_free_fs);
            resolve(pe, q, node, pe.core_free_fs);
            return true;
        }
        i64 cost = in_.issue_fs[node];
        i32 a = in_.access[node];
        if (a >= 0 && in_.accesses[a].use_dma_runs)
            cost *= std::max<i64>(1, pick(in_.accesses[a].runs, in_.accesses[a].runs_step, program));
        pe.core_free_fs += cost;
        pe.core_parts.fs[P_CORE] += cost;
        pe.issued[s] = pe.core_free_fs;
        pe.parts[s] = pe.core_parts;  // until the engine takes it up
        return true;
    }

    bool advance_engine(Pe &pe, int u) {
        bool changed = false;
        Engine &engine = pe.engines[u];
        const std::vector<i32> &list = lists_[u];
        while (engine.q < pe.n_programs) {
            i32 node = list[engine.k];
            if (engine.q > pe.core_q || (engine.q == pe.core_q && (!pe.entered || node >= pe.core_k))) break;
            size_t s = at(engine.q, node);
            if (pe.done[s] == UNRESOLVED) {
                Binding bound{pe.issued[s], &pe.parts[s]};
                bound.meet(engine.free_fs, &engine.parts);
                if (!meet_dependencies(pe, engine.q, node, bound)) break;
                Parts parts = *bound.parts;
                start(pe, engine, u, node, bound.t, parts);
            }
            if (++engine.k == (i32)list.size()) {
                engine.k = 0;
                ++engine.q;
            }
            changed = true;
        }
        return changed;
    }

    void start(Pe &pe, Engine &engine, int u, i32 node, i64 t, const Parts &bound) {
        size_t s = at(engine.q, node);
        pe.parts[s] = bound;
        if (u < DMA_IN) {
            i64 cost = in_.cost_fs[node];
            pe.parts[s].fs[PART_OF_UNIT[u]] += cost;
            engine.free_fs = t + cost;
            engine.parts = pe.parts[s];
            record(pe, engine.q, node, t, t + cost);
            pe.parts[s].fs[PART_OF_UNIT[u]] += in_.latency_fs[node];
            resolve(pe, engine.q, node, t + cost + in_.latency_fs[node]);
            return;
        }
        const MtiaAccess &acc = in_.accesses[in_.access[node]];
        i64 program = program_of(pe, engine.q);
        i64 bytes = pick(acc.bytes, acc.bytes_step, program);
        engine.parts = bound;
        if (bytes <= 0) {
            engine.free_fs = t;
            resolve(pe, engine.q, node, t);
            return;
        }
        double rate = acc.write ? in_.write_fs_per_byte : in_.read_fs_per_byte;
        double duration = (double)bytes * rate;
        if (acc.indexed) duration = std::max(duration, in_.run_fs * (double)pick(acc.runs, acc.runs_step, program));
        i64 occupied = (i64)std::llround(duration);
        engine.free_fs = t + occupied;
        engine.parts.fs[P_NOC] += occupied;
        pe.done[s] = PENDING;
        pe.issued[s] = t;
        heap_.push({t, seq_++, engine.q, pe.id, node});
    }

    void resolve(Pe &pe, i64 q, i32 node, i64 t) {
        size_t s = at(q, node);
        pe.done[s] = t;
        if (t > pe.end_fs) {
            pe.end_fs = t;
            pe.end_parts = pe.parts[s];
        }
        if (in_.resident_programs > 0 && t > pe.program_end_fs[q & (ring_ - 1)]) {
            pe.program_end_fs[q & (ring_ - 1)] = t;
            pe.program_end_parts[q & (ring_ - 1)] = pe.parts[s];
        }
        if (t > wave_fs_[q]) {
            wave_fs_[q] = t;
            if (in_.can_skip) wave_parts_[q] = pe.parts[s];
        }
        if (--pe.unresolved[q & (ring_ - 1)] == 0) finish_program(q);
    }

    void finish_program(i64 q) {
        ++wave_count_[q];
        ++out_.n_simulated_waves;  // programs; divided at the end
        while (wave_done_ < n_waves_ && wave_count_[wave_done_] == (i64)pes_.size()) ++wave_done_;
    }

    void record(Pe &pe, i64 q, i32 node, i64 start, i64 end) {
        if (!spans_ || pe.id >= in_.span_pes || out_.n_spans >= in_.max_spans || skipped_waves_) return;
        Engine &engine = pe.engines[in_.unit[node]];
        start = std::max(start, engine.span_end_fs);
        end = std::max(end, start);
        engine.span_end_fs = end;
        spans_[out_.n_spans++] = {pe.id, node, program_of(pe, q), start, end};
    }

    // --- shared memory ---

    void serve(const Request &request) {
        Pe &pe = pes_[request.pe];
        const MtiaAccess &acc = in_.accesses[in_.access[request.node]];
        i64 program = program_of(pe, request.q);
        i64 bytes = pick(acc.bytes, acc.bytes_step, program);
        i64 base = pick(acc.base, acc.base_step, program);
        i64 end = pick(acc.end, acc.end_step, program);
        i64 runs = std::max<i64>(1, pick(acc.runs, acc.runs_step, program));
        i64 run_bytes = std::max<i64>(1, acc.run_bytes ? std::min(acc.run_bytes, bytes) : bytes / runs);
        Parts &parts = pe.parts[at(request.q, request.node)];
        i64 done = acc.write ? write(pe, acc, request.t, base, end, bytes, run_bytes, parts)
                             : read(pe, acc, request.t, base, end, bytes, run_bytes, parts);
        record(pe, request.q, request.node, request.t, done);
        resolve(pe, request.q, request.node, done);
        cache_.compact();
    }

    static i64 with_granule(i64 bytes, i64 run_bytes, i64 granule) {
        if (run_bytes >= granule) return bytes;
        return (i64)((double)bytes * (double)granule / (double)run_bytes);
    }

    // What a read costs DRAM: whole granules, and a gap for every run that misses.
    i64 fetched_bytes(const MtiaAccess &acc, i64 miss_bytes, i64 run_bytes) const {
        i64 bytes = with_granule(miss_bytes, run_bytes, dram_granule(acc));
        if (acc.indexed) return bytes;
        return bytes + (i64)(in_.dram_gap_bytes * (double)miss_bytes / (double)run_bytes);
    }

    i64 dram_granule(const MtiaAccess &acc) const { return acc.indexed ? in_.dram_page_bytes : in_.sram_line_bytes; }

    Lookup look_up(const MtiaAccess &acc, i64 base, i64 end, i64 bytes) {
        if (acc.indexed) return cache_.touch_indexed(base, end, bytes, acc.unique_frac, acc.write);
        if (acc.once) return cache_.touch_once(base, end, bytes, acc.write);
        return cache_.touch(base, end, bytes, acc.write);
    }

    void write_back(i64 t, i64 bytes) {
        if (bytes <= 0) return;
        dram_.serve(t, bytes, in_.dram_write_fs_per_byte);
        counters_.dram_write += bytes;
    }

    double port_rate(i64 round_trip_fs) const {
        return std::max(in_.port_fs_per_byte, (double)round_trip_fs / (double)in_.max_outstanding_bytes);
    }

    i64 read(Pe &pe, const MtiaAccess &acc, i64 t, i64 base, i64 end, i64 bytes, i64 run_bytes, Parts &parts) {
        Lookup found = look_up(acc, base, end, bytes);
        i64 arrival = t + in_.noc_latency_fs;
        write_back(arrival, found.evicted_dirty_bytes);
        i64 fixed = 2 * in_.noc_latency_fs + in_.sram_latency_fs;
        int why = P_SRAM;
        i64 ready;
        Leader *leader = found.block && in_.multicast ? find_leader(*found.block, pe, t, false) : nullptr;
        if (leader) {
            ready = std::max(leader->until_fs, t + fixed);
            counters_.merged += bytes;
        } else {
            i64 served = sram_.serve(arrival, with_granule(bytes, run_bytes, in_.sram_line_bytes));
            counters_.sram += bytes;
            ready = served + in_.sram_latency_fs;
            if (found.miss_bytes > 0) {
                i64 out = dram_.serve(arrival + in_.sram_latency_fs, fetched_bytes(acc, found.miss_bytes, run_bytes)) +
                          in_.dram_latency_fs;
                counters_.dram_read += with_granule(found.miss_bytes, run_bytes, dram_granule(acc));
                fixed += in_.dram_latency_fs;
                if (out > ready) {
                    ready = out;
                    why = P_DRAM;
                }
            } else if (found.block && found.block->ready_fs > ready) {
                ready = found.block->ready_fs;
                why = P_DRAM;
            }
            ready = std::max(ready, cross_dies(arrival, bytes));
            if (found.block && found.miss_bytes > 0) found.block->ready_fs = ready;
            ready += in_.noc_latency_fs;
            if (found.block && in_.multicast) add_leader(*found.block, pe, ready, false);
        }
        counters_.hit += found.hit_bytes;
        counters_.noc += bytes;
        double rate = port_rate(fixed);
        double transfer = (double)bytes * rate;
        counters_.port += (double)bytes * in_.port_fs_per_byte;
        i64 through = std::max(pe.port_in_fs, t + fixed) + (i64)std::llround(transfer);
        pe.port_in_fs = through;
        i64 done = std::max(ready, through);
        split(parts, t, done, fixed, done > ready ? (rate > in_.port_fs_per_byte ? P_LATENCY : P_NOC) : why);
        return done;
    }

    i64 write(Pe &pe, const MtiaAccess &acc, i64 t, i64 base, i64 end, i64 bytes, i64 run_bytes, Parts &parts) {
        Lookup found = look_up(acc, base, end, bytes);
        bool may_join = acc.atomic && found.block && in_.reduction_fs_per_byte > 0;
        Leader *leader = may_join ? find_leader(*found.block, pe, t, true) : nullptr;
        if (leader) return add_to(*leader, pe, t, bytes, parts);
        i64 arrival = t + in_.noc_latency_fs;
        i64 fixed = in_.noc_latency_fs + in_.sram_latency_fs + (acc.atomic ? in_.noc_latency_fs : 0);
        int why = P_SRAM;
        i64 moved = with_granule(bytes, run_bytes, in_.sram_line_bytes) * (acc.atomic ? 2 : 1);
        i64 ready = sram_.serve(arrival, moved);
        counters_.sram += bytes * (acc.atomic ? 2 : 1);
        if (acc.atomic && found.miss_bytes > 0) {
            i64 fetched = with_granule(found.miss_bytes, run_bytes, dram_granule(acc));
            i64 out = dram_.serve(arrival, fetched) + in_.dram_latency_fs;
            counters_.dram_read += fetched;
            fixed += in_.dram_latency_fs;
            if (out > ready) {
                ready = out;
                why = P_DRAM;
            }
        }
        if (found.evicted_dirty_bytes > 0) {
            write_back(arrival, found.evicted_dirty_bytes);
            if (dram_.free_fs > ready) {
                ready = dram_.free_fs;
                why = P_DRAM;
            }
        }
        ready = std::max(ready, cross_dies(arrival, bytes)) + (fixed - in_.noc_latency_fs);
        counters_.hit += found.hit_bytes;
        counters_.noc += bytes;
        double rate = port_rate(fixed);
        counters_.port += (double)bytes * in_.port_fs_per_byte;
        i64 through = std::max(pe.port_out_fs, t) + (i64)std::llround((double)bytes * rate);
        pe.port_out_fs = through;
        through += fixed;
        i64 done = std::max(ready, through);
        if (may_join) add_leader(*found.block, pe, done, true);
        split(parts, t, done, fixed, done > ready ? (rate > in_.port_fs_per_byte ? P_LATENCY : P_NOC) : why);
        return done;
    }

    // A partial sum that meets another PE's update of the same block on the reduction network: no SRAM access of its own.
    i64 add_to(const Leader &leader, Pe &pe, i64 t, i64 bytes, Parts &parts) {
        counters_.merged += bytes;
        counters_.noc += bytes;
        counters_.port += (double)bytes * in_.reduction_fs_per_byte;
        i64 through = std::max(pe.port_out_fs, t) + (i64)std::llround((double)bytes * in_.reduction_fs_per_byte);
        pe.port_out_fs = through;
        i64 done = std::max(leader.until_fs, through + in_.noc_latency_fs);
        split(parts, t, done, std::min(in_.noc_latency_fs, done - t), P_NOC);
        return done;
    }

    i64 cross_dies(i64 arrival, i64 bytes) {
        if (d2d_.fs_per_byte <= 0) return 0;
        return d2d_.serve(arrival, bytes);
    }

    static void split(Parts &parts, i64 t, i64 done, i64 fixed, int rest) {
        i64 latency = std::min(fixed, done - t);
        parts.fs[P_LATENCY] += latency;
        parts.fs[rest] += done - t - latency;
    }

    // A read (or update) of this block that is still under way for a PE of the same row or column.
    Leader *find_leader(Block &block, const Pe &pe, i64 t, bool update) {
        for (int i = 0; i < block.n_leaders; ++i) {
            Leader &leader = block.leaders[i];
            if (leader.update == update && t <= leader.until_fs + in_.noc_latency_fs && share(leader, pe)) return &leader;
        }
        return nullptr;
    }

    bool share(const Leader &leader, const Pe &pe) const {
        if (leader.update || in_.multicast <= 1) return leader.row == pe.row || leader.col == pe.col;
        return (leader.row * in_.cols + leader.col) / in_.multicast == pe.id / in_.multicast;
    }

    void add_leader(Block &block, const Pe &pe, i64 until, bool update) {
        if (!block.leaders) block.leaders = std::make_unique<Leader[]>(MAX_LEADERS);
        block.leaders[block.next_leader] = {pe.row, pe.col, until, update};
        block.next_leader = (block.next_leader + 1) % MAX_LEADERS;
        block.n_leaders = std::min(block.n_leaders + 1, MAX_LEADERS);
    }

    // --- steady state ---
    // When three groups of waves in a row took the same time (within `tolerance_frac`) and the coming waves are alike,
    // whole groups are skipped: every time stamp moves by the measured period, every counter by its measured gain.

    struct Mark {
        i64 wave, t;
        Parts parts;
        Counters counters;
    };

    void try_skip() {
        wave_seen_ = wave_done_;
        i64 group = std::max<i64>(8, ring_);
        i64 next = marks_.empty() ? group : marks_.back().wave + group;
        if (wave_done_ < next) return;
        note_counters();
        marks_.push_back({wave_done_, wave_fs_[wave_done_ - 1], wave_parts_[wave_done_ - 1], counters_});
        if (marks_.size() < 4) return;
        i64 lowest = n_waves_, highest = 0;
        for (const Pe &pe : pes_) {
            highest = std::max(highest, pe.core_q);
            lowest = std::min(lowest, oldest(pe));
        }
        if (highest >= n_waves_) return;
        size_t third;
        if (!is_steady(highest, third)) return;
        const Mark &first = marks_[marks_.size() - 1 - 3 * third], &last = marks_.back();
        double waves = (double)(last.wave - first.wave);
        i64 inserted = (i64)((double)(last.counters.inserted - first.counters.inserted) / waves);
        i64 room = in_.run_end[lowest] - highest - group;
        if (inserted > 0) room = std::min(room, cache_.regime_bytes(inserted, skip_dirty_frac(last.wave)) / inserted - 1);
        i64 skipped = room / ring_ * ring_;
        if (skipped < group) return;
        skip(skipped, first, last, waves);
        marks_.clear();
        marks_.push_back({wave_done_, wave_fs_[wave_done_ - 1], wave_parts_[wave_done_ - 1], counters_});
    }

    // The last 3 * third groups of waves agree; jitter of single groups averages out over longer thirds.
    bool is_steady(i64 highest, size_t &third) const {
        size_t n = marks_.size() - 1;
        for (third = 1; third <= 8 && 3 * third <= n; third *= 2) {
            if (in_.run_end[marks_[n - 3 * third].wave] < highest) return false;
            double a = period(n - 2 * third, third), b = period(n - third, third), c = period(n, third);
            double spread = std::max({a, b, c}) - std::min({a, b, c});
            if (spread <= in_.tolerance_frac * (a + b + c) / 3 * (third > 1 ? 2 : 1)) return true;
        }
        return false;
    }

    double period(size_t i, size_t width) const {
        return (double)(marks_[i].t - marks_[i - width].t) / (double)(marks_[i].wave - marks_[i - width].wave);
    }

    i64 oldest(const Pe &pe) const {
        i64 q = pe.core_q;
        for (int u = 1; u < N_UNITS; ++u)
            if (!lists_[u].empty()) q = std::min(q, pe.engines[u].q);
        while (q > 0 && q > pe.core_q - ring_ && pe.unresolved[(q - 1) & (ring_ - 1)] > 0) --q;
        return std::min(q, n_waves_ - 1);
    }

    void note_counters() {
        counters_.sram_busy = sram_.busy_fs;
        counters_.dram_busy = dram_.busy_fs;
        counters_.noc_busy = d2d_.busy_fs;
        counters_.inserted = cache_.inserted();
    }

    void skip(i64 waves, const Mark &first, const Mark &last, double measured) {
        double scale = (double)waves / measured;
        auto grown = [&](i64 now, i64 before) { return (i64)std::llround((double)(now - before) * scale); };
        Parts delta{};
        i64 shift = 0;
        for (int p = 0; p < N_PARTS; ++p) {
            delta.fs[p] = grown(last.parts.fs[p], first.parts.fs[p]);
            shift += delta.fs[p];
        }
        grow_counters(first.counters, last.counters, scale);
        i64 inserted = grown(last.counters.inserted, first.counters.inserted);
        double dirty_frac = skip_dirty_frac(last.wave);
        cache_.skip(inserted, (i64)((double)inserted * dirty_frac));
        for (Pe &pe : pes_) shift_pe(pe, waves, shift, delta);
        shift_heap(waves, shift);
        for (Server *server : {&sram_, &dram_, &d2d_}) server->free_fs += shift;
        shift_waves(waves, shift, delta);
        skipped_waves_ += waves;
    }

    void grow_counters(const Counters &a, const Counters &b, double scale) {
        auto add = [&](i64 Counters::*f) { counters_.*f += (i64)std::llround((double)(b.*f - a.*f) * scale); };
        for (auto f : {&Counters::sram, &Counters::dram_read, &Counters::dram_write, &Counters::noc, &Counters::hit,
                       &Counters::merged})
            add(f);
        counters_.port += (b.port - a.port) * scale;
        sram_.busy_fs += (i64)std::llround((double)(b.sram_busy - a.sram_busy) * scale);
        dram_.busy_fs += (i64)std::llround((double)(b.dram_busy - a.dram_busy) * scale);
        d2d_.busy_fs += (i64)std::llround((double)(b.noc_busy - a.noc_busy) * scale);
    }

    // Share of the bytes that a wave inserts which it wrote.
    double skip_dirty_frac(i64 wave) const {
        double written = 0, all = 0;
        i64 program = std::min(wave * n_pes_, in_.n_programs - 1);
        for (int i = 0; i < n_nodes_; ++i) {
            if (in_.access[i] < 0 || !is_active(i, program)) continue;
            const MtiaAccess &acc = in_.accesses[in_.access[i]];
            if (!acc.base_step) continue;  // the same block each time: nothing new
            double bytes = (double)pick(acc.bytes, acc.bytes_step, program);
            all += bytes;
            if (acc.write) written += bytes;
        }
        return all > 0 ? written / all : 0;
    }

    static void shift_parts(Parts &parts, const Parts &delta) {
        for (int p = 0; p < N_PARTS; ++p) parts.fs[p] += delta.fs[p];
    }

    void shift_pe(Pe &pe, i64 waves, i64 shift, const Parts &delta) {
        for (size_t s = 0; s < (size_t)ring_ * n_nodes_; ++s) {
            if (pe.done[s] >= 0) pe.done[s] += shift;
            if (pe.issued[s] >= 0) pe.issued[s] += shift;
            if (pe.done[s] != UNRESOLVED || pe.issued[s] >= 0) shift_parts(pe.parts[s], delta);
        }
        pe.core_q += waves;
        pe.core_free_fs += shift;
        shift_parts(pe.core_parts, delta);
        for (Engine &engine : pe.engines) {
            engine.q += waves;
            engine.free_fs += shift;
            shift_parts(engine.parts, delta);
        }
        pe.port_in_fs += shift;
        pe.port_out_fs += shift;
        pe.end_fs += shift;
        shift_parts(pe.end_parts, delta);
        for (i64 &t : pe.program_end_fs) t += shift;
        for (Parts &parts : pe.program_end_parts) shift_parts(parts, delta);
    }

    void shift_heap(i64 waves, i64 shift) {
        std::vector<Request> all;
        for (; !heap_.empty(); heap_.pop()) all.push_back(heap_.top());
        for (Request &request : all) {
            request.t += shift;
            request.q += waves;
            heap_.push(request);
        }
    }

    void shift_waves(i64 waves, i64 shift, const Parts &delta) {
        for (i64 w = n_waves_ - 1 - waves; w >= wave_done_ - 1; --w) {
            wave_count_[w + waves] = wave_count_[w];
            wave_fs_[w + waves] = wave_fs_[w] > 0 ? wave_fs_[w] + shift : 0;
            wave_parts_[w + waves] = wave_parts_[w];
            if (wave_fs_[w] > 0) shift_parts(wave_parts_[w + waves], delta);
        }
        wave_done_ += waves;
        wave_seen_ = wave_done_;
    }

    void finish() {
        note_counters();
        const Pe *last = &pes_[0];
        for (const Pe &pe : pes_)
            if (pe.end_fs > last->end_fs) last = &pe;
        out_.makespan_fs = last->end_fs;
        out_.last_pe = last->id;
        out_.stuck_pe = -1;
        for (const Pe &pe : pes_) {
            if (pe.core_q == pe.n_programs && std::all_of(pe.unresolved.begin(), pe.unresolved.end(), [](i32 n) { return n == 0; }))
                continue;
            out_.stuck_pe = pe.id;
            out_.stuck_node = pe.core_k;
        }
        for (int p = 0; p < N_PARTS; ++p) out_.parts_fs[p] = last->end_parts.fs[p];
        out_.sram_bytes = counters_.sram;
        out_.dram_read_bytes = counters_.dram_read;
        out_.dram_write_bytes = counters_.dram_write;
        out_.noc_bytes = counters_.noc;
        out_.hit_bytes = counters_.hit;
        out_.merged_bytes = counters_.merged;
        out_.sram_busy_fs = sram_.busy_fs;
        out_.dram_busy_fs = dram_.busy_fs;
        out_.noc_busy_fs = d2d_.busy_fs;
        out_.port_busy_fs = counters_.port;
        out_.n_skipped_waves = skipped_waves_;
        out_.n_simulated_waves = n_waves_ - skipped_waves_;
    }

    const MtiaLaunch &in_;
    MtiaResult &out_;
    MtiaSpan *spans_;
    Cache cache_;
    Server sram_, dram_, d2d_;
    int n_pes_, n_nodes_, ring_;
    std::vector<i32> lists_[N_UNITS];
    std::vector<Pe> pes_;
    std::unique_ptr<i64[], Free> stamps_;
    std::unique_ptr<Parts[], Free> parts_;
    std::priority_queue<Request, std::vector<Request>, Later> heap_;
    i64 seq_ = 0;
    i64 n_waves_, wave_done_ = 0, wave_seen_ = 0, skipped_waves_ = 0;
    std::vector<i64> wave_count_, wave_fs_;
    std::vector<Parts> wave_parts_;
    std::vector<Mark> marks_;
    Counters counters_{};
};

}  // namespace

// Times one launch. `spans` has room for `launch->max_spans`. Returns 0.
extern "C" __attribute__((visibility("default"))) int mtia_time_launch(const MtiaLaunch *launch, MtiaResult *result,
                                                                       MtiaSpan *spans) {
    std::memset(result, 0, sizeof *result);
    Simulation(*launch, *result, spans).run();
    return 0;
}
