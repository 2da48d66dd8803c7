// The allocators torch sees: device memory (c10::DeviceAllocator) and pinned host memory (at::HostAllocator).
#include "allocator.h"

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <map>
#include <mutex>
#include <sstream>

#include "device_memory.h"
#include "runtime.h"

namespace mtia {

namespace {

std::string readable(size_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  std::ostringstream text;
  if (unit == 0) {
    text << bytes << " bytes";
  } else {
    text << std::fixed << std::setprecision(2) << value << ' ' << units[unit];
  }
  return text.str();
}

PyObject*& out_of_memory_observer() {
  static PyObject* observer = nullptr;
  return observer;
}

// observer(device, requested bytes, total bytes, free bytes), as torch.mtia documents it
void tell_observer(int device_index, const OutOfMemory& why) {
  if (out_of_memory_observer() == nullptr) return;
  Gil gil;
  PyObject* result = PyObject_CallFunction(out_of_memory_observer(), "iKKK", device_index,
                                           static_cast<unsigned long long>(why.requested_bytes),
                                           static_cast<unsigned long long>(why.capacity_bytes),
                                           static_cast<unsigned long long>(why.free_bytes));
  checked(result);
  Py_DECREF(result);
}

std::string chip_title(int device_index) {
  Gil gil;
  PyObject* result = call_object("chip_title", {device_index});
  const char* text = PyUnicode_AsUTF8(result);
  std::string title = text == nullptr ? "" : text;
  PyErr_Clear();
  Py_DECREF(result);
  return title;
}

[[noreturn]] void refuse(int device_index, const OutOfMemory& why) {
  tell_observer(device_index, why);
  std::ostringstream text;
  text << "MTIA out of memory. Tried to allocate " << readable(why.requested_bytes) << ". mtia:" << device_index << " ("
       << chip_title(device_index) << ") has a total capacity of " << readable(why.capacity_bytes) << " of which "
       << readable(why.free_bytes) << " is free";
  if (why.free_bytes >= why.requested_bytes) {
    text << " (the largest free block is " << readable(why.largest_free_bytes) << ": memory is fragmented)";
  }
  text << ". Of the allocated memory " << readable(why.allocated_bytes) << " is allocated by PyTorch.";
  TORCH_CHECK_WITH(OutOfMemoryError, false, text.str());
}

std::atomic<bool> tracking{false};
std::atomic<bool> told_of_any{false};

void tell_allocated(int device_index, void* address, size_t n_bytes) {
  told_of_any = true;
  Gil gil;
  Py_DECREF(call_object("allocated", {device_index, static_cast<int64_t>(reinterpret_cast<uintptr_t>(address)),
                                      static_cast<int64_t>(n_bytes)}));
}

bool interpreter_is_ending() {
#if PY_VERSION_HEX >= 0x030D0000
  return !Py_IsInitialized() || Py_IsFinalizing();
#else
  return !Py_IsInitialized() || _Py_IsFinalizing();
#endif
}

// A free may come in the middle of anything, an exception on its way included; it never raises.
void tell_freed(void* address) {
  if (interpreter_is_ending()) return;
  Gil gil;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyObject* result = PyObject_CallMethod(callbacks(), "freed", "K",
                                         static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(address)));
  if (result == nullptr) PyErr_WriteUnraisable(callbacks());
  Py_XDECREF(result);
  PyErr_Restore(type, value, trace);
}

void free_device(void* address) {
  const int index = device_of(reinterpret_cast<uintptr_t>(address));
  if (index < 0) return;
  if (told_of_any) tell_freed(address);
  arena(index).free(address);
}

c10::CachingAllocator::StatArray every_pool(int64_t current, int64_t peak, int64_t allocated, int64_t freed) {
  c10::CachingAllocator::StatArray stats;
  for (auto& stat : stats) stat = {};
  auto& all = stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  all.current = current;
  all.peak = peak;
  all.allocated = allocated;
  all.freed = freed;
  return stats;
}

struct DeviceAllocator final : public c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n_bytes) override {
    const auto index = current_device();
    const c10::Device device(kDevice, index);
    ensure_initialized();
    if (n_bytes == 0) return {nullptr, nullptr, &free_device, device};
    OutOfMemory why{};
    auto address = arena(index).allocate(n_bytes, &why);
    if (!address) refuse(index, why);
    if (tracking) tell_allocated(index, *address, n_bytes);
    return {*address, *address, &free_device, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_device; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    std::memcpy(dest, src, count);
    mark_written(dest, count);
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override { empty_cache(); }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}      // values are ready at once; see kernels.cpp

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    const MemoryStats s = arena(resolve(index)).stats();
    c10::CachingDeviceAllocator::DeviceStats out;
    out.allocation = every_pool(s.n_allocations, s.peak_allocations, s.total_allocations, s.total_frees);
    out.active = out.allocation;
    out.segment = every_pool(1, 1, 1, 0);
    out.allocated_bytes = every_pool(s.allocated_bytes, s.peak_bytes, s.total_allocated_bytes, s.total_freed_bytes);
    out.active_bytes = out.allocated_bytes;
    out.reserved_bytes = out.allocated_bytes;      // nothing is cached: reserved is what is allocated
    out.requested_bytes = every_pool(s.requested_bytes, s.peak_requested_bytes, s.total_allocated_bytes,
                                     s.total_freed_bytes);
    out.inactive_split = out.inactive_split_bytes = every_pool(0, 0, 0, 0);
    out.num_ooms = s.n_out_of_memory;
    out.num_device_alloc = s.total_allocations;
    out.num_device_free = s.total_frees;
    return out;
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override { arena(resolve(index)).reset_accumulated(); }
  void resetPeakStats(c10::DeviceIndex index) override { arena(resolve(index)).reset_peak(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    const MemoryStats s = arena(resolve(index)).stats();
    return {static_cast<size_t>(std::max<int64_t>(0, s.capacity_bytes - s.allocated_bytes)),
            static_cast<size_t>(s.capacity_bytes)};
  }
};

// Pinned host memory is ordinary host memory that the allocator remembers.
class PinnedMemory {
 public:
  void* allocate(size_t n_bytes) {
    void* address = nullptr;
    TORCH_CHECK(posix_memalign(&address, 4096, n_bytes) == 0, "cannot allocate ", readable(n_bytes),
                " of pinned host memory");
    std::lock_guard<std::mutex> lock(mutex_);
    blocks_[reinterpret_cast<uintptr_t>(address)] = n_bytes;
    current_ += static_cast<int64_t>(n_bytes);
    peak_ = std::max(peak_, current_);
    total_ += static_cast<int64_t>(n_bytes);
    ++n_allocations_;
    return address;
  }
  void free(void* address) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      auto it = blocks_.find(reinterpret_cast<uintptr_t>(address));
      if (it == blocks_.end()) return;
      current_ -= static_cast<int64_t>(it->second);
      freed_ += static_cast<int64_t>(it->second);
      ++n_frees_;
      blocks_.erase(it);
    }
    std::free(address);
  }
  bool holds(const void* pointer) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    auto it = blocks_.upper_bound(address);
    if (it == blocks_.begin()) return false;
    --it;
    return address < it->first + it->second;
  }
  at::HostStats stats() const {
    std::lock_guard<std::mutex> lock(mutex_);
    at::HostStats out;
    const auto live = static_cast<int64_t>(blocks_.size());
    for (auto* s : {&out.active_requests, &out.allocations}) {
      s->current = live;
      s->peak = live;
      s->allocated = n_allocations_;
      s->freed = n_frees_;
    }
    for (auto* s : {&out.active_bytes, &out.allocated_bytes}) {
      s->current = current_;
      s->peak = peak_;
      s->allocated = total_;
      s->freed = freed_;
    }
    out.num_host_alloc = n_allocations_;
    out.num_host_free = n_frees_;
    return out;
  }
  void reset_peak() {
    std::lock_guard<std::mutex> lock(mutex_);
    peak_ = current_;
  }
  void reset_accumulated() {
    std::lock_guard<std::mutex> lock(mutex_);
    total_ = freed_ = n_allocations_ = n_frees_ = 0;
  }

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> blocks_;
  int64_t current_ = 0, peak_ = 0, total_ = 0, freed_ = 0, n_allocations_ = 0, n_frees_ = 0;
};

