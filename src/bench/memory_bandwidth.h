// The machine's memory read bandwidth: what no CPU decode can exceed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/thread_team.h"
#include "minimo/result.h"

namespace minimo::bench {

struct MemoryBandwidth {
  double best_gbs = 0;    // 1e9 bytes a second
  double median_gbs = 0;
  double worst_gbs = 0;
  int threads = 0;
  int passes = 0;
  int streams = 0;        // places that each thread read from at once: what was faster here
  int64_t buffer_bytes = 0;
  bool huge_pages = false;  // the kernel was asked for them and gave some
};

struct MemoryBandwidthOptions {
  int threads = 0;                        // 0: all cores this process may use
  int64_t buffer_bytes = int64_t{1} << 30;  // far beyond any cache; cut to a quarter of the free memory
  int passes = 9;                         // each reads the whole buffer once
};

// Every thread streams through its own contiguous part of one buffer that it touched first.
Result<MemoryBandwidth> MeasureMemoryBandwidth(const MemoryBandwidthOptions& options = {});

// 1e9 bytes a second of one read of [begin, begin + bytes) by all threads of a team, each through its own part of it in
// `streams` places at once: 1 (asking for lines ahead) or 4.
double ReadGbs(ThreadTeam& team, const std::byte* begin, int64_t bytes, int streams);

}  // namespace minimo::bench
