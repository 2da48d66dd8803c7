// Which implementation scaled_dot_product_attention takes on mtia.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>

namespace mtia {

namespace {

bool has_device_kernel(const char* name) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
  return op && op->hasKernelForDispatchKey(c10::DispatchKey::MTIA);
}

bool is_narrow_or_single(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

bool same_type(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  return is_narrow_or_single(query.scalar_type()) && key.scalar_type() == query.scalar_type() &&
         value.scalar_type() == query.scalar_type();
}

// [batch, heads, tokens, head dim] of one batch and head dim, heads a multiple of the keys'; nothing to broadcast.
bool same_shapes(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool enable_gqa) {
  if (query.dim() != 4 || key.dim() != 4 || value.dim() != 4 || query.is_nested()) {
    return false;
  }
  const bool heads = enable_gqa
      ? key.sym_size(1) == value.sym_size(1) && query.sym_size(1) % key.sym_size(1) == 0
      : query.sym_size(1) == key.sym_size(1) && key.sym_size(1) == value.sym_size(1);
  return heads && query.sym_size(0) == key.sym_size(0) && key.sym_size(0) == value.sym_size(0) &&
         query.sym_size(3) == key.sym_size(3) && key.sym_size(3) == value.sym_size(3) &&
         key.sym_size(2) == value.sym_size(2);
}

// A mask that is learnt has a gradient, which the fused kernels do not give.
bool plain_mask(const std::optional<at::Tensor>& mask) {
  return !mask.has_value() || !mask->defined() || !(mask->requires_grad() && at::GradMode::is_enabled());
}

// The fused kernels (kernels/fused_attention.py) where they serve the call, as far as the user allows them; else the
// composition of matmuls and softmax.
int64_t choose(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
               const std::optional<at::Tensor>& mask, double dropout_p, bool is_causal, std::optional<double> scale,
               bool enable_gqa) {
  const bool fused = at::globalContext().userEnabledOverrideableSDP() && dropout_p == 0.0 &&
      same_type(query, key, value) && same_shapes(query, key, value, enable_gqa) && plain_mask(mask) &&
      has_device_kernel("aten::_scaled_dot_product_fused_attention_overrideable");
  return static_cast<int64_t>(fused ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}

}  // namespace

}  // namespace mtia

namespace at::native {
REGISTER_MTIA_DISPATCH(_fused_sdp_choice_stub, &mtia::choose)
}  // namespace at::native
