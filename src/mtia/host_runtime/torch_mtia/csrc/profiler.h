#pragma once

#include <cstdint>

namespace mtia {

void register_profiler();        // with Kineto, once
int64_t correlation_id();        // of the operator that runs in this thread under a profile, 0 without one

}  // namespace mtia
