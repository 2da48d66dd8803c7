// Boxed fallback: every op without a kernel for MTIA runs the CPU's kernel over the same memory.
#include "fallback.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>

#include "generator.h"
#include "runtime.h"

namespace mtia {

namespace {

struct Counts {
  std::mutex mutex;
  std::map<std::string, int64_t> of_op;
  std::atomic<bool> quiet{true};
};

Counts& counts() {
  static auto* all = new Counts();
  return *all;
}

}  // namespace

void count_fallback(const std::string& op, int64_t n) {
  refuse_in_capture(op.c_str());
  Counts& all = counts();
  if (!all.quiet) {
    Gil gil;
    Py_DECREF(checked(PyObject_CallMethod(callbacks(), "fallback_notice", "s", op.c_str())));
  }
  std::lock_guard<std::mutex> lock(all.mutex);
  all.of_op[op] += n;
}

std::map<std::string, int64_t> fallback_counts() {
  Counts& all = counts();
  std::lock_guard<std::mutex> lock(all.mutex);
  return all.of_op;
}

void reset_fallbacks() {
  Counts& all = counts();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.of_op.clear();
}

void set_fallbacks_quiet(bool quiet) { counts().quiet = quiet; }

void time_fallback(const std::string& op, const Aliases& aliases, c10::Device device) {
  Gil gil;
  PyObject* result = PyObject_CallMethod(callbacks(), "host_fallback", "sLLi", op.c_str(),
                                         static_cast<long long>(aliases.n_bytes_in()),
                                         static_cast<long long>(aliases.n_bytes_out()),
                                         static_cast<int>(device.index()));
  checked(result);
  Py_DECREF(result);
}

namespace {

// Runs CPU kernels with random numbers drawn from a device generator's state: same seed, same numbers.
class CpuRandomFromDevice {
 public:
  explicit CpuRandomFromDevice(GeneratorImpl* device_generator) {
    const auto [seed, offset] = device_generator->take(4);
    at::Generator& cpu = const_cast<at::Generator&>(at::detail::getDefaultCPUGenerator());
    std::lock_guard<std::mutex> lock(cpu.mutex());
    saved_ = cpu.get_state();
    cpu.set_current_seed(seed ^ (offset * 0x9E3779B97F4A7C15ull));
  }
  ~CpuRandomFromDevice() {
    at::Generator& cpu = const_cast<at::Generator&>(at::detail::getDefaultCPUGenerator());
    std::lock_guard<std::mutex> lock(cpu.mutex());
    cpu.set_state(saved_);
  }

 private:
  at::Tensor saved_;
};

// Replaces device values by their CPU stand-ins, through lists of any depth.
class Translator {
 public:
  c10::IValue to_cpu(const c10::IValue& value) {
    if (value.isTensor()) return note_device(value.toTensor()), c10::IValue(aliases.to_cpu(value.toTensor()));
    if (value.isDevice()) return device_to_cpu(value.toDevice());
    if (value.isGenerator()) return generator_to_cpu(value.toGenerator());
    if (value.isList()) return list_of(value, [this](const c10::IValue& v) { return to_cpu(v); });
    return value;
  }

  c10::IValue to_device(const c10::IValue& value) {
    if (value.isTensor()) return c10::IValue(aliases.to_device(value.toTensor(), device()));
    if (value.isList()) return list_of(value, [this](const c10::IValue& v) { return to_device(v); });
    return value;
  }

  c10::Device device() const { return device_.value_or(c10::Device(kDevice, current_device())); }
  bool results_stay_on_host() const { return wants_cpu_; }
  GeneratorImpl* generator() const { return generator_impl(generator_ ? *generator_ : default_generator(device().index())); }

  Aliases aliases;

 private:
  template <typename F>
  static c10::IValue list_of(const c10::IValue& value, F translate) {
    const auto source = value.toList();
    c10::impl::GenericList result(source.elementType());
    result.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) result.push_back(translate(source.get(i)));
    return result;
  }

  void note_device(const at::Tensor& tensor) {
    if (!device_ && tensor.defined() && tensor.is_mtia()) device_ = tensor.device();
  }

  c10::IValue device_to_cpu(c10::Device device) {
    if (device.type() != kDevice) {
      wants_cpu_ = true;
      return device;
    }
    if (!device_) device_ = c10::Device(kDevice, resolve(device.index()));
    return c10::Device(c10::DeviceType::CPU);
  }

