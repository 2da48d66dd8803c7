// Kernels that cannot be delegated: creation, views, storage, copies between memories, one value to the host.
#include "kernels.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/library.h>

#include <cstring>

#include "alias.h"
#include "allocator.h"
#include "fallback.h"
#include "runtime.h"

namespace mtia {

namespace {

using MaybeDtype = std::optional<at::ScalarType>;
using MaybeLayout = std::optional<at::Layout>;
using MaybeDevice = std::optional<c10::Device>;

PyObject* copy_kernel = nullptr;

c10::Device device_of_request(const MaybeLayout& layout, const MaybeDevice& device, const std::optional<bool>& pinned) {
  TORCH_CHECK_NOT_IMPLEMENTED(layout.value_or(at::kStrided) == at::kStrided, "mtia holds strided tensors; layout ",
                              layout.value_or(at::kStrided), " is not supported");
  TORCH_CHECK(!pinned.value_or(false), "only dense CPU tensors can be pinned, not tensors on mtia");
  ensure_initialized();
  return c10::Device(kDevice, resolve(device ? device->index() : -1));
}

// --- creation --------------------------------------------------------------------------------------------------------

at::Tensor empty(at::IntArrayRef size, MaybeDtype dtype, MaybeLayout layout, MaybeDevice device,
                 std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_of_request(layout, device, pinned));
  return at::detail::empty_generic(size, device_allocator(), c10::DispatchKeySet(c10::DispatchKey::MTIA),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, MaybeDtype dtype, MaybeLayout layout,
                         MaybeDevice device, std::optional<bool> pinned) {
  return empty_strided_on(device_of_request(layout, device, pinned), size, stride, c10::dtype_or_default(dtype));
}

// --- views and storage: the CPU's own, which only touch sizes, strides and the storage's allocator -------------------

const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(self.device());
  const void* data = self.storage().data();
  const size_t n_bytes = self.storage().nbytes();
  at::native::resize_(self, size, format);
  if (self.storage().data() != data) mark_written(self.storage().data(), std::min(n_bytes, self.storage().nbytes()));
  return self;
}

at::Tensor& set_empty(at::Tensor& self) {
  const c10::DeviceGuard guard(self.device());
  c10::Storage storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), 0,
                                                             device_allocator()->allocate(0), device_allocator(),
                                                             /*resizable=*/true));
  return at::native::set_storage_cpu_(self, storage, 0, {0}, {});
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size,
                        at::IntArrayRef stride) {
  const c10::DeviceGuard guard(self.device());
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage source) {
  const auto n_elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, source, 0, {n_elements}, {1});
}

// --- copies ----------------------------------------------------------------------------------------------------------

enum TransferKind : int64_t { kUpload = 0, kDownload = 1, kPeer = 2 };

void time_transfer(TransferKind kind, c10::Device device, size_t n_bytes, bool host_waits, int64_t peer = -1) {
  call_int("transfer", {kind, device.index(), current_stream(device.index()).id(), static_cast<int64_t>(n_bytes),
                        host_waits, peer});
}

void device_copy(const at::Tensor& dst, const at::Tensor& src) {
  if (copy_kernel == nullptr) return host_copy(dst, src);
  const c10::DeviceGuard guard(dst.device());
  Gil gil;
  PyObject* wrapped_dst = THPVariable_Wrap(dst);
  PyObject* wrapped_src = THPVariable_Wrap(src);
  PyObject* result = PyObject_CallFunctionObjArgs(copy_kernel, wrapped_dst, wrapped_src, nullptr);
  Py_XDECREF(wrapped_dst);
  Py_XDECREF(wrapped_src);
  checked(result);
  Py_DECREF(result);
}

at::Tensor contiguous_like(const at::Tensor& like, at::ScalarType dtype) {
  return empty(like.sizes(), dtype, at::kStrided, like.device(), false, at::MemoryFormat::Contiguous);
}

bool has_lazy_bits(const at::Tensor& t) { return t.is_conj() || t.is_neg(); }

// The tensor's bytes as they lie in memory, without the conjugate and negative bits.
at::Tensor as_stored(const at::Tensor& t) {
  if (!has_lazy_bits(t)) return t;
  auto impl = t.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0), false);
  at::Tensor stored(std::move(impl));
  stored._set_conj(false);
  stored._set_neg(false);
  return stored;
}

