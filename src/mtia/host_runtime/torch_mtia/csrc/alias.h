// CPU tensors over device memory, and back: device memory is host memory, so no byte moves.
#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>

namespace mtia {

// Keeps one CPU storage per device storage, so that tensors that share memory still do.
class Aliases {
 public:
  // A CPU tensor over the memory of `device_tensor` (undefined and non-MTIA tensors pass through).
  at::Tensor to_cpu(const at::Tensor& device_tensor);
  // The device tensor that `cpu_tensor` stands for: the original where it is one of ours, a view of its storage where it
  // shares memory, else a new device tensor with a copy of the values.
  at::Tensor to_device(const at::Tensor& cpu_tensor, c10::Device device);
  // Carries resizes that a CPU kernel made over to the device tensors.
  void write_back();
  int64_t n_bytes_in() const { return n_bytes_in_; }
  int64_t n_bytes_out() const { return n_bytes_out_; }

 private:
  struct Pair {
    at::Tensor device;
    at::Tensor cpu;
    const void* data;      // of the CPU storage when it was made
  };
  c10::Storage cpu_storage(const c10::Storage& device_storage);

  std::vector<Pair> pairs_;
  std::unordered_map<const c10::StorageImpl*, c10::Storage> cpu_of_;         // by device storage
  std::unordered_map<const c10::StorageImpl*, c10::Storage> device_of_;      // by CPU storage
  int64_t n_bytes_in_ = 0;
  int64_t n_bytes_out_ = 0;
};

// For the sanitizer: the host may have written any of the memory under the tensor.
void mark_storage_written(const at::Tensor& device_tensor);
at::Tensor cpu_alias(const at::Tensor& device_tensor);
at::Tensor empty_strided_on(c10::Device device, at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype);

}  // namespace mtia
