#pragma once

#include <Python.h>

#include <ATen/core/Tensor.h>

namespace mtia {

// function(dst, src): a copy between two tensors of one device, cast and strides included; None: the host does it.
void set_copy_kernel(PyObject* function);
// As the copy kernel, by the host, counted.
void host_copy(const at::Tensor& dst, const at::Tensor& src);

}  // namespace mtia
