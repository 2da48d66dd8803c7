// The end of a process that has run backward passes. A device thread of autograd may still hold the last one's results
// when the interpreter goes; releasing a Python object then ends the thread inside a destructor, which aborts the process
// (Python 3.11: "terminate called without an active exception"). A thread lets go of a pass before it takes the next,
// so that one more pass, of tensors that Python never sees, settles it.
#include <filesystem>
#include <fstream>
#include <string>

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>

#include "device_memory.h"
#include "gradients.h"
#include "runtime.h"

namespace mtia {

namespace {

bool has_gradient_threads() {
  std::error_code none;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", none)) {
    std::string name;
    std::getline(std::ifstream(thread.path() / "comm"), name);
    if (name.rfind("pt_autograd", 0) == 0) return true;
  }
  return false;
}

}  // namespace

void settle_gradients() {
  if (!has_gradient_threads()) return;
  for (int index = 0; index < static_cast<int>(device_count()); ++index) {
    if (!arena_exists(index)) continue;
    const auto options = at::TensorOptions().device(at::Device(at::kMTIA, static_cast<c10::DeviceIndex>(index)));
    const at::Tensor leaf = at::empty({1}, options).requires_grad_();
    torch::autograd::grad({leaf.view({1})}, {leaf}, {at::empty({1}, options)});
  }
}

}  // namespace mtia
