// Gradients of activations under autograd. PyTorch has a composition of each for every autograd key without a kernel of
// its own, and on MTIA prefers it to a kernel at the device's key. Python cannot name the key AutogradMTIA, so the
// choice is made here: the device's one kernel, unless a second derivative is asked for, which only the composition has.
#include <ATen/core/grad_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/mish_backward.h>
#include <ATen/ops/mish_backward_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/silu_backward_compositeimplicitautograd_dispatch.h>
#include <torch/library.h>

namespace mtia {

namespace {

using Gradient = at::Tensor(const at::Tensor&, const at::Tensor&);

template <Gradient* composition, Gradient* kernel>
at::Tensor gradient(const at::Tensor& grad, const at::Tensor& x) {
  if (at::GradMode::is_enabled() && (grad.requires_grad() || x.requires_grad())) {
    return composition(grad, x);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return kernel(grad, x);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, AutogradMTIA, m) {
  m.impl("silu_backward", gradient<&at::compositeimplicitautograd::silu_backward, &at::silu_backward>);
  m.impl("mish_backward", gradient<&at::compositeimplicitautograd::mish_backward, &at::mish_backward>);
}

}  // namespace mtia
