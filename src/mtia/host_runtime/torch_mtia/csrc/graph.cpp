// torch.accelerator.Graph on mtia: the graphs of torch.mtia behind PyTorch's device-neutral interface.
#include <ATen/core/GraphImplInterface.h>
#include <c10/util/Exception.h>

#include "runtime.h"

namespace mtia {

namespace {

struct Graph final : public at::GraphImplInterface {
  explicit Graph(const at::GraphImplArgs& args)
      : handle_(call_int("graph_create", {args.keep_graph})), keep_graph_(args.keep_graph) {}
  ~Graph() override {
    if (!Py_IsInitialized()) return;
    try {
      call_int("graph_destroy", {handle_});
    } catch (const std::exception& error) {      // a destructor must not throw
      TORCH_WARN("an MTIA graph could not be destroyed: ", error.what());
    }
  }

  // Work is recorded as it is submitted, one thread at a time: every capture mode is the strictest.
  void capture_begin(at::MempoolId_t pool, at::GraphCaptureMode) override {
    const auto stream = current_stream(-1);
    call_int("graph_capture_begin", {handle_, static_cast<int64_t>(pool.first), static_cast<int64_t>(pool.second),
                                     stream.device_index(), stream.id()});
    instantiated_ = false;
  }
  void capture_end() override {
    call_int("graph_capture_end", {handle_});
    if (!keep_graph_) instantiate();
  }
  void instantiate() override {
    call_int("graph_instantiate", {handle_});
    instantiated_ = true;
  }
  void replay() override {
    if (!instantiated_) instantiate();
    const auto stream = current_stream(-1);
    call_int("graph_replay", {handle_, stream.device_index(), stream.id()});
  }
  void reset() override {
    call_int("graph_reset", {handle_});
    instantiated_ = false;
  }
  at::MempoolId_t pool() const override { return {0, static_cast<uint64_t>(call_int("graph_pool", {handle_}))}; }
  void enable_debug_mode() override { call_int("graph_enable_debug", {handle_}); }
  void debug_dump(const std::string& path) override {
    Gil gil;
    Py_DECREF(checked(PyObject_CallMethod(callbacks(), "graph_debug_dump", "Ls", static_cast<long long>(handle_),
                                          path.c_str())));
  }

 private:
  int64_t handle_;
  bool keep_graph_;
  bool instantiated_ = false;
};

}  // namespace

using at::GraphImplRegistry;
using at::RegistererGraphImplRegistry;
C10_REGISTER_CLASS(GraphImplRegistry, MTIA, Graph);

}  // namespace mtia
