// Device guard: devices, streams and events. Times are the simulated clock's, kept by the Python runtime.
#include <c10/core/DeviceCapability.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "runtime.h"

namespace mtia {

namespace {

// An event is an id that the Python clock knows; 0 in the void* means "never recorded".
int64_t event_id(void* event) { return reinterpret_cast<int64_t>(event); }

struct GuardImpl final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }

  c10::Device exchangeDevice(c10::Device d) const override {
    return c10::Device(kDevice, exchange_device(d.index()));
  }
  c10::Device getDevice() const override { return c10::Device(kDevice, current_device()); }
  void setDevice(c10::Device d) const override { exchange_device(d.index()); }
  void uncheckedSetDevice(c10::Device d) const noexcept override {
    if (d.index() >= 0 && d.index() < mtia::device_count()) exchange_device(d.index());
  }
  c10::DeviceIndex deviceCount() const noexcept override { return mtia::device_count(); }

  c10::Stream getStream(c10::Device d) const override { return current_stream(d.index()); }
  c10::Stream getDefaultStream(c10::Device d) const override { return default_stream(d.index()); }
  c10::Stream getStreamFromGlobalPool(c10::Device d, bool) const override { return new_stream(d.index()); }
  c10::Stream getNewStream(c10::Device d, int) const override { return new_stream(d.index()); }
  c10::Stream exchangeStream(c10::Stream s) const override {
    c10::Stream previous = current_stream(s.device_index());
    set_current_stream(s);
    return previous;
  }
  void* getStreamNativeHandle(const c10::Stream s) const override { return reinterpret_cast<void*>(s.id()); }

  bool queryStream(const c10::Stream& s) const override {
    return call_int("stream_query", {s.device_index(), s.id()}) != 0;
  }
  void synchronizeStream(const c10::Stream& s) const override {
    call_int("stream_synchronize", {s.device_index(), s.id()});
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    call_int("device_synchronize", {resolve(index)});
  }
  bool isStreamCapturing(const c10::Stream& s) const override {
    return call_int("stream_is_capturing", {s.device_index(), s.id()}) != 0;
  }

  void record(void** event, const c10::Stream& s, const c10::DeviceIndex device_index,
              const c10::EventFlag) const override {
    TORCH_CHECK(device_index == -1 || device_index == s.device_index(), "event of mtia:",
                static_cast<int>(device_index), " cannot be recorded on a stream of mtia:",
                static_cast<int>(s.device_index()), "; create the event on that device");
    *event = reinterpret_cast<void*>(call_int("event_record", {event_id(*event), s.device_index(), s.id()}));
  }
  void block(void* event, const c10::Stream& s) const override {
    if (event != nullptr) call_int("event_block", {event_id(event), s.device_index(), s.id()});
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || call_int("event_query", {event_id(event)}) != 0;
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) call_int("event_synchronize", {event_id(event)});
  }
  double elapsedTime(void* start, void* end, const c10::DeviceIndex) const override {
    TORCH_CHECK(start != nullptr && end != nullptr, "both events must be recorded before elapsed_time is asked");
    return call_double("event_elapsed_ms", {event_id(start), event_id(end)});
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    if (event == nullptr || !Py_IsInitialized()) return;
    try {
      call_int("event_destroy", {event_id(event)});
    } catch (...) {      // a destructor cannot report; the clock only forgets a number
    }
  }

  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    return c10::DeviceCapability{};      // all dtypes: what a chip lacks runs as software and is costed by the engine
  }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(MTIA, GuardImpl);

}  // namespace mtia
