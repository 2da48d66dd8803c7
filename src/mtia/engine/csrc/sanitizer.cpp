// What the sanitizer knows of one launch: which program instances touched which byte, which of them atomics put in
// order, and which bytes of device memory were ever written. Plain C ABI (ctypes); the Python side is
// engine/functional/sanitized.py.
//
// Two accesses of one byte by two instances, one of them changing it and not both of them atomics, are a race unless the
// earlier one happened before the later one: the earlier instance released an address (an atomic on it) after its
// access, and the later one had acquired (an atomic on it) that address, or one that somebody who had acquired it
// released, before its own.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace {

enum Kind : int { kLoad = 0, kStore = 1, kAtomic = 2, kLook = 3 };      // a look: an atomic that changes nothing
enum Order : int { kAcquires = 1, kReleases = 2 };
enum Finding : int64_t { kClean = 0, kOutOfBounds = 1, kMisaligned = 2, kUninitialized = 3, kRace = 4 };

constexpr int32_t kNobody = -1;

struct Touch {
    int32_t instance = kNobody;
    int32_t epoch = 0;      // atomics the instance had done before
    int32_t command = -1;
};

// Which accesses happened before which, by the atomics so far. An instance's atomics are counted (its epoch).
class History {
public:
    explicit History(int64_t n_instances) : of_(static_cast<size_t>(n_instances)) {}

    int32_t epoch(int64_t instance) const { return static_cast<int32_t>(of_[instance].size()); }

    void begin(int64_t instance, int order) {
        of_[instance].push_back(static_cast<int32_t>(events_.size()));
        events_.push_back({static_cast<int32_t>(instance), order, addresses_.size(), addresses_.size()});
    }
    void on(uint64_t address) { addresses_.push_back(address), events_.back().end = addresses_.size(); }
    void released(int64_t instance) {
        events_[of_[instance].back()].order |= kReleases;
        reaches_.clear();      // they may have passed it
    }

    bool ordered(const Touch& earlier, int64_t instance) {
        if (earlier.instance == instance) return true;
        const auto& theirs = of_[earlier.instance];
        const auto& mine = of_[instance];
        if (theirs.size() <= static_cast<size_t>(earlier.epoch)) return false;
        const int32_t from = theirs[earlier.epoch];
        if (mine.empty() || mine.back() < from) return false;
        return handed_over(events_[from], events_[mine.back()]) || reaches(from, static_cast<int32_t>(instance));
    }

private:
    struct Event {
        int32_t instance;
        int order;
        size_t begin, end;      // its addresses
    };

    struct Reach {      // whom an event has reached, of the events before `next`
        size_t next;
        std::unordered_set<int32_t> instances;
        std::unordered_set<uint64_t> addresses;
    };

    // The usual case, without a walk: the release and the acquire are on one and the same address.
    bool handed_over(const Event& release, const Event& acquire) const {
        return (release.order & kReleases) && (acquire.order & kAcquires) && release.end - release.begin == 1 &&
               acquire.end - acquire.begin == 1 && addresses_[release.begin] == addresses_[acquire.begin];
    }

    bool reaches(int32_t from, int32_t instance) {
        if (reaches_.size() >= kMostReaches && reaches_.count(from) == 0) reaches_.clear();
        Reach& reach = reaches_.try_emplace(from, Reach{static_cast<size_t>(from), {events_[from].instance}, {}})
                           .first->second;
        for (; reach.next < events_.size(); ++reach.next) {
            const Event& event = events_[reach.next];
            const auto first = addresses_.begin() + event.begin, last = addresses_.begin() + event.end;
            if ((event.order & kAcquires) && reach.instances.count(event.instance) == 0 &&
                std::any_of(first, last, [&](uint64_t a) { return reach.addresses.count(a) != 0; }))
                reach.instances.insert(event.instance);
            if ((event.order & kReleases) && reach.instances.count(event.instance) != 0)
                reach.addresses.insert(first, last);
        }
        return reach.instances.count(instance) != 0;
    }

