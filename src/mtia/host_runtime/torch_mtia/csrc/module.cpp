// The Python module mtia._C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>

#include "alias.h"
#include "allocator.h"
#include "device_memory.h"
#include "fallback.h"
#include "generator.h"
#include "gradients.h"
#include "kernels.h"
#include "profiler.h"
#include "runtime.h"

namespace py = pybind11;

namespace mtia {

namespace {

const at::Tensor& tensor_of(py::handle object) {
  if (!THPVariable_Check(object.ptr())) throw py::type_error("expected a torch.Tensor");
  return THPVariable_Unpack(object.ptr());
}

py::object wrap(const at::Tensor& tensor) { return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor)); }

py::object allocation_of(uintptr_t address) {
  const int index = device_of(address);
  if (index < 0) return py::none();
  const auto span = arena(index).allocation_of(address);
  if (!span) return py::none();
  return py::make_tuple(span->start, span->requested_bytes);
}

// (device, arguments) of a launch: tensors as addresses, None as 0, numbers as they are; device -1 where no tensor is
// among them. None where tensors lie on several devices or on another kind of device.
py::object launch_arguments(const py::list& arguments) {
  int device = -1;
  py::list plain(arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    PyObject* argument = PyList_GET_ITEM(arguments.ptr(), static_cast<Py_ssize_t>(i));
    py::object value;
    if (THPVariable_Check(argument)) {
      const at::Tensor& tensor = THPVariable_Unpack(argument);
      if (tensor.device().type() != kDevice || (device >= 0 && tensor.device().index() != device)) return py::none();
      device = tensor.device().index();
      value = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(tensor.data_ptr()));
    } else if (argument == Py_None) {
      value = py::int_(0);
    } else if (PyLong_Check(argument) || PyFloat_Check(argument)) {
      value = py::reinterpret_borrow<py::object>(argument);
    } else {
      value = py::reinterpret_borrow<py::object>(argument).attr("data_ptr")();
    }
    PyList_SET_ITEM(plain.ptr(), static_cast<Py_ssize_t>(i), value.release().ptr());
  }
  return py::make_tuple(device, plain);
}

// (starts, ends) of the allocations behind a launch's pointer arguments, as the bytes of one int64 an argument; 0 to 0
// where there is none.
py::tuple launch_bounds(const py::list& plain, const py::tuple& pointers) {
  std::vector<int64_t> low(plain.size(), 0), high(plain.size(), 0);
  for (const auto& pointer : pointers) {
    const size_t at = pointer.cast<size_t>();
    const auto address = plain[at].cast<uintptr_t>();
    const int index = address == 0 ? -1 : device_of(address);
    const auto span = index < 0 ? std::nullopt : arena(index).allocation_of(address);
    if (!span) continue;
    low[at] = static_cast<int64_t>(span->start);
    high[at] = static_cast<int64_t>(span->start + span->requested_bytes);
  }
  const auto bytes = [](const std::vector<int64_t>& words) {
    return py::bytes(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int64_t));
  };
  return py::make_tuple(bytes(low), bytes(high));
}

py::list allocations(int index) {
  py::list out;
  for (const auto& span : arena(index).allocations()) out.append(py::make_tuple(span.start, span.requested_bytes));
  return out;
}

py::dict memory_stats(int index) {
  const MemoryStats s = arena(index).stats();
  py::dict out;
  out["allocated_bytes"] = s.allocated_bytes;
  out["requested_bytes"] = s.requested_bytes;
  out["peak_bytes"] = s.peak_bytes;
  out["total_allocated_bytes"] = s.total_allocated_bytes;
  out["total_freed_bytes"] = s.total_freed_bytes;
  out["n_allocations"] = s.n_allocations;
  out["total_allocations"] = s.total_allocations;
  out["total_frees"] = s.total_frees;
  out["n_out_of_memory"] = s.n_out_of_memory;
  out["capacity_bytes"] = s.capacity_bytes;
  return out;
}

py::list memory_history(int index) {
  py::list out;
  for (const auto& event : arena(index).history()) {
    out.append(py::make_tuple(event.is_alloc ? "alloc" : "free_completed", event.address, event.bytes));
  }
  return out;
}

