#include "generator.h"

#include <ATen/Functions.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstring>
#include <mutex>

#include "device_memory.h"
#include "runtime.h"

namespace mtia {

namespace {
constexpr int64_t kStateBytes = 2 * sizeof(uint64_t);      // seed, offset
}

GeneratorImpl::GeneratorImpl(c10::DeviceIndex index, uint64_t seed)
    : c10::GeneratorImpl(c10::Device(kDevice, index), c10::DispatchKeySet(c10::DispatchKey::MTIA)), seed_(seed) {}

void GeneratorImpl::set_current_seed(uint64_t seed) {
  seed_ = seed;
  offset_ = 0;
}

uint64_t GeneratorImpl::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

c10::intrusive_ptr<c10::TensorImpl> GeneratorImpl::get_state() const {
  at::Tensor state = at::empty({kStateBytes}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
  auto* bytes = state.mutable_data_ptr<uint8_t>();
  std::memcpy(bytes, &seed_, sizeof(seed_));
  std::memcpy(bytes + sizeof(seed_), &offset_, sizeof(offset_));
  return state.getIntrusivePtr();
}

void GeneratorImpl::set_state(const c10::TensorImpl& new_state) {
  TORCH_CHECK(new_state.device().is_cpu() && new_state.dtype() == caffe2::TypeMeta::Make<uint8_t>() &&
                  new_state.numel() == kStateBytes && new_state.is_contiguous(),
              "an MTIA generator's state is a contiguous CPU ByteTensor of ", kStateBytes,
              " elements (seed, offset); got ", new_state.numel(), " elements on ", new_state.device());
  const auto* bytes = static_cast<const uint8_t*>(new_state.data());
  std::memcpy(&seed_, bytes, sizeof(seed_));
  std::memcpy(&offset_, bytes + sizeof(seed_), sizeof(offset_));
}

void GeneratorImpl::graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& new_state) {
  auto* other = dynamic_cast<GeneratorImpl*>(new_state.get());
  TORCH_CHECK(other != nullptr, "an MTIA generator takes its state from another MTIA generator");
  seed_ = other->seed_;
  offset_ = other->offset_;
}

c10::intrusive_ptr<c10::GeneratorImpl> GeneratorImpl::graphsafe_get_state() const {
  return c10::intrusive_ptr<c10::GeneratorImpl>::reclaim(clone_impl());
}

std::pair<uint64_t, uint64_t> GeneratorImpl::take(uint64_t increment) {
  std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t offset = offset_;
  offset_ += (increment + 3) / 4 * 4;      // Philox makes four numbers a step
  return {seed_, offset};
}

GeneratorImpl* GeneratorImpl::clone_impl() const {
  auto* copy = new GeneratorImpl(device_.index(), seed_);
  copy->offset_ = offset_;
  return copy;
}

const at::Generator& default_generator(c10::DeviceIndex index) {
  static auto* generators = [] {
    auto* all = new std::array<at::Generator, kMaxDevices>();
    for (int i = 0; i < kMaxDevices; ++i) {
      (*all)[i] = at::make_generator<GeneratorImpl>(static_cast<c10::DeviceIndex>(i));
    }
    return all;
  }();
  return (*generators)[resolve(index)];
}

at::Generator new_generator(c10::DeviceIndex index) { return at::make_generator<GeneratorImpl>(resolve(index)); }

GeneratorImpl* generator_impl(const at::Generator& generator) {
  auto* impl = dynamic_cast<GeneratorImpl*>(generator.unsafeGetGeneratorImpl());
  TORCH_CHECK(impl != nullptr, "expected a generator of device type mtia, got one of ", generator.device());
  return impl;
}

}  // namespace mtia
