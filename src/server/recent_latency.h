// The latencies of the last moments, for the watchers' stream: no buckets, no labels. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace minimo::server {

class RecentLatency {
 public:
  void Add(std::span<const int64_t> us);

  // Of what was added since the last call; -1: nothing was.
  struct Summary {
    double p50_ms = -1;
    double p99_ms = -1;
  };
  Summary Take();

 private:
  static constexpr size_t kMax = 4096;  // beyond, latencies are left out

  std::mutex mutex_;
  std::vector<int64_t> recent_;
};

}  // namespace minimo::server
