// Device memory: one reserved, lazily created range of host addresses per device ("arena").
//
// A device pointer is a host address inside its device's arena. The range is reserved without being committed, so a
// chip with 288 GB costs nothing until pages are touched. Allocation is deterministic: best fit, lowest address first.
// Knows nothing of torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mtia {

constexpr size_t kAlignment = 512;                    // bytes; every allocation starts on and fills such granules
constexpr size_t kTrimBytes = size_t{256} << 20;      // freed bytes after which pages go back to the host
constexpr int kMaxDevices = 72;                       // one scale-up domain

struct MemoryStats {
  int64_t allocated_bytes = 0;      // in live blocks, rounded to kAlignment
  int64_t requested_bytes = 0;      // as asked for
  int64_t peak_bytes = 0;
  int64_t peak_requested_bytes = 0;
  int64_t total_allocated_bytes = 0;    // ever
  int64_t total_freed_bytes = 0;
  int64_t n_allocations = 0;        // live
  int64_t peak_allocations = 0;
  int64_t total_allocations = 0;
  int64_t total_frees = 0;
  int64_t n_out_of_memory = 0;
  int64_t capacity_bytes = 0;
};

// Why an allocation was refused; the caller words the error.
struct OutOfMemory {
  size_t requested_bytes;
  size_t free_bytes;
  size_t largest_free_bytes;
  size_t capacity_bytes;
  size_t allocated_bytes;
};

struct AllocationSpan {
  uintptr_t start;
  size_t requested_bytes;
};

// One allocation or free, kept while history is on (`torch.mtia.record_memory_history`).
struct MemoryEvent {
  bool is_alloc;
  uintptr_t address;
  size_t bytes;
};

class Arena {
 public:
  // Reserves at least `capacity_bytes` of address space; throws std::runtime_error where the host refuses.
  Arena(int device_index, size_t capacity_bytes);

  // Address of a new block, or the reason for having none.
  std::optional<void*> allocate(size_t requested_bytes, OutOfMemory* refused);
  void free(void* address);

  // Allocations made while `pool` != 0 belong to that pool: freeing them keeps their space for the pool's own use until
  // release_pool (a captured graph replays into the same addresses).
  void set_pool(uint64_t pool);
  void release_pool(uint64_t pool);

  // Changes how much of the reserved space may be used. Throws std::length_error when live blocks need more;
  // a live block beyond the new capacity stays where it is.
  void set_capacity(size_t capacity_bytes);

  std::optional<AllocationSpan> allocation_of(uintptr_t address) const;
  std::vector<AllocationSpan> allocations() const;
  void trim();                       // gives pages of all free space back to the host
  MemoryStats stats() const;
  void reset_peak();
  void reset_accumulated();
  uintptr_t base() const { return base_; }
  size_t capacity() const { return capacity_; }
  size_t reserved() const { return reserved_; }

  void record_history(bool on, size_t max_entries);
  std::vector<MemoryEvent> history() const;

  // Freed blocks wait until this many bytes were freed after them, so that a stale pointer finds nobody else's data;
  // they are handed out earlier only where nothing else is left. 0: none wait.
  void set_quarantine(size_t bytes);

  // A byte per byte of memory, 1 once somebody wrote it since its block was allocated (the sanitizer's).
  uint8_t* written_map();                                 // made on first use
  void mark_written(uintptr_t address, size_t bytes);     // nothing where there is no map

 private:
  struct Block {
    size_t bytes;
    size_t requested_bytes;
    uint64_t pool;
  };
  using FreeBySize = std::set<std::pair<size_t, size_t>>;      // (bytes, offset)

  void reclaim(size_t offset, size_t bytes);
  void release_quarantine(size_t keep_bytes);
  void forget_written(size_t offset, size_t bytes);
  void insert_free(size_t offset, size_t bytes);
  void erase_free(std::map<size_t, size_t>::iterator it);
  std::optional<size_t> take_from_pool(size_t bytes);
  std::optional<size_t> take_free(size_t bytes);
  void account_alloc(size_t bytes, size_t requested_bytes, size_t offset);
  void account_free(size_t bytes, size_t requested_bytes, size_t offset);
  void trim_locked();
  void note(bool is_alloc, size_t offset, size_t bytes);

  mutable std::mutex mutex_;
  uintptr_t base_ = 0;
  size_t reserved_ = 0;
  size_t capacity_ = 0;
  std::map<size_t, Block> live_;               // by offset
  std::map<size_t, size_t> free_by_offset_;    // offset -> bytes
  FreeBySize free_by_size_;
  std::map<uint64_t, FreeBySize> pool_free_;   // freed blocks a pool holds on to
  uint64_t current_pool_ = 0;
  std::deque<std::pair<size_t, size_t>> quarantine_;      // (offset, bytes), oldest first
  size_t quarantine_bytes_ = 0;
  size_t quarantine_limit_ = 0;
  uint8_t* written_ = nullptr;
  size_t freed_since_trim_ = 0;
  MemoryStats stats_;
  bool history_on_ = false;
  size_t history_limit_ = 0;
  std::vector<MemoryEvent> history_;
};

// The arena of a device, created on first use with the capacity set by set_capacity.
Arena& arena(int device_index);
bool arena_exists(int device_index);
void set_capacity(int device_index, size_t capacity_bytes);
size_t capacity(int device_index);
// Device whose reserved range holds the address, or -1.
int device_of(uintptr_t address);

}  // namespace mtia
