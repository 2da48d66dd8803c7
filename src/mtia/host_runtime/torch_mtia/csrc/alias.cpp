#include "alias.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>

#include "allocator.h"
#include "runtime.h"

namespace mtia {

namespace {

void drop_storage(void* context) { delete static_cast<c10::Storage*>(context); }

at::Tensor tensor_over(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  tensor._set_conj(like.is_conj());
  tensor._set_neg(like.is_neg());
  return tensor;
}

at::Tensor copied_to_device(const at::Tensor& cpu_tensor, c10::Device device) {
  at::Tensor result = empty_strided_on(device, cpu_tensor.sizes(), cpu_tensor.strides(), cpu_tensor.scalar_type());
  if (cpu_tensor.numel() == 0) return result;
  if (cpu_tensor.is_non_overlapping_and_dense()) {
    std::memcpy(result.mutable_data_ptr(), cpu_tensor.const_data_ptr(), cpu_tensor.nbytes());
  } else {
    cpu_alias(result).copy_(cpu_tensor);
  }
  mark_storage_written(result);
  result._set_conj(cpu_tensor.is_conj());
  result._set_neg(cpu_tensor.is_neg());
  return result;
}

}  // namespace

at::Tensor empty_strided_on(c10::Device device, at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype) {
  const c10::DeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, device_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::MTIA), dtype);
}

c10::Storage Aliases::cpu_storage(const c10::Storage& device_storage) {
  auto found = cpu_of_.find(device_storage.unsafeGetStorageImpl());
  if (found != cpu_of_.end()) return found->second;
  auto* owner = new c10::Storage(device_storage);      // the alias keeps the device memory alive
  c10::DataPtr data(device_storage.mutable_data(), owner, &drop_storage, c10::Device(c10::DeviceType::CPU));
  c10::Storage cpu(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), device_storage.nbytes(),
                                                         std::move(data), c10::GetCPUAllocator(), /*resizable=*/true));
  cpu_of_[device_storage.unsafeGetStorageImpl()] = cpu;
  device_of_[cpu.unsafeGetStorageImpl()] = device_storage;
  return cpu;
}

at::Tensor Aliases::to_cpu(const at::Tensor& device_tensor) {
  if (!device_tensor.defined() || !device_tensor.is_mtia()) return device_tensor;
  for (const Pair& pair : pairs_) {
    if (pair.device.is_same(device_tensor)) return pair.cpu;
  }
  at::Tensor cpu = tensor_over(cpu_storage(device_tensor.storage()), c10::DispatchKey::CPU, device_tensor);
  pairs_.push_back({device_tensor, cpu, cpu.storage().data()});
  n_bytes_in_ += static_cast<int64_t>(device_tensor.nbytes());
  return cpu;
}

at::Tensor Aliases::to_device(const at::Tensor& cpu_tensor, c10::Device device) {
  if (!cpu_tensor.defined() || !cpu_tensor.device().is_cpu()) return cpu_tensor;
  for (const Pair& pair : pairs_) {
    if (pair.cpu.is_same(cpu_tensor)) return pair.device;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(cpu_tensor.layout() == at::kStrided, "a tensor of layout ", cpu_tensor.layout(),
                              " cannot live on mtia (strided tensors can); move its inputs to the CPU first");
  if (cpu_tensor.has_storage()) {
    auto found = device_of_.find(cpu_tensor.storage().unsafeGetStorageImpl());
    if (found != device_of_.end()) return tensor_over(found->second, c10::DispatchKey::MTIA, cpu_tensor);
  }
  n_bytes_out_ += static_cast<int64_t>(cpu_tensor.nbytes());
  return copied_to_device(cpu_tensor, device);
}

void Aliases::write_back() {
  for (Pair& pair : pairs_) {
    const c10::Storage& cpu_storage = pair.cpu.storage();
    c10::StorageImpl* device_storage = pair.device.storage().unsafeGetStorageImpl();
    if (cpu_storage.data() != pair.data && cpu_storage.nbytes() > 0) {
      const c10::DeviceGuard guard(pair.device.device());
      if (device_storage->nbytes() < cpu_storage.nbytes()) {
        at::native::resize_bytes_cpu(device_storage, cpu_storage.nbytes());
      }
      std::memcpy(device_storage->mutable_data(), cpu_storage.data(), cpu_storage.nbytes());
      mark_storage_written(pair.device);
      n_bytes_out_ += static_cast<int64_t>(pair.cpu.nbytes());
    }
    if (pair.cpu.sizes() != pair.device.sizes() || pair.cpu.strides() != pair.device.strides() ||
        pair.cpu.storage_offset() != pair.device.storage_offset()) {
      pair.device.unsafeGetTensorImpl()->set_sizes_and_strides(pair.cpu.sizes(), pair.cpu.strides(),
                                                               pair.cpu.storage_offset());
    }
  }
}

void mark_storage_written(const at::Tensor& device_tensor) {
  mark_written(device_tensor.storage().data(), device_tensor.storage().nbytes());
}

at::Tensor cpu_alias(const at::Tensor& device_tensor) {
  Aliases aliases;
  return aliases.to_cpu(device_tensor);
}

}  // namespace mtia
