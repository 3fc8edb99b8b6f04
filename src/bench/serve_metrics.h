// What `bench serve` reports, by the definitions of vLLM's benchmark.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bench/sample_request.h"
#include "bench/stats.h"
#include "minimo/result.h"

namespace minimo::bench {

// Service levels in milliseconds: keys ttft, tpot, e2el.
using Goodput = std::map<std::string, double>;

// "ttft:200", "tpot:20" ...
Result<Goodput> ParseGoodput(const std::vector<std::string>& pairs);

struct ServeMetrics {
  int completed = 0;
  int failed = 0;
  int interrupted = 0;  // neither: Ctrl-C came first
  long total_input = 0;   // tokens, of the completed
  long total_output = 0;
  double request_throughput = 0;
  double request_goodput = 0;  // requests a second that kept every service level
  double output_throughput = 0;
  double total_token_throughput = 0;
  double max_output_tokens_per_s = 0;  // chunks in the best whole second counted from the first start
  int max_concurrent_requests = 0;     // most completed requests alive at one instant
  std::vector<int> output_lens;        // 0 for those not completed
  // Milliseconds. TPOT: (latency - ttft) / (output tokens - 1), of requests with more than one token.
  Summary ttft_ms, tpot_ms, itl_ms, e2el_ms, client_queue_time_ms, e2el_including_client_queue_ms;
};

ServeMetrics ComputeServeMetrics(const std::vector<Outcome>& outcomes, double duration_s,
                                 const std::vector<double>& percentiles, const Goodput& goodput);

}  // namespace minimo::bench
