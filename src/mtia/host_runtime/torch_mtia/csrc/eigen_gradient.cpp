// Gradient of linalg.eig (and of linalg.eigvals, which asks for the vectors where a gradient is wanted). PyTorch's own
// formula multiplies and solves complex matrices; the device's kernels are real, so here every complex matrix is a pair
// of real ones, and V^H X = R is the real system [[Vr', Vi'], [-Vi', Vr']] [Xr; Xi] = [Rr; Ri], with ' the transpose.
// Python cannot name the key AutogradMTIA.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

namespace mtia {

namespace {

using at::Tensor;

struct Pair {
  Tensor real, imag;
};

Pair pair_of(const Tensor& x) {
  const Tensor parts = at::view_as_real(x.resolve_conj());
  return {parts.select(-1, 0), parts.select(-1, 1)};
}

Pair adjoint(const Pair& x) {
  return {x.real.mT(), -x.imag.mT()};
}

Pair product(const Pair& x, const Pair& y) {
  return {x.real.matmul(y.real) - x.imag.matmul(y.imag), x.real.matmul(y.imag) + x.imag.matmul(y.real)};
}

Pair quotient(const Pair& x, const Pair& y) {
  const Tensor size = y.real * y.real + y.imag * y.imag;
  return {(x.real * y.real + x.imag * y.imag) / size, (x.imag * y.real - x.real * y.imag) / size};
}

// The real part of X in A X = B.
Tensor real_part_of_solution(const Pair& a, const Pair& b) {
  const Tensor system = at::cat({at::cat({a.real, -a.imag}, -1), at::cat({a.imag, a.real}, -1)}, -2);
  const Tensor found = at::linalg_solve(system, at::cat({b.real, b.imag}, -2));
  return found.narrow(-2, 0, b.real.size(-2));
}

// What the gradient of the vectors V says of A, in the basis of V: what changes their length or phase is projected out.
Pair of_vectors(const Pair& vectors, const Tensor& values, const Tensor& grad) {
  const Pair turned = product(adjoint(vectors), pair_of(grad));
  const Tensor phase = turned.imag.diagonal(0, -2, -1);
  TORCH_CHECK(
      at::allclose(phase, at::zeros_like(phase), /*rtol=*/1e-2, /*atol=*/1e-2),
      "linalg_eig_backward: eigenvectors are known up to a factor of e^{i phi}, and the loss depends on it: it has no "
      "gradient. Make it a function of what does not (absolute values, projections).");
  const Tensor lengths = turned.real.diagonal(0, -2, -1).unsqueeze(-2);
  const Pair along = product(adjoint(vectors), {vectors.real * lengths, vectors.imag * lengths});
  const Pair l = pair_of(values);
  const Tensor on_diagonal = at::eye(values.size(-1), l.real.options());
  const Pair gaps{
      l.real.unsqueeze(-2) - l.real.unsqueeze(-1) + on_diagonal, l.imag.unsqueeze(-1) - l.imag.unsqueeze(-2)};
  return quotient({turned.real - along.real, turned.imag - along.imag}, gaps);
}

struct Eig : torch::autograd::Function<Eig> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& a) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [values, vectors] = at::linalg_eig(a);
    context->save_for_backward({values, vectors});
    return {values, vectors};
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor& values = saved[0];
    const Pair vectors = pair_of(saved[1]);
    Pair inner{at::zeros_like(vectors.real), at::zeros_like(vectors.real)};
    if (grads[1].defined()) inner = of_vectors(vectors, values, grads[1]);
    if (grads[0].defined()) {
      const Pair of_values = pair_of(grads[0]);
      inner = {inner.real + of_values.real.diag_embed(), inner.imag + of_values.imag.diag_embed()};
    }
    return {real_part_of_solution(adjoint(vectors), product(inner, adjoint(vectors)))};
  }
};

std::tuple<Tensor, Tensor> eig(const Tensor& a) {
  if (a.is_complex()) {
    TORCH_CHECK(
        !(at::GradMode::is_enabled() && a.requires_grad()),
        "linalg.eig of a complex matrix has no gradient on mtia; take it on the CPU (x.cpu()).");
    at::AutoDispatchBelowADInplaceOrView below;
    return at::linalg_eig(a);
  }
  const auto found = Eig::apply(a);
  return {found[0], found[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, AutogradMTIA, m) {
  m.impl("linalg_eig", eig);
}

}  // namespace mtia