PinnedMemory& pinned_memory() {
  static auto* memory = new PinnedMemory();
  return *memory;
}

void free_pinned(void* address) { pinned_memory().free(address); }

struct HostAllocator final : public at::HostAllocator {
  c10::DataPtr allocate(size_t n_bytes) override {
    if (n_bytes == 0) return {nullptr, nullptr, &free_pinned, c10::Device(c10::DeviceType::CPU)};
    void* address = pinned_memory().allocate(n_bytes);
    return {address, address, &free_pinned, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* dest, const void* src, std::size_t count) const override { std::memcpy(dest, src, count); }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return pinned_memory().stats(); }
  void reset_accumulated_stats() override { pinned_memory().reset_accumulated(); }
  void reset_peak_stats() override { pinned_memory().reset_peak(); }
};

}  // namespace

c10::Allocator* device_allocator() {
  static auto* allocator = new DeviceAllocator();
  return allocator;
}

c10::Allocator* pinned_allocator() {
  static auto* allocator = new HostAllocator();
  return allocator;
}

bool is_pinned(const void* pointer) { return pinned_memory().holds(pointer); }

void set_out_of_memory_observer(PyObject* observer) {
  Py_XINCREF(observer);
  Py_XDECREF(out_of_memory_observer());
  out_of_memory_observer() = observer;
}

void empty_cache() {
  for (int i = 0; i < mtia::device_count(); ++i) {
    if (arena_exists(i)) arena(i).trim();
  }
}

void track_allocations(bool on) { tracking = on; }

void mark_written(const void* address, size_t n_bytes) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  const int index = device_of(at);
  if (index >= 0) arena(index).mark_written(at, n_bytes);
}

void install_allocators() {
  c10::SetAllocator(kDevice, device_allocator());
  at::setHostAllocator(kDevice, static_cast<at::HostAllocator*>(pinned_allocator()));
}

}  // namespace mtia