    static constexpr size_t kMostReaches = 64;
    std::vector<Event> events_;      // in the order they happened
    std::vector<uint64_t> addresses_;
    std::vector<std::vector<int32_t>> of_;      // by instance: its events
    std::unordered_map<int32_t, Reach> reaches_;
};

// Sets of touches that no one of them is ordered after, shared by all bytes that the same instances touched: lists that
// share their tails. kNobody is the empty one.
class Touches {
public:
    struct Node {
        Touch touch;
        int32_t rest;
        int32_t highest;      // instance of the list
    };

    const Node& operator[](int32_t set) const { return nodes_[set]; }

    // `set` and `now`, less what `covers(touch)`: what is ordered after `now` is ordered after those too.
    template <typename Covers>
    int32_t with(int32_t set, const Touch& now, Covers covers) {
        if (set == kNobody) return add(kNobody, now);
        const Key key{set, now.instance, now.epoch, now.command};
        if (auto found = memo_.find(key); found != memo_.end()) return found->second;
        int32_t rest = set;
        while (rest != kNobody && covers(nodes_[rest].touch)) rest = nodes_[rest].rest;
        const int32_t result = add(without(rest, now.instance), now);
        memo_.emplace(key, result);
        return result;
    }

private:
    struct Key {
        int32_t rest, instance, epoch, command;
        bool operator==(const Key& o) const {
            return rest == o.rest && instance == o.instance && epoch == o.epoch && command == o.command;
        }
    };
    struct Hash {
        size_t operator()(const Key& k) const {
            uint64_t h = 0;
            for (int32_t part : {k.rest, k.instance, k.epoch, k.command})
                h = (h ^ static_cast<uint32_t>(part)) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
            return h;
        }
    };

    int32_t add(int32_t rest, const Touch& t) {
        const auto [at, is_new] =
            interned_.try_emplace(Key{rest, t.instance, t.epoch, t.command}, static_cast<int32_t>(nodes_.size()));
        if (is_new) nodes_.push_back({t, rest, rest == kNobody ? t.instance : std::max(t.instance, nodes_[rest].highest)});
        return at->second;
    }

    int32_t without(int32_t set, int32_t instance) {
        std::vector<Touch> above;
        for (int32_t at = set; at != kNobody && nodes_[at].highest >= instance; at = nodes_[at].rest) {
            if (nodes_[at].touch.instance != instance) {
                above.push_back(nodes_[at].touch);
                continue;
            }
            int32_t result = nodes_[at].rest;
            for (auto touch = above.rbegin(); touch != above.rend(); ++touch) result = add(result, *touch);
            return result;
        }
        return set;
    }

    std::vector<Node> nodes_;
    std::unordered_map<Key, int32_t, Hash> interned_, memo_;
};

struct Slot {
    Touch writer;
    int32_t readers = kNobody, atomics = kNobody, looks = kNobody;      // Touches since
};

constexpr int kPageBits = 12;
constexpr uint64_t kPageBytes = uint64_t{1} << kPageBits;
constexpr uint64_t kGranule = 4;      // bytes a slot stands for until something smaller touches its page

struct Page {
    bool fine = false;      // one slot a byte
    std::vector<Slot> slots = std::vector<Slot>(kPageBytes / kGranule);

    void refine() {
        if (fine) return;
        std::vector<Slot> bytes(kPageBytes);
        for (uint64_t i = 0; i < kPageBytes; ++i) bytes[i] = slots[i / kGranule];
        slots.swap(bytes);
        fine = true;
    }
};

struct Region {      // a device's memory and a byte per byte of it: 1 once written
    uint64_t base, bytes;
    uint8_t* written;
};

struct Launch {
    Launch(int64_t n_instances, bool is_ordering)
        : races(n_instances > 1), is_ordering(is_ordering), history(n_instances) {}

