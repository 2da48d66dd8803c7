// torch.profiler on mtia: a Kineto plug-in that hands over what the simulated clock recorded while a profile was open.
//
// Rows of the device are in simulated time, counted from the moment the profile began; rows of the CPU are the wall
// clock of the simulator. A device row is linked to the operator that submitted it, by Kineto's correlation ids.
#define FMT_HEADER_ONLY 1      // Kineto's headers format with fmt, which torch keeps to itself
#include <libkineto.h>
#include <output_base.h>

#include <chrono>
#include <mutex>

#include "profiler.h"
#include "runtime.h"

namespace mtia {

namespace {

using libkineto::ActivityType;

thread_local std::vector<uint64_t> correlation_ids;
thread_local std::vector<uint64_t> user_correlation_ids;

int64_t now_ns() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

struct Row {
  std::string name, bound;
  long long is_host, device, stream, start_ns, duration_ns, correlation, n_bytes, n_flop;
};

// Rows as (name, bound, is_host, device, stream, start_ns, duration_ns, correlation, bytes, flop) tuples.
std::vector<Row> rows_of(PyObject* list) {
  std::vector<Row> rows;
  for (Py_ssize_t i = 0; i < PyList_Size(list); ++i) {
    const char *name, *bound;
    Row row;
    if (!PyArg_ParseTuple(PyList_GetItem(list, i), "ssLLLLLLLL", &name, &bound, &row.is_host, &row.device, &row.stream,
                          &row.start_ns, &row.duration_ns, &row.correlation, &row.n_bytes, &row.n_flop)) {
      checked(nullptr);
    }
    row.name = name;
    row.bound = bound;
    rows.push_back(row);
  }
  return rows;
}

class Session final : public libkineto::IActivityProfilerSession {
 public:
  explicit Session(const std::set<ActivityType>& wanted) : wanted_(wanted) {}

  void start() override {
    start_ns_ = now_ns();
    call_int("profiler_start");
    status_ = libkineto::TraceStatus::RECORDING;
  }

  void stop() override {
    Gil gil;
    PyObject* list = call_object("profiler_stop", {});
    rows_ = rows_of(list);
    Py_DECREF(list);
    status_ = libkineto::TraceStatus::PROCESSING;
  }

  std::vector<std::string> errors() override { return {}; }
  void processTrace(libkineto::ActivityLogger& logger) override {
    processTrace(logger, [](int32_t) { return nullptr; }, 0, 0);
  }

  void processTrace(libkineto::ActivityLogger& logger, libkineto::getLinkedActivityCallback linked, int64_t,
                    int64_t) override {
    buffer_ = std::make_unique<libkineto::CpuTraceBuffer>();
    int64_t end_ns = start_ns_;
    for (const Row& row : rows_) end_ns = std::max<int64_t>(end_ns, start_ns_ + row.start_ns + row.duration_ns);
    buffer_->span = libkineto::TraceSpan(start_ns_, end_ns, "mtia, simulated time");
    buffer_->gpuOpCount = static_cast<int>(rows_.size());
    for (const Row& row : rows_) add(row, linked);
    for (const auto& activity : buffer_->activities) activity->log(logger);
  }

  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override {
    return std::make_unique<libkineto::DeviceInfo>(
        libkineto::DeviceInfo{0, libkineto::kExceedMaxPid, "MTIA 0 (simulated time)", "MTIA 0"});
  }
  std::vector<libkineto::ResourceInfo> getResourceInfos() override { return {}; }
  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override { return std::move(buffer_); }

  void pushCorrelationId(uint64_t id) override { correlation_ids.push_back(id); }
  void popCorrelationId() override {
    if (!correlation_ids.empty()) correlation_ids.pop_back();
  }
  void pushUserCorrelationId(uint64_t id) override { user_correlation_ids.push_back(id); }
  void popUserCorrelationId() override {
    if (!user_correlation_ids.empty()) user_correlation_ids.pop_back();
  }

 private:
  void add(const Row& row, const libkineto::getLinkedActivityCallback& linked) {
    const auto type = row.is_host ? ActivityType::MTIA_RUNTIME : ActivityType::MTIA_CCP_EVENTS;
    if (wanted_.count(type) == 0) return;
    buffer_->emplace_activity(buffer_->span, type, row.name);
    auto& activity = *buffer_->activities.back();
    activity.startTime = start_ns_ + row.start_ns;
    activity.endTime = activity.startTime + row.duration_ns;
    activity.id = static_cast<int32_t>(row.correlation);
    activity.device = static_cast<int32_t>(row.device);
    activity.resource = static_cast<int32_t>(row.stream);
    activity.threadId = static_cast<int32_t>(row.stream);
    activity.linked = linked(static_cast<int32_t>(row.correlation));
    activity.flow.id = static_cast<uint32_t>(row.correlation);
    activity.flow.type = libkineto::kLinkAsyncCpuGpu;
    activity.flow.start = 0;
    activity.addMetadata("stream", row.stream);
    activity.addMetadata("correlation", row.correlation);
    activity.addMetadata("bytes", row.n_bytes);
    activity.addMetadata("flop", row.n_flop);
    if (!row.bound.empty()) activity.addMetadataQuoted("bound by", row.bound);
  }

  std::set<ActivityType> wanted_;
  int64_t start_ns_ = 0;
  std::vector<Row> rows_;
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_;
};

class Profiler final : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override { return name_; }
  const std::set<ActivityType>& availableActivities() const override { return activities_; }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(const std::set<ActivityType>& wanted,
                                                                 const libkineto::Config&) override {
    if (wanted.count(ActivityType::MTIA_CCP_EVENTS) == 0 && wanted.count(ActivityType::MTIA_RUNTIME) == 0) {
      return nullptr;
    }
    return std::make_unique<Session>(wanted);
  }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(int64_t, int64_t, const std::set<ActivityType>& wanted,
                                                                 const libkineto::Config& config) override {
    return configure(wanted, config);
  }

 private:
  std::string name_ = "mtia";
  std::set<ActivityType> activities_ = {ActivityType::MTIA_CCP_EVENTS, ActivityType::MTIA_RUNTIME};
};

}  // namespace

void register_profiler() {
  libkineto::api().registerProfilerFactory([] { return std::make_unique<Profiler>(); });
}

int64_t correlation_id() {
  return correlation_ids.empty() ? 0 : static_cast<int64_t>(correlation_ids.back());
}

}  // namespace mtia
