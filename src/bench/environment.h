// What every figure must carry: the build, the command, the hardware.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/memory_bandwidth.h"

namespace minimo::bench {

struct Gpu {
  std::string name;
  std::string driver;
  int64_t memory_bytes = 0;
};

struct Environment {
  std::string commit;   // of the sources this binary was built from; "-dirty" if they had changes
  std::string command;  // as typed
  std::string date;     // UTC, ISO 8601
  std::string host;
  std::string os;
  std::string cpu;
  int cores = 0;        // that this process may use
  int64_t memory_bytes = 0;
  std::optional<MemoryBandwidth> memory_bandwidth;
  std::vector<Gpu> gpus;
};

// Everything but the bandwidth, which takes about a second: MeasureMemoryBandwidth, if wanted.
Environment CollectEnvironment();

// Read bandwidth of the first GPU's memory in GB/s, if its kind is known; else 0.
double GpuReadGbs(const Environment& environment);

// The commit baked in at build time.
std::string BuildCommit();

nlohmann::json ToJson(const Environment& environment);

// Two or three lines for people.
std::string Describe(const Environment& environment);

}  // namespace minimo::bench
