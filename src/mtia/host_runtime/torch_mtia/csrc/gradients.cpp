// Gradients under autograd that PyTorch would compose of many operators. It has a composition for every autograd key
// without a kernel of its own, and on MTIA prefers it to a kernel at the device's key. Python cannot name the key
// AutogradMTIA, so the choice is made here: the device's one kernel, unless a second derivative is asked for, which only
// compositions have.
#include <ATen/FuncTorchTLS.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mish_backward.h>
#include <ATen/ops/mish_backward_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/silu_backward_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/std.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace mtia {

namespace {

using at::Tensor;
using Dims = at::OptionalIntArrayRef;
using Correction = std::optional<at::Scalar>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// --- silu, mish ------------------------------------------------------------------------------------------------------

using Gradient = Tensor(const Tensor&, const Tensor&);

template <Gradient* composition, Gradient* kernel>
Tensor gradient(const Tensor& grad, const Tensor& x) {
  if (at::GradMode::is_enabled() && (grad.requires_grad() || x.requires_grad())) {
    return composition(grad, x);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return kernel(grad, x);
}

// --- rms_norm --------------------------------------------------------------------------------------------------------

// PyTorch's own autograd kernel of the operator: it runs the device's kernels below, and has the second derivative.
void as_pytorch_differentiates(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  op.callBoxedForDispatchKey(c10::DispatchKey::Autograd, *stack);
}

// --- variance --------------------------------------------------------------------------------------------------------

const char* const kVariance = "mtia::variance";
const char* const kVarianceBackward = "mtia::variance_backward";

template <class Signature>
auto operator_named(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

using Forward = std::tuple<Tensor, Tensor>(const Tensor&, Dims, const Correction&, bool, bool);
using Backward = Tensor(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, Dims,
                        const Correction&);

int64_t n_folded(const Tensor& x, Dims dim) {
  if (!dim.has_value() || dim->empty()) return x.numel();
  int64_t n = 1;
  for (int64_t d : *dim) n *= x.size(d);
  return n;
}

double freedom(const Tensor& x, Dims dim, const Correction& correction) {
  return static_cast<double>(n_folded(x, dim)) - (correction ? correction->toDouble() : 1.0);
}

// What was reduced away, back as dims of one element.
Tensor with_dims_kept(const Tensor& t, const Tensor& like) { return t.dim() == like.dim() ? t : t.reshape(like.sizes()); }

// The gradient in operators that autograd follows.
Tensor composed(const Tensor& grad, const Tensor& x, Dims dim, const Correction& correction, bool root) {
  const Tensor mean = dim.has_value() ? at::mean(x, *dim, true) : at::mean(x).reshape(std::vector<int64_t>(x.dim(), 1));
  const Tensor g = with_dims_kept(grad, mean);
  const Tensor slope = (2.0 / freedom(x, dim, correction)) * (x - mean);
  if (!root) return g * slope;
  const Tensor r = with_dims_kept(at::std(x, dim, correction, true), mean);
  return (g / (2.0 * r)).masked_fill(r == 0, 0) * slope;
}

struct Variance : torch::autograd::Function<Variance> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, Dims dim, const Correction& correction, bool keepdim,
                        bool root) {
    static const auto run = operator_named<Forward>(kVariance);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [result, mean] = run.call(x, dim, correction, keepdim, root);
    ctx->save_for_backward(root ? variable_list{x, mean, result} : variable_list{x, mean});
    if (dim.has_value()) ctx->saved_data["dim"] = dim->vec();
    if (correction.has_value()) ctx->saved_data["correction"] = *correction;
    return result;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    static const auto run = operator_named<Backward>(kVarianceBackward);
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &mean = saved[1];
    const bool root = saved.size() == 3;
    std::vector<int64_t> dims;
    if (ctx->saved_data.count("dim")) dims = ctx->saved_data["dim"].toIntVector();
    const Dims dim = ctx->saved_data.count("dim") ? Dims(dims) : Dims();
    const Correction correction =
        ctx->saved_data.count("correction") ? Correction(ctx->saved_data["correction"].toScalar()) : std::nullopt;
    Tensor dx;
    if (at::GradMode::is_enabled()) {
      dx = composed(grads[0], x, dim, correction, root);
    } else {
      dx = run.call(grads[0], x, mean, root ? std::optional<Tensor>(saved[2]) : std::nullopt, dim, correction);
    }
    return {dx, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Whether the kernels' gradient serves: not where a transform, a trace or forward-mode derivatives need to see into it,
// nor where there are no degrees of freedom, which PyTorch answers with infinities.
bool has_kernel_gradient(const Tensor& x, Dims dim, const Correction& correction) {
  return at::GradMode::is_enabled() && x.requires_grad() && x.is_floating_point() && x.dim() > 0 && x.numel() > 0 &&
         freedom(x, dim, correction) > 0 && !x._fw_grad(0).defined() && !at::functorch::functorchTLSAccessor() &&
         !x.key_set().has(c10::DispatchKey::Python) && !c10::impl::TorchDispatchModeTLS::any_modes_set();
}

template <bool root>
void variance(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(*stack, 4);
  const Tensor x = arguments[0].toTensor();
  std::vector<int64_t> dims;
  if (!arguments[1].isNone()) dims = arguments[1].toIntVector();
  const Dims dim = arguments[1].isNone() ? Dims() : Dims(dims);
  const Correction correction = arguments[2].isNone() ? std::nullopt : Correction(arguments[2].toScalar());
  if (!has_kernel_gradient(x, dim, correction)) return as_pytorch_differentiates(op, stack);
  const bool keepdim = arguments[3].toBool();
  torch::jit::drop(*stack, 4);
  torch::jit::push(*stack, Variance::apply(x, dim, correction, keepdim, root));
}

}  // namespace

TORCH_LIBRARY(mtia, m) {
  m.def("variance(Tensor x, int[]? dim, Scalar? correction, bool keepdim, bool root) -> (Tensor, Tensor)");
  m.def("variance_backward(Tensor grad, Tensor x, Tensor mean, Tensor? root, int[]? dim, Scalar? correction) -> Tensor");
}

TORCH_LIBRARY_IMPL(aten, AutogradMTIA, m) {
  m.impl("silu_backward", gradient<&at::compositeimplicitautograd::silu_backward, &at::silu_backward>);
  m.impl("mish_backward", gradient<&at::compositeimplicitautograd::mish_backward, &at::mish_backward>);
  m.impl("_fused_rms_norm", torch::CppFunction::makeFromBoxedFunction<&as_pytorch_differentiates>());
  m.impl("var.correction", torch::CppFunction::makeFromBoxedFunction<&variance<false>>());
  m.impl("std.correction", torch::CppFunction::makeFromBoxedFunction<&variance<true>>());
}

}  // namespace mtia