// The casting and gathering of host data is the host's (as for any accelerator); the link carries dst's bytes.
void upload(const at::Tensor& dst, const at::Tensor& src, bool non_blocking) {
  if (!dst.is_non_overlapping_and_dense()) {
    at::Tensor staged = contiguous_like(dst, dst.scalar_type());
    upload(staged, src, non_blocking);
    return device_copy(dst, staged);
  }
  refuse_in_capture("a copy from the CPU");
  cpu_alias(dst).copy_(src);
  mark_written(dst.const_data_ptr(), dst.nbytes());
  time_transfer(kUpload, dst.device(), dst.nbytes(), !(non_blocking && src.is_pinned()));
}

// The device casts and gathers, the link carries contiguous bytes in dst's type.
void download(const at::Tensor& dst, const at::Tensor& src, bool non_blocking) {
  const bool casts = src.scalar_type() != dst.scalar_type() && !has_lazy_bits(src);
  if (!src.is_non_overlapping_and_dense() || casts) {
    at::Tensor staged = contiguous_like(src, has_lazy_bits(src) ? src.scalar_type() : dst.scalar_type());
    device_copy(staged, as_stored(src));
    staged._set_conj(src.is_conj());
    staged._set_neg(src.is_neg());
    return download(dst, staged, non_blocking);
  }
  refuse_in_capture("a copy to the CPU");
  time_transfer(kDownload, src.device(), src.nbytes(), !(non_blocking && dst.is_pinned()));
  dst.copy_(cpu_alias(src));
}

void peer_copy(const at::Tensor& dst, const at::Tensor& src) {
  at::Tensor sent = src;
  if (!src.is_contiguous() || src.scalar_type() != dst.scalar_type()) {
    sent = contiguous_like(src, dst.scalar_type());
    device_copy(sent, src);
  }
  at::Tensor received = dst.is_contiguous() ? dst : contiguous_like(dst, dst.scalar_type());
  refuse_in_capture("a copy between devices");
  std::memcpy(received.mutable_data_ptr(), sent.const_data_ptr(), sent.nbytes());
  mark_written(received.const_data_ptr(), sent.nbytes());
  time_transfer(kPeer, dst.device(), sent.nbytes(), false, src.device().index());
  if (!received.is_same(dst)) device_copy(dst, received);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  if (dst.numel() == 0) return dst;
  const at::Tensor src = self.sizes() == dst.sizes() ? self : self.expand(dst.sizes());
  const bool from_device = src.is_mtia(), to_device = dst.is_mtia();
  if (from_device && to_device) {
    const at::Tensor to = as_stored(dst), from = as_stored(src);
    src.device() == dst.device() ? device_copy(to, from) : peer_copy(to, from);
    if (src.is_conj() != dst.is_conj()) at::view_as_real(to).select(-1, 1).neg_();
    if (src.is_neg() != dst.is_neg()) (to.is_complex() ? at::view_as_real(to) : to).neg_();
  } else if (to_device) {
    upload(dst, src, non_blocking);
  } else {
    download(dst, src, non_blocking);
  }
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  if (self.sizes() != dst.sizes()) dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  refuse_in_capture("item()");
  time_transfer(kDownload, self.device(), self.element_size(), true);
  return at::native::_local_scalar_dense_cpu(cpu_alias(self));
}

// Memory freed while a stream still uses it may be handed out again at once: values are computed when work is submitted,
// so no later write can reach an earlier read.
void record_stream(at::Tensor&, c10::Stream) {}

TORCH_LIBRARY_IMPL(aten, MTIA, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  m.impl("record_stream", TORCH_FN(record_stream));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_", TORCH_FN(set_empty));
  m.impl("set_.source_Storage", TORCH_FN(set_whole_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  m.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  m.impl("view", TORCH_FN(static_cast<at::Tensor (*)(const at::Tensor&, at::IntArrayRef)>(at::native::view)));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  m.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
}

// Copies see the conjugate and negative bits themselves: torch's fallback for them would clone, and clone copies.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

}  // namespace

void set_copy_kernel(PyObject* function) {
  Py_XDECREF(copy_kernel);
  copy_kernel = function == Py_None ? nullptr : function;
  Py_XINCREF(copy_kernel);
}

void host_copy(const at::Tensor& dst, const at::Tensor& src) {
  const std::string name = "aten::_copy_from";
  count_fallback(name);
  Aliases aliases;
  aliases.to_cpu(dst).copy_(aliases.to_cpu(src));
  mark_storage_written(dst);
  time_fallback(name, aliases, dst.device());
}

}  // namespace mtia
