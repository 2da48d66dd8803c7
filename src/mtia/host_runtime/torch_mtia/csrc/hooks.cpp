// MTIAHooksInterface: what torch.mtia and torch.accelerator ask of the device.
#include <ATen/detail/MTIAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "allocator.h"
#include "device_memory.h"
#include "generator.h"
#include "runtime.h"

namespace mtia {

namespace {

struct Hooks final : public at::MTIAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasMTIA() const override { return true; }
  bool isAvailable() const override { return mtia::device_count() > 0; }
  c10::DeviceIndex deviceCount() const override { return mtia::device_count(); }
  c10::DeviceIndex getDeviceCount() const override { return mtia::device_count(); }
  bool hasPrimaryContext(c10::DeviceIndex index) const override { return arena_exists(resolve(index)); }
  std::string showConfig() const override { return "openMTIA, simulated silicon"; }

  void init() const override {
    set_initialized(true);      // first: kernels that are registered may create tensors
    try {
      call_int("initialize");
    } catch (...) {
      set_initialized(false);
      throw;
    }
  }

  void setCurrentDevice(c10::DeviceIndex index) const override { set_current_device(index); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return exchange_device(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchange_device(index); }
  void deviceSynchronize(c10::DeviceIndex index) const override { call_int("device_synchronize", {resolve(index)}); }
  c10::Device getDeviceFromPtr(void* data) const override {
    const int index = device_of(reinterpret_cast<uintptr_t>(data));
    TORCH_CHECK(index >= 0, "address ", data, " is not in the memory of any MTIA device");
    return c10::Device(kDevice, static_cast<c10::DeviceIndex>(index));
  }

  c10::Stream getCurrentStream(c10::DeviceIndex index) const override { return current_stream(index); }
  c10::Stream getDefaultStream(c10::DeviceIndex index) const override { return default_stream(index); }
  int64_t getCurrentRawStream(c10::DeviceIndex index) const override { return current_stream(index).id(); }
  void setCurrentStream(const c10::Stream& stream) const override {
    set_current_device(stream.device_index());
    set_current_stream(stream);
  }

  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }

  // What Python computes from the chip and the allocator's numbers.
  PyObject* memoryStats(c10::DeviceIndex index) const override { return ask("memory_stats", index); }
  PyObject* getDeviceCapability(c10::DeviceIndex index) const override { return ask("device_capability", index); }
  PyObject* getDeviceProperties(c10::DeviceIndex index) const override { return ask("device_properties", index); }
  PyObject* memorySnapshot(const std::optional<std::string>& path) const override {
    Gil gil;
    return checked(PyObject_CallMethod(callbacks(), "memory_snapshot", "z", path ? path->c_str() : nullptr));
  }

  void emptyCache() const override { empty_cache(); }
  void resetPeakMemoryStats(c10::DeviceIndex index) const override { arena(resolve(index)).reset_peak(); }
  void recordMemoryHistory(const std::optional<std::string>& enabled, const std::string&,
                           size_t max_entries) const override {
    for (int i = 0; i < mtia::device_count(); ++i) arena(i).record_history(enabled.has_value(), max_entries);
  }
  void attachOutOfMemoryObserver(PyObject* observer) const override { set_out_of_memory_observer(observer); }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return new_generator(index); }

  int64_t mtiagraphCreate(bool keep_graph) const override { return call_int("graph_create", {keep_graph}); }
  void mtiagraphDestroy(int64_t handle) const override {
    if (Py_IsInitialized()) call_int("graph_destroy", {handle});
  }
  void mtiagraphCaptureBegin(int64_t handle, at::MempoolId_t pool) const override {
    const auto stream = current_stream(-1);
    call_int("graph_capture_begin", {handle, static_cast<int64_t>(pool.first), static_cast<int64_t>(pool.second),
                                     stream.device_index(), stream.id()});
  }
  void mtiagraphCaptureEnd(int64_t handle) const override { call_int("graph_capture_end", {handle}); }
  void mtiagraphInstantiate(int64_t handle) const override { call_int("graph_instantiate", {handle}); }
  void mtiagraphReplay(int64_t handle) const override {
    const auto stream = current_stream(-1);
    call_int("graph_replay", {handle, stream.device_index(), stream.id()});
  }
  void mtiagraphReset(int64_t handle) const override { call_int("graph_reset", {handle}); }
  at::MempoolId_t mtiagraphPool(int64_t handle) const override {
    return {0, static_cast<uint64_t>(call_int("graph_pool", {handle}))};
  }
  at::MempoolId_t graphPoolHandle() const override {
    return {0, static_cast<uint64_t>(call_int("graph_pool_handle"))};
  }

 private:
  static PyObject* ask(const char* method, c10::DeviceIndex index) {
    Gil gil;
    return call_object(method, {resolve(index)});
  }
};

}  // namespace

// Static registration: torch looks the hooks up by this name once the library is loaded.
using at::MTIAHooksRegistry;
using at::RegistererMTIAHooksRegistry;
C10_REGISTER_CLASS(MTIAHooksRegistry, MTIAHooks, Hooks);

}  // namespace mtia
