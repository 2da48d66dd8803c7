// Host routes: ops that the host computes because the device has no kernel. Every one is counted.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "alias.h"

namespace mtia {

// Counts one host route. Unless `quiet`, Python decides first: it warns, or refuses (errors.HostFallbackRefused).
void count_fallback(const std::string& op, int64_t n = 1);
std::map<std::string, int64_t> fallback_counts();
void reset_fallbacks();
void set_fallbacks_quiet(bool quiet);

// Tells the clock about the transfers and host work of one counted route.
void time_fallback(const std::string& op, const Aliases& aliases, c10::Device device);

// Registers the counted host convolution (forward and backward) where the device has no kernel of its own.
void register_host_convolution();

}  // namespace mtia
