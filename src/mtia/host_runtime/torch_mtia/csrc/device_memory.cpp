#include "device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>

namespace mtia {

namespace {

constexpr size_t kReserveBytes = size_t{1} << 40;     // 1 TiB of addresses a device, more than any chip has
constexpr uintptr_t kFirstAddress = uintptr_t{1} << 43;
constexpr size_t kDefaultCapacity = size_t{16} << 30; // until the runtime sets the chip's

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// The same addresses in every run, where the host has them free: timing depends on addresses (banks, pages).
void* reserve(int device_index, size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* wanted = reinterpret_cast<void*>(kFirstAddress + kReserveBytes * static_cast<uintptr_t>(device_index));
#ifdef MAP_FIXED_NOREPLACE
  void* got = mmap(wanted, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == wanted) return got;
  if (got != MAP_FAILED) munmap(got, bytes);
#endif
  return mmap(wanted, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
}

}  // namespace

Arena::Arena(int device_index, size_t capacity_bytes) : capacity_(capacity_bytes) {
  reserved_ = std::max(capacity_bytes, kReserveBytes);
  void* start = reserve(device_index, reserved_);
  if (start == MAP_FAILED) {
    reserved_ = capacity_bytes;
    start = reserve(device_index, reserved_);
  }
  if (start == MAP_FAILED) {
    throw std::runtime_error(
        "mtia:" + std::to_string(device_index) + ": the host refused to reserve " + std::to_string(capacity_bytes) +
        " bytes of address space (" + std::strerror(errno) +
        "). Raise the address space limit (ulimit -v unlimited) or allow overcommit (vm.overcommit_memory=0).");
  }
  base_ = reinterpret_cast<uintptr_t>(start);
  insert_free(0, capacity_);
  stats_.capacity_bytes = static_cast<int64_t>(capacity_);
}

void Arena::insert_free(size_t offset, size_t bytes) {
  if (bytes == 0) return;
  auto next = free_by_offset_.lower_bound(offset);
  if (next != free_by_offset_.end() && offset + bytes == next->first) {
    bytes += next->second;
    auto gone = next++;
    erase_free(gone);
  }
  if (next != free_by_offset_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      bytes += previous->second;
      erase_free(previous);
    }
  }
  free_by_offset_[offset] = bytes;
  free_by_size_.insert({bytes, offset});
}

void Arena::erase_free(std::map<size_t, size_t>::iterator it) {
  free_by_size_.erase({it->second, it->first});
  free_by_offset_.erase(it);
}

std::optional<size_t> Arena::take_from_pool(size_t bytes) {
  if (current_pool_ == 0) return std::nullopt;
  auto& blocks = pool_free_[current_pool_];
  auto it = blocks.lower_bound({bytes, 0});
  if (it == blocks.end() || it->first != bytes) return std::nullopt;      // whole blocks only
  size_t offset = it->second;
  blocks.erase(it);
  return offset;
}

std::optional<size_t> Arena::take_free(size_t bytes) {
  auto it = free_by_size_.lower_bound({bytes, 0});
  if (it == free_by_size_.end()) return std::nullopt;
  const auto [found_bytes, offset] = *it;
  erase_free(free_by_offset_.find(offset));
  insert_free(offset + bytes, found_bytes - bytes);
  return offset;
}

std::optional<void*> Arena::allocate(size_t requested_bytes, OutOfMemory* refused) {
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t bytes = round_up(requested_bytes);
  auto offset = take_from_pool(bytes);
  if (!offset) offset = take_free(bytes);
  if (!offset && !quarantine_.empty()) {
    release_quarantine(0);
    offset = take_free(bytes);
  }
  if (!offset) {
    stats_.n_out_of_memory++;
    const size_t allocated = static_cast<size_t>(stats_.allocated_bytes);
    const size_t largest = free_by_size_.empty() ? 0 : free_by_size_.rbegin()->first;
    *refused = {requested_bytes, capacity_ > allocated ? capacity_ - allocated : 0, largest, capacity_, allocated};
    return std::nullopt;
  }
  live_[*offset] = {bytes, requested_bytes, current_pool_};
  forget_written(*offset, bytes);
  account_alloc(bytes, requested_bytes, *offset);
  return reinterpret_cast<void*>(base_ + *offset);
}

void Arena::free(void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t offset = reinterpret_cast<uintptr_t>(address) - base_;
  auto it = live_.find(offset);
  if (it == live_.end()) return;      // never thrown from a deleter; allocation_of names bad addresses
  const Block block = it->second;
  live_.erase(it);
  account_free(block.bytes, block.requested_bytes, offset);
  if (block.pool != 0 && pool_free_.count(block.pool)) {
    pool_free_[block.pool].insert({block.bytes, offset});
    return;
  }
  if (quarantine_limit_ != 0) {
    quarantine_.push_back({offset, block.bytes});
    quarantine_bytes_ += block.bytes;
    return release_quarantine(quarantine_limit_);
  }
  reclaim(offset, block.bytes);
  freed_since_trim_ += block.bytes;
  if (freed_since_trim_ >= kTrimBytes) trim_locked();
}

void Arena::reclaim(size_t offset, size_t bytes) {
  if (offset < capacity_) insert_free(offset, std::min(bytes, capacity_ - offset));
}

void Arena::release_quarantine(size_t keep_bytes) {
  while (quarantine_bytes_ > keep_bytes) {
    const auto [offset, bytes] = quarantine_.front();
    quarantine_.pop_front();
    quarantine_bytes_ -= bytes;
    reclaim(offset, bytes);
    freed_since_trim_ += bytes;
  }
  if (freed_since_trim_ >= kTrimBytes) trim_locked();
}

void Arena::set_quarantine(size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  quarantine_limit_ = bytes;
  release_quarantine(bytes);
}

uint8_t* Arena::written_map() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (written_ == nullptr) {
    void* start = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
      throw std::runtime_error("MTIA_SANITIZE: the host refused " + std::to_string(reserved_) +
                               " bytes of address space (" + std::strerror(errno) +
                               "). Raise the limit (ulimit -v unlimited), or run without MTIA_SANITIZE.");
    }
    written_ = static_cast<uint8_t*>(start);
  }
  return written_;
}