std::pair<uint64_t, uint64_t> philox_seed_offset(py::object where, uint64_t increment) {
  if (THPGenerator_Check(where.ptr())) {
    return generator_impl(reinterpret_cast<THPGenerator*>(where.ptr())->cdata)->take(increment);
  }
  const int index = where.is_none() ? -1 : where.cast<int>();
  return generator_impl(default_generator(static_cast<c10::DeviceIndex>(index)))->take(increment);
}

void release_pool(int index, uint64_t pool) {
  if (arena_exists(index)) arena(index).release_pool(pool);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The mtia device of PyTorch: hooks, guard, allocator and the kernels that cannot be written in Python.";
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (python_error& e) {
      e.restore();
    } catch (const c10::Error& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
    }
  });

  m.def("set_callbacks", [](py::object o) { set_callbacks(o.ptr()); });
  m.def("install_allocators", &install_allocators);
  m.def("register_profiler", &register_profiler);
  m.def("correlation_id", &correlation_id, "Of the operator that this thread runs under a profile; 0 without one.");
  m.def("set_device_count", &set_device_count);
  m.def("device_count", [] { return static_cast<int>(device_count()); });
  m.def("current_device", [] { return static_cast<int>(current_device()); });
  m.def("current_stream", [](int index) { return current_stream(static_cast<c10::DeviceIndex>(index)).id(); },
        py::arg("device_index") = -1);

  m.def("arena", [](int index) { return py::make_tuple(arena(index).base(), arena(index).capacity()); },
        "(base address, capacity in bytes) of a device's memory.");
  m.def("arena_exists", &arena_exists);
  m.def("set_capacity", &set_capacity);
  m.def("capacity", &capacity);
  m.def("device_of", &device_of, "Index of the device whose memory holds the address, or -1.");
  m.def("allocation_of", &allocation_of, "(start, requested bytes) of the live allocation at an address, or None.");
  m.def("launch_arguments", &launch_arguments, "(device, addresses and numbers) of a launch; None: several devices.");
  m.def("launch_bounds", &launch_bounds, "Where the allocations behind pointer arguments start and end, as int64 words.");
  m.def("allocations", &allocations, "Live allocations of a device in address order.");
  m.def("memory_stats", &memory_stats);
  m.def("memory_history", &memory_history);
  m.def("set_pool", [](int index, uint64_t pool) { arena(index).set_pool(pool); });
  m.def("release_pool", &release_pool);

  m.def("set_quarantine", [](int index, size_t bytes) { arena(index).set_quarantine(bytes); });
  m.def("track_allocations", &track_allocations, "Tell the runtime of every allocation and free.");
  m.def("written_map", [](int index) { return reinterpret_cast<uintptr_t>(arena(index).written_map()); },
        "Address of a byte per byte of a device's memory: 1 once written. Made on first use.");
  m.def("reserved", [](int index) { return arena(index).reserved(); }, "Bytes of address space of a device's memory.");

  m.def("set_capturing", &set_capturing);
  m.def("settle_gradients", &settle_gradients, py::call_guard<py::gil_scoped_release>(),
        "Wait until autograd's threads hold no result of a backward pass.");

  m.def("philox_seed_offset", &philox_seed_offset, py::arg("generator_or_device_index"), py::arg("increment"),
        "(seed, offset) for a kernel that draws `increment` numbers a thread; advances the generator.");

  m.def("set_copy_kernel", [](py::object f) { set_copy_kernel(f.ptr()); },
        "function(dst, src) for copies within a device; None: counted host copies.");
  m.def("host_copy", [](py::object dst, py::object src) { host_copy(tensor_of(dst), tensor_of(src)); });
  m.def("cpu_alias", [](py::object t) {
          if (tensor_of(t).is_mtia()) mark_storage_written(tensor_of(t));
          return wrap(cpu_alias(tensor_of(t)));
        },
        "A CPU tensor over a device tensor's memory. For host routes (count them) and tests.");

  m.def("count_fallback", &count_fallback, py::arg("op"), py::arg("n") = 1);
  m.def("fallback_counts", &fallback_counts);
  m.def("reset_fallbacks", &reset_fallbacks);
  m.def("set_fallbacks_quiet", &set_fallbacks_quiet);
  m.def("register_host_convolution", &register_host_convolution);
}

}  // namespace mtia
