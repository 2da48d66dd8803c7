// What the sanitizer knows of one launch: which program instance touched which byte last, and which bytes of device
// memory were ever written. Plain C ABI (ctypes); the Python side is engine/functional/sanitized.py.
//
// Two accesses of one byte by two instances, one of them a plain write, are a race unless an atomic lies between: the
// earlier instance did an atomic after its access, and the later one did a later atomic before its own.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

namespace {

enum Kind : int { kLoad = 0, kStore = 1, kAtomic = 2 };
enum Finding : int64_t { kClean = 0, kOutOfBounds = 1, kMisaligned = 2, kUninitialized = 3, kRace = 4 };

struct Touch {
    int32_t instance = -1;
    int32_t epoch = 0;      // atomics the instance had done before
    int32_t command = -1;
};

struct Slot {
    Touch writer, first_reader, last_reader, atomic;
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
    std::vector<Region> regions;
    bool races = false;
    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
    std::vector<std::vector<int64_t>> atomics;      // by instance: when it did its atomics
    int64_t now = 0;
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

    int32_t epoch(int64_t instance) const { return static_cast<int32_t>(atomics[instance].size()); }

    bool conflicts(const Touch& earlier, int64_t instance) const {
        if (earlier.instance < 0 || earlier.instance == instance) return false;
        const auto& theirs = atomics[earlier.instance];
        const auto& mine = atomics[instance];
        const bool released = theirs.size() > static_cast<size_t>(earlier.epoch);
        return !(released && !mine.empty() && mine.back() > theirs[earlier.epoch]);
    }
};

struct Access {
    Kind kind;
    int elem;
    int32_t command;
};

// The earlier touch that this one races with, or nullptr.
const Touch* touch(Launch& launch, Slot& slot, int64_t instance, const Access& a) {
    const Touch now{static_cast<int32_t>(instance), launch.epoch(instance), a.command};
    if (launch.conflicts(slot.writer, instance)) return &slot.writer;
    if (a.kind == kStore) {
        for (const Touch* t : {&slot.first_reader, &slot.last_reader, &slot.atomic})
            if (launch.conflicts(*t, instance)) return t;
        slot.writer = now;
    } else if (a.kind == kAtomic) {
        slot.atomic = now;
    } else if (slot.first_reader.instance < 0 || slot.first_reader.instance == instance) {
        slot.first_reader = now;
    } else {
        slot.last_reader = now;
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
                          int64_t n_instances) {
    auto* launch = new Launch();
    for (int64_t i = 0; i < n_regions; ++i)
        launch->regions.push_back({static_cast<uint64_t>(bases[i]), static_cast<uint64_t>(bytes[i]),
                                   reinterpret_cast<uint8_t*>(written[i])});
    launch->races = n_instances > 1;
    launch->atomics.resize(static_cast<size_t>(n_instances));
    return launch;
}

void mtia_sanitizer_close(void* launch) { delete static_cast<Launch*>(launch); }

// Addresses [rows, per_row] (rows 1: the same for all of the `n_programs` instances from `first` on) with a mask of the
// same shape (or null). Checks [lo, hi), element alignment, written bytes (`check_written`) and races, and notes what
// was touched. Returns a Finding; out = {program, element, address, other instance, other command}.
// `unwritten` (as the mask, or null) follows data that is moved and not computed with: a load marks its elements that
// nobody wrote and goes on, a store leaves those as unwritten as they were.
int64_t mtia_sanitizer_access(void* handle, int kind, const int64_t* address, const uint8_t* mask, int64_t rows,
                              int64_t n_programs, int64_t per_row, int elem, int64_t first, int64_t lo, int64_t hi,
                              int check_written, int32_t command, uint8_t* unwritten,
                              int64_t* out) {
    Launch& launch = *static_cast<Launch*>(handle);
    const Access access{static_cast<Kind>(kind), elem, command};
    const bool shared = rows == 1;
    // a load that is the same for all: two readers stand for all of them
    const int64_t walked = shared && kind == kLoad ? std::min<int64_t>(n_programs, 2) : n_programs;
    for (int64_t p = 0; p < walked; ++p) {
        const int64_t* row = address + (shared ? 0 : p * per_row);
        uint8_t* moved = unwritten == nullptr ? nullptr : unwritten + (shared ? 0 : p * per_row);
        const uint8_t* keep = mask == nullptr ? nullptr : mask + (shared ? 0 : p * per_row);
        bool any = false;
        for (int64_t i = 0; i < per_row; ++i) {
            if (keep != nullptr && !keep[i]) continue;
            any = true;
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
                if (kind != kLoad) std::memset(written, known, static_cast<size_t>(elem));
            }
            if (!launch.races) continue;
            if (const Touch* other = touch_bytes(launch, static_cast<uint64_t>(at), first + p, access)) {
                out[3] = other->instance, out[4] = other->command;
                return kRace;
            }
        }
        if (kind == kAtomic && any && launch.races) launch.atomics[first + p].push_back(++launch.now);
    }
    return kClean;
}

}  // extern "C"
