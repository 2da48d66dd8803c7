// Which implementation scaled_dot_product_attention takes on mtia.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_fused_sdp_choice.h>

namespace mtia {

namespace {

bool has_device_kernel(const char* name) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
  return op && op->hasKernelForDispatchKey(c10::DispatchKey::MTIA);
}

// The choice of a kernel registered for aten::_fused_sdp_choice; else the fused operator where it has a device kernel;
// else the composition of matmuls and softmax.
int64_t choose(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
               const std::optional<at::Tensor>& mask, double dropout_p, bool is_causal, std::optional<double> scale,
               bool enable_gqa) {
  if (has_device_kernel("aten::_fused_sdp_choice")) {
    return at::_fused_sdp_choice(query, key, value, mask, dropout_p, is_causal, scale, enable_gqa);
  }
  const bool fused = has_device_kernel("aten::_scaled_dot_product_fused_attention_overrideable");
  return static_cast<int64_t>(fused ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}

}  // namespace

}  // namespace mtia

namespace at::native {
REGISTER_MTIA_DISPATCH(_fused_sdp_choice_stub, &mtia::choose)
}  // namespace at::native