void Arena::mark_written(uintptr_t address, size_t bytes) {
  if (written_ == nullptr || address < base_ || address - base_ >= reserved_) return;
  std::memset(written_ + (address - base_), 1, std::min(bytes, reserved_ - (address - base_)));
}

void Arena::forget_written(size_t offset, size_t bytes) {
  if (written_ == nullptr) return;
  constexpr size_t kPage = 4096;
  const size_t start = std::min((offset + kPage - 1) / kPage * kPage, offset + bytes);
  const size_t end = std::max((offset + bytes) / kPage * kPage, start);
  std::memset(written_ + offset, 0, start - offset);
  if (end > start) madvise(written_ + start, end - start, MADV_DONTNEED);
  std::memset(written_ + end, 0, offset + bytes - end);
}

void Arena::set_pool(uint64_t pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  current_pool_ = pool;
  if (pool != 0) pool_free_[pool];
}

void Arena::release_pool(uint64_t pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = pool_free_.find(pool);
  if (it == pool_free_.end()) return;
  for (const auto& [bytes, offset] : it->second) reclaim(offset, bytes);
  pool_free_.erase(it);
}

void Arena::set_capacity(size_t capacity_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (static_cast<size_t>(stats_.allocated_bytes) > capacity_bytes) throw std::length_error("live bytes exceed it");
  if (capacity_bytes > reserved_) throw std::length_error("capacity beyond the reserved address space");
  release_quarantine(0);
  std::vector<std::pair<size_t, size_t>> used;
  for (const auto& [offset, block] : live_) used.push_back({offset, block.bytes});
  for (const auto& [pool, blocks] : pool_free_) {
    for (const auto& [bytes, offset] : blocks) used.push_back({offset, bytes});
  }
  std::sort(used.begin(), used.end());
  free_by_offset_.clear();
  free_by_size_.clear();
  capacity_ = capacity_bytes;
  stats_.capacity_bytes = static_cast<int64_t>(capacity_);
  size_t start = 0;
  for (const auto& [offset, bytes] : used) {
    if (offset > start && start < capacity_) insert_free(start, std::min(offset, capacity_) - start);
    start = offset + bytes;
  }
  if (start < capacity_) insert_free(start, capacity_ - start);
}

std::optional<AllocationSpan> Arena::allocation_of(uintptr_t address) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (address < base_) return std::nullopt;
  const size_t offset = address - base_;
  auto it = live_.upper_bound(offset);
  if (it == live_.begin()) return std::nullopt;
  --it;
  if (offset >= it->first + it->second.requested_bytes) return std::nullopt;
  return AllocationSpan{base_ + it->first, it->second.requested_bytes};
}

