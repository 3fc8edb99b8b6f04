// Sends a workload to a server by a schedule and measures every answer. One thread, non-blocking sockets, connections
// kept alive and reused as vLLM's client does.
#pragma once

#include <limits>
#include <vector>

#include "bench/http_target.h"
#include "bench/openai_client.h"
#include "bench/sample_request.h"

namespace minimo::bench {

struct LoadOptions {
  GenerationOptions generation;
  std::string endpoint = "/v1/completions";
  int max_concurrency = 0;           // requests in flight; 0: no limit
  double request_timeout_s = 21600;  // one request, from its start (vLLM's client waits six hours)
  bool show_progress = true;
};

struct LoadResult {
  std::vector<Outcome> outcomes;  // in the order of the requests
  double duration_s = 0;          // from the start to the end of the last answer
  bool interrupted = false;       // Ctrl-C: the outcomes say which requests had ended
};

// `arrivals`: seconds from the start, ascending, one for each request. Fails only before the first request (a body
// that cannot be formed, no sockets); what happens to a request is told by its outcome.
Result<LoadResult> RunLoad(const HttpTarget& target, const LoadOptions& options,
                           const std::vector<SampleRequest>& requests, const std::vector<double>& arrivals);

}  // namespace minimo::bench
