#include "runtime.h"

#include <c10/util/Exception.h>
#include <torch/csrc/Exceptions.h>

#include <array>
#include <atomic>
#include <cstdlib>

#include "device_memory.h"

namespace mtia {

namespace {

std::atomic<int> n_devices{1};
std::atomic<bool> initialized{false};
std::atomic<bool> capturing{false};
std::atomic<int64_t> last_stream_id{0};
PyObject* runtime_callbacks = nullptr;

thread_local c10::DeviceIndex this_device = 0;
thread_local std::array<c10::StreamId, kMaxDevices> this_stream{};

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < n_devices, "mtia:", static_cast<int>(index), " does not exist; this process has ",
              n_devices.load(), " MTIA device(s), mtia:0 to mtia:", n_devices.load() - 1,
              ". Set MTIA_DEVICE_COUNT before importing torch for more.");
}

}  // namespace

c10::DeviceIndex device_count() { return static_cast<c10::DeviceIndex>(n_devices.load()); }

void set_device_count(int n) {
  TORCH_CHECK(n >= 0 && n <= kMaxDevices, "MTIA device count ", n, " is not in 0..", kMaxDevices);
  n_devices = n;
}

c10::DeviceIndex current_device() { return this_device; }

void set_current_device(c10::DeviceIndex index) {
  check_index(index);
  this_device = index;
}

c10::DeviceIndex exchange_device(c10::DeviceIndex index) {
  const auto previous = this_device;
  if (index >= 0) set_current_device(index);
  return previous;
}

c10::DeviceIndex resolve(c10::DeviceIndex index) {
  if (index < 0) return this_device;
  check_index(index);
  return index;
}

c10::Stream default_stream(c10::DeviceIndex index) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kDevice, resolve(index)), 0);
}

c10::Stream current_stream(c10::DeviceIndex index) {
  index = resolve(index);
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kDevice, index), this_stream[index]);
}

c10::Stream new_stream(c10::DeviceIndex index) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kDevice, resolve(index)), ++last_stream_id);
}

void set_current_stream(const c10::Stream& stream) {
  const auto index = resolve(stream.device_index());
  this_stream[index] = stream.id();
}

void set_callbacks(PyObject* callbacks) {
  Py_XINCREF(callbacks);
  Py_XDECREF(runtime_callbacks);
  runtime_callbacks = callbacks;
}

PyObject* callbacks() {
  TORCH_CHECK(runtime_callbacks != nullptr, "the MTIA host runtime is not registered. Import "
              "mtia.host_runtime.torch_mtia.dynamic_library, or leave TORCH_DEVICE_BACKEND_AUTOLOAD at 1.");
  return runtime_callbacks;
}

PyObject* checked(PyObject* result) {
  if (result == nullptr) {
    python_error error;
    error.persist();
    throw error;
  }
  return result;
}

PyObject* call_object(const char* method, const std::vector<int64_t>& args) {
  PyObject* tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(args.size())));
  for (size_t i = 0; i < args.size(); ++i) {
    PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), PyLong_FromLongLong(args[i]));
  }
  PyObject* function = PyObject_GetAttrString(callbacks(), method);
  PyObject* result = function == nullptr ? nullptr : PyObject_CallObject(function, tuple);
  Py_XDECREF(function);
  Py_DECREF(tuple);
  return checked(result);
}

int64_t call_int(const char* method, const std::vector<int64_t>& args) {
  Gil gil;
  PyObject* result = call_object(method, args);
  const int64_t value = result == Py_None ? 0 : PyLong_AsLongLong(result);
  Py_DECREF(result);
  if (PyErr_Occurred()) checked(nullptr);
  return value;
}

double call_double(const char* method, const std::vector<int64_t>& args) {
  Gil gil;
  PyObject* result = call_object(method, args);
  const double value = PyFloat_AsDouble(result);
  Py_DECREF(result);
  if (PyErr_Occurred()) checked(nullptr);
  return value;
}

void set_capturing(bool on) { capturing = on; }

void refuse_in_capture(const char* what) {
  if (!capturing) return;
  Gil gil;
  Py_DECREF(checked(PyObject_CallMethod(callbacks(), "refuse_in_capture", "s", what)));
}

void set_initialized(bool done) { initialized = done; }

void ensure_initialized() {
  if (initialized.load(std::memory_order_acquire)) return;
  Gil gil;
  PyObject* module = checked(PyImport_ImportModule("torch.mtia"));
  PyObject* result = PyObject_CallMethod(module, "_lazy_init", nullptr);
  Py_DECREF(module);
  checked(result);
  Py_DECREF(result);
}

}  // namespace mtia