std::vector<AllocationSpan> Arena::allocations() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<AllocationSpan> spans;
  spans.reserve(live_.size());
  for (const auto& [offset, block] : live_) spans.push_back({base_ + offset, block.requested_bytes});
  return spans;
}

void Arena::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  trim_locked();
}

void Arena::trim_locked() {
  constexpr size_t kPage = 4096;
  for (const auto& [offset, bytes] : free_by_offset_) {
    const uintptr_t start = (base_ + offset + kPage - 1) / kPage * kPage;
    const uintptr_t end = (base_ + offset + bytes) / kPage * kPage;
    if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }
  freed_since_trim_ = 0;
}

void Arena::account_alloc(size_t bytes, size_t requested_bytes, size_t offset) {
  stats_.allocated_bytes += static_cast<int64_t>(bytes);
  stats_.requested_bytes += static_cast<int64_t>(requested_bytes);
  stats_.total_allocated_bytes += static_cast<int64_t>(bytes);
  stats_.n_allocations++;
  stats_.total_allocations++;
  stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.allocated_bytes);
  stats_.peak_requested_bytes = std::max(stats_.peak_requested_bytes, stats_.requested_bytes);
  stats_.peak_allocations = std::max(stats_.peak_allocations, stats_.n_allocations);
  note(true, offset, requested_bytes);
}

void Arena::account_free(size_t bytes, size_t requested_bytes, size_t offset) {
  stats_.allocated_bytes -= static_cast<int64_t>(bytes);
  stats_.requested_bytes -= static_cast<int64_t>(requested_bytes);
  stats_.total_freed_bytes += static_cast<int64_t>(bytes);
  stats_.n_allocations--;
  stats_.total_frees++;
  note(false, offset, requested_bytes);
}

void Arena::note(bool is_alloc, size_t offset, size_t bytes) {
  if (!history_on_) return;
  if (history_limit_ != 0 && history_.size() >= history_limit_) history_.erase(history_.begin());
  history_.push_back({is_alloc, base_ + offset, bytes});
}

void Arena::record_history(bool on, size_t max_entries) {
  std::lock_guard<std::mutex> lock(mutex_);
  history_on_ = on;
  history_limit_ = max_entries;
  if (!on) history_.clear();
}

std::vector<MemoryEvent> Arena::history() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return history_;
}

MemoryStats Arena::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void Arena::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.peak_bytes = stats_.allocated_bytes;
  stats_.peak_requested_bytes = stats_.requested_bytes;
  stats_.peak_allocations = stats_.n_allocations;
}

void Arena::reset_accumulated() {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.total_allocated_bytes = stats_.total_freed_bytes = 0;
  stats_.total_allocations = stats_.total_frees = stats_.n_out_of_memory = 0;
}

// --- the arenas of all devices ---------------------------------------------------------------------------------------

namespace {

// Leaked on purpose: tensors held by module globals are freed after static destructors have run.
struct Arenas {
  std::mutex mutex;
  std::array<std::atomic<Arena*>, kMaxDevices> of_device{};
  std::array<size_t, kMaxDevices> capacity_bytes{};
};

Arenas& arenas() {
  static Arenas* all = [] {
    auto* made = new Arenas();
    made->capacity_bytes.fill(kDefaultCapacity);
    return made;
  }();
  return *all;
}

}  // namespace

bool arena_exists(int device_index) { return arenas().of_device.at(device_index).load() != nullptr; }

Arena& arena(int device_index) {
  auto& all = arenas();
  Arena* found = all.of_device.at(device_index).load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  std::lock_guard<std::mutex> lock(all.mutex);
  found = all.of_device[device_index].load();
  if (found == nullptr) {
    found = new Arena(device_index, all.capacity_bytes[device_index]);
    all.of_device[device_index].store(found, std::memory_order_release);
  }
  return *found;
}

void set_capacity(int device_index, size_t capacity_bytes) {
  auto& all = arenas();
  if (arena_exists(device_index)) arena(device_index).set_capacity(capacity_bytes);
  all.capacity_bytes.at(device_index) = capacity_bytes;
}

size_t capacity(int device_index) { return arenas().capacity_bytes.at(device_index); }

int device_of(uintptr_t address) {
  auto& all = arenas();
  for (int i = 0; i < kMaxDevices; ++i) {
    Arena* a = all.of_device[i].load(std::memory_order_acquire);
    if (a != nullptr && address >= a->base() && address - a->base() < a->reserved()) return i;
  }
  return -1;
}

}  // namespace mtia