    std::vector<Region> regions;
    bool races;
    bool is_ordering;      // some atomic of the program acquires or releases
    History history;
    Touches touches;
    std::unordered_map<int32_t, int> orders;      // of atomic commands
    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
    uint64_t last_page = ~uint64_t{0};
    Page* last = nullptr;

    Page& page_of(uint64_t address) {
        const uint64_t number = address >> kPageBits;
        if (number != last_page) {
            auto& page = pages[number];
            if (!page) page = std::make_unique<Page>();
            last_page = number;
            last = page.get();
        }
        return *last;
    }

    uint8_t* written(uint64_t address) {
        for (const Region& r : regions)
            if (address - r.base < r.bytes) return r.written + (address - r.base);
        return nullptr;
    }

    bool ordered(const Touch& earlier, int64_t instance) {
        return earlier.instance == instance || (is_ordering && history.ordered(earlier, instance));
    }

    // The one of `set` that `instance` races with, or nullptr.
    const Touch* conflict(int32_t set, int64_t instance) {
        for (; set != kNobody; set = touches[set].rest)
            if (!ordered(touches[set].touch, instance)) return &touches[set].touch;
        return nullptr;
    }

    int32_t with_reader(int32_t set, const Touch& now) {
        if (set != kNobody) {
            const Touches::Node& newest = touches[set];
            if (newest.touch.instance == now.instance && newest.touch.epoch == now.epoch) return set;
            if (!is_ordering && newest.rest != kNobody) return set;      // two stand for all where nothing is ordered
        }
        return touches.with(set, now, [&](const Touch& t) { return ordered(t, now.instance); });
    }

    int32_t with_atomic(int32_t set, const Touch& now, int order) {
        if (set != kNobody && !is_ordering && touches[set].rest != kNobody) return set;
        return touches.with(set, now, [&](const Touch& t) {      // one that acquires is ordered after those that released
            return ordered(t, now.instance) || ((order & kAcquires) && (orders[t.command] & kReleases));
        });
    }
};

struct Access {
    Kind kind;
    int elem;
    int32_t command;
    int order;
};

// The earlier touch that this one races with, or nullptr.
const Touch* touch(Launch& launch, Slot& slot, int64_t instance, const Access& a) {
    const Touch now{static_cast<int32_t>(instance), launch.history.epoch(instance), a.command};
    if (slot.writer.instance != kNobody && !launch.ordered(slot.writer, instance)) return &slot.writer;
    if (a.kind == kStore || a.kind == kAtomic)
        if (const Touch* other = launch.conflict(slot.readers, instance)) return other;
    if (a.kind == kStore || a.kind == kLoad)
        if (const Touch* other = launch.conflict(slot.atomics, instance)) return other;
    if (a.kind == kStore)
        if (const Touch* other = launch.conflict(slot.looks, instance)) return other;
    switch (a.kind) {
        case kLoad: slot.readers = launch.with_reader(slot.readers, now); break;
        case kLook: slot.looks = launch.with_reader(slot.looks, now); break;
        case kAtomic: slot.atomics = launch.with_atomic(slot.atomics, now, a.order); break;
        case kStore: slot = Slot{now}; break;      // all others are ordered before it
    }
    return nullptr;
}

const Touch* touch_bytes(Launch& launch, uint64_t address, int64_t instance, const Access& a) {
    const bool whole = address % kGranule == 0 && a.elem % kGranule == 0;
    for (uint64_t at = address; at < address + a.elem;) {
        Page& page = launch.page_of(at);
        if (!whole) page.refine();
        const uint64_t step = page.fine ? 1 : kGranule;
        const uint64_t in_page = at & (kPageBytes - 1);
        if (const Touch* other = touch(launch, page.slots[in_page / step], instance, a)) return other;
        at += step;
    }
    return nullptr;
}

bool all_written(const uint8_t* bytes, int n) {
    for (int i = 0; i < n; ++i)
        if (bytes[i] == 0) return false;
    return true;
}

}  // namespace