  c10::IValue generator_to_cpu(const at::Generator& generator) {
    if (generator.defined() && generator.device().type() == kDevice) {
      generator_ = generator;
      return c10::IValue();      // the CPU's default one, seeded by CpuRandomFromDevice
    }
    return generator;
  }

  std::optional<c10::Device> device_;
  std::optional<at::Generator> generator_;
  bool wants_cpu_ = false;
};

void check_cpu_kernel(const c10::OperatorHandle& op) {
  TORCH_CHECK_NOT_IMPLEMENTED(op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU), toString(op.operator_name()),
                              " has no kernel on mtia, and the CPU has none to stand in for it.");
}

// For the sanitizer: what the operator wrote of its arguments.
void mark_written_arguments(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = op.schema().arguments()[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    if (arguments[i].isTensor() && arguments[i].toTensor().is_mtia()) mark_storage_written(arguments[i].toTensor());
    if (!arguments[i].isTensorList()) continue;
    for (const at::Tensor& tensor : arguments[i].toTensorVector()) {
      if (tensor.is_mtia()) mark_storage_written(tensor);
    }
  }
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack, const Translator& translator) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  std::optional<CpuRandomFromDevice> random;
  if (op.hasTag(at::Tag::nondeterministic_seeded)) random.emplace(translator.generator());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string name = toString(op.operator_name());
  check_cpu_kernel(op);
  count_fallback(name);
  Translator translator;
  const size_t n_arguments = op.schema().arguments().size();
  const std::vector<c10::IValue> arguments(stack->end() - static_cast<std::ptrdiff_t>(n_arguments), stack->end());
  for (size_t i = stack->size() - n_arguments; i < stack->size(); ++i) {
    (*stack)[i] = translator.to_cpu((*stack)[i]);
  }
  run_on_cpu(op, stack, translator);
  translator.aliases.write_back();
  mark_written_arguments(op, arguments);
  if (!translator.results_stay_on_host()) {
    const size_t n_returns = op.schema().returns().size();
    for (size_t i = stack->size() - n_returns; i < stack->size(); ++i) {
      (*stack)[i] = translator.to_device((*stack)[i]);
    }
  }
  time_fallback(name, translator.aliases, translator.device());
}

at::Tensor host_convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                            at::IntArrayRef output_padding, int64_t groups) {
  const std::string name = "aten::convolution_overrideable";
  count_fallback(name);
  Aliases aliases;
  std::optional<at::Tensor> cpu_bias;
  if (bias && bias->defined()) cpu_bias = aliases.to_cpu(*bias);
  at::Tensor out = at::convolution(aliases.to_cpu(input), aliases.to_cpu(weight), cpu_bias, stride, padding, dilation,
                                   transposed, output_padding, groups);
  at::Tensor result = aliases.to_device(out.contiguous(), input.device());
  time_fallback(name, aliases, input.device());
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> host_convolution_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups,
    std::array<bool, 3> output_mask) {
  const std::string name = "aten::convolution_backward_overrideable";
  count_fallback(name);
  Aliases aliases;
  const auto bias_sizes = std::vector<int64_t>{grad_output.size(input.dim() == weight.dim() - 1 ? 0 : 1)};
  auto [grad_input, grad_weight, grad_bias] = at::convolution_backward(
      aliases.to_cpu(grad_output), aliases.to_cpu(input), aliases.to_cpu(weight), at::OptionalIntArrayRef(bias_sizes),
      stride, padding, dilation, transposed, output_padding, groups, output_mask);
  auto back = [&](const at::Tensor& t) {
    return t.defined() ? aliases.to_device(t.contiguous(), input.device()) : at::Tensor();
  };
  auto results = std::make_tuple(back(grad_input), back(grad_weight), back(grad_bias));
  time_fallback(name, aliases, input.device());
  return results;
}

}  // namespace

void register_host_convolution() {
  static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::MTIA, __FILE__, __LINE__);
  auto missing = [](const char* name) {
    auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
    return !op.hasKernelForDispatchKey(c10::DispatchKey::MTIA);
  };
  if (missing("aten::convolution_overrideable")) {
    library->impl("convolution_overrideable", TORCH_FN(host_convolution));
  }
  if (missing("aten::convolution_backward_overrideable")) {
    library->impl("convolution_backward_overrideable", TORCH_FN(host_convolution_backward));
  }
}

TORCH_LIBRARY_IMPL(_, MTIA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

}  // namespace mtia
