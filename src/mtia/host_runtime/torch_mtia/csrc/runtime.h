// The C++ side of the host runtime: current device and streams (per thread), and calls into the Python runtime
// (mtia.host_runtime.hooks), which owns the simulated clock, graphs, properties and kernels.
#pragma once

#include <Python.h>

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <string>
#include <vector>

namespace mtia {

constexpr c10::DeviceType kDevice = c10::DeviceType::MTIA;

c10::DeviceIndex device_count();
void set_device_count(int n);

c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);             // refuses an index that does not exist
c10::DeviceIndex exchange_device(c10::DeviceIndex index);    // -1 leaves the device as it is
c10::DeviceIndex resolve(c10::DeviceIndex index);            // -1 -> current device

c10::Stream current_stream(c10::DeviceIndex index);
c10::Stream default_stream(c10::DeviceIndex index);
c10::Stream new_stream(c10::DeviceIndex index);
void set_current_stream(const c10::Stream& stream);

// The object whose methods the C++ side calls (set once by Python); borrowed.
void set_callbacks(PyObject* callbacks);
PyObject* callbacks();

struct Gil {
  PyGILState_STATE state = PyGILState_Ensure();
  ~Gil() { PyGILState_Release(state); }
};

// callbacks().method(args...), integers only; the result as int64 (None: 0). Python's exception is rethrown.
int64_t call_int(const char* method, const std::vector<int64_t>& args = {});
double call_double(const char* method, const std::vector<int64_t>& args);
// As above; a new reference to the result. The caller holds the GIL.
PyObject* call_object(const char* method, const std::vector<int64_t>& args);
PyObject* checked(PyObject* result);                         // rethrows Python's exception when nullptr

// While a stream captures a graph, work that a replay could not repeat is refused (Python words the error).
void set_capturing(bool on);
void refuse_in_capture(const char* what);

// Initialises torch.mtia (which calls the hook init() once) before the first use of a device.
void ensure_initialized();
void set_initialized(bool done);

}  // namespace mtia
