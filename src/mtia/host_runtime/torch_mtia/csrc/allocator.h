#pragma once

#include <Python.h>

#include <c10/core/Allocator.h>

namespace mtia {

c10::Allocator* device_allocator();      // allocates on the current device
c10::Allocator* pinned_allocator();
bool is_pinned(const void* pointer);
void set_out_of_memory_observer(PyObject* observer);
void empty_cache();                      // pages of free device memory go back to the host
void install_allocators();

// The sanitizer's: while tracking, the Python runtime hears of every allocation and free (`allocated(device, address,
// bytes)`, `freed(address)`); frees are told as long as anything that was told of may live.
void track_allocations(bool on);
void mark_written(const void* address, size_t n_bytes);      // device memory that something other than a kernel wrote

}  // namespace mtia
