// What Prometheus scrapes: vLLM's names where vLLM has them, so that its dashboards and autoscalers work, and ours
// under "minimo:". Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "minimo/engine.h"
#include "minimo/engine_observer.h"
#include "server/recent_latency.h"

namespace minimo::server {

struct HttpCounters;

struct CacheConfig {
  int block_size = 0;
  bool enable_prefix_caching = false;
  std::string cache_dtype;
};

struct LatencySummary {
  double p50_us = 0;
  double p99_us = 0;
};

class Metrics {
 public:
  Metrics(const std::string& model_name, const CacheConfig& cache, int64_t capacity_tokens, int max_model_len);
  ~Metrics();

  // Give this to the engine; it may outlive the Metrics only if the engine is told so (SetObserver(nullptr)).
  std::shared_ptr<EngineObserver> Observer();
  RecentLatency& first_token();
  RecentLatency& inter_token();

  void ObserveHttp(const std::string& path, int status);
  void ObserveTokensWritten(std::span<const int64_t> latencies_us);
  LatencySummary TokenWritten() const;  // interpolated within the histogram's buckets

  // Takes over the engine's totals; called before Text.
  void Update(const EngineStats& stats);
  void UpdateExpertLoad(const Engine::ExpertLoad& load);
  void UpdateHttp(const HttpCounters& counters);

  // The text exposition format, version 0.0.4.
  std::string Text() const;

 private:
  struct Families;
  std::unique_ptr<Families> f_;
};

}  // namespace minimo::server