extern "C" {

void* mtia_sanitizer_open(int64_t n_regions, const int64_t* bases, const int64_t* bytes, const int64_t* written,
                          int64_t n_instances, int is_ordering) {
    auto* launch = new Launch(n_instances, is_ordering != 0);
    for (int64_t i = 0; i < n_regions; ++i)
        launch->regions.push_back({static_cast<uint64_t>(bases[i]), static_cast<uint64_t>(bytes[i]),
                                   reinterpret_cast<uint8_t*>(written[i])});
    return launch;
}

void mtia_sanitizer_close(void* launch) { delete static_cast<Launch*>(launch); }

// Addresses [rows, per_row] (rows 1: the same for all of the `n_programs` instances from `first` on) with a mask of the
// same shape (or null). Checks [lo, hi), element alignment, written bytes (`check_written`) and races, and notes what
// was touched. Returns a Finding; out = {program, element, address, other instance, other command}.
// `order`: what an atomic does (Order), 0 for others and for relaxed ones.
// `unwritten` (as the mask, or null) follows data that is moved and not computed with: a load marks its elements that
// nobody wrote and goes on, a store leaves those as unwritten as they were.
int64_t mtia_sanitizer_access(void* handle, int kind, const int64_t* address, const uint8_t* mask, int64_t rows,
                              int64_t n_programs, int64_t per_row, int elem, int64_t first, int64_t lo, int64_t hi,
                              int check_written, int32_t command, int order, uint8_t* unwritten, int64_t* out) {
    Launch& launch = *static_cast<Launch*>(handle);
    const Access access{static_cast<Kind>(kind), elem, command, order};
    if (kind == kAtomic) launch.orders[command] = order;
    const bool shared = rows == 1;
    // a load that is the same for all: two readers stand for all of them
    const bool two_will_do = shared && kind == kLoad && !(launch.races && launch.is_ordering);
    const int64_t walked = two_will_do ? std::min<int64_t>(n_programs, 2) : n_programs;
    for (int64_t p = 0; p < walked; ++p) {
        const int64_t* row = address + (shared ? 0 : p * per_row);
        uint8_t* moved = unwritten == nullptr ? nullptr : unwritten + (shared ? 0 : p * per_row);
        const uint8_t* keep = mask == nullptr ? nullptr : mask + (shared ? 0 : p * per_row);
        for (int64_t i = 0; i < per_row; ++i) {
            if (keep != nullptr && !keep[i]) continue;
            const int64_t at = row[i];
            out[0] = p, out[1] = i, out[2] = at;
            if (at < lo || at + elem > hi) return kOutOfBounds;
            if (at % elem != 0) return kMisaligned;
            uint8_t* written = launch.written(static_cast<uint64_t>(at));
            if (written != nullptr) {
                if (kind != kStore && check_written && !all_written(written, elem)) {
                    if (moved == nullptr) return kUninitialized;
                    moved[i] = 1;
                }
                const int known = kind == kStore && moved != nullptr && moved[i] ? 0 : 1;
                if (kind == kStore || kind == kAtomic) std::memset(written, known, static_cast<size_t>(elem));
            }
            if (!launch.races) continue;
            if (const Touch* other = touch_bytes(launch, static_cast<uint64_t>(at), first + p, access)) {
                out[3] = other->instance, out[4] = other->command;
                return kRace;
            }
        }
        if (launch.races && order != 0) {
            launch.history.begin(first + p, order);
            for (int64_t i = 0; i < per_row; ++i)
                if (keep == nullptr || keep[i]) launch.history.on(static_cast<uint64_t>(row[i]));
        }
    }
    return kClean;
}

// Which of the `n_programs` instances from `first` on exchanged something in the compare-and-exchange they did last: it
// releases, where one that failed only acquired.
void mtia_sanitizer_exchanged(void* handle, int64_t first, int64_t n_programs, const uint8_t* exchanged) {
    Launch& launch = *static_cast<Launch*>(handle);
    for (int64_t p = 0; p < n_programs; ++p)
        if (launch.races && exchanged[p]) launch.history.released(first + p);
}

}  // extern "C"
