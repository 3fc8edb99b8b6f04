// The result of `bench serve` as text and as JSON: labels, order and keys are vLLM's, so that scripts and plots made
// for it work.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/load_generator.h"
#include "bench/serve_metrics.h"

namespace minimo::bench {

// Speculative decoding during the run, from the server's metrics; counts.
struct SpecDecodeStats {
  double drafts = 0;
  double draft_tokens = 0;
  double accepted_tokens = 0;
  std::vector<double> accepted_at;  // by position in the draft

  double AcceptanceRate() const { return draft_tokens > 0 ? 100 * accepted_tokens / draft_tokens : 0; }
  double AcceptanceLength() const { return drafts > 0 ? 1 + accepted_tokens / drafts : 0; }
};

// From a Prometheus page with vLLM's names; nothing if it has none of them.
std::optional<SpecDecodeStats> ParseSpecDecodeMetrics(const std::string& page);
SpecDecodeStats Difference(const SpecDecodeStats& after, const SpecDecodeStats& before);

struct ServeResultOptions {
  double request_rate = 0;  // infinite: all at once
  double burstiness = 1;
  int max_concurrency = 0;  // 0: none
  std::vector<std::string> percentile_metrics = {"ttft", "tpot", "itl"};
  bool has_goodput = false;
};

std::string FormatServeResult(const ServeMetrics& metrics, double duration_s, const ServeResultOptions& options,
                              const std::optional<SpecDecodeStats>& spec_decode);

// vLLM's keys. Per-request lists only with `detailed`.
nlohmann::json ServeResultJson(const ServeMetrics& metrics, const LoadResult& load, const ServeResultOptions& options,
                               const std::optional<SpecDecodeStats>& spec_decode, bool detailed);

}  // namespace minimo::bench
