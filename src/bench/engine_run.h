// A batch of requests through an engine, with the time of every token.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/sample_request.h"
#include "minimo/engine.h"
#include "minimo/result.h"

namespace minimo::bench {

struct EngineRun {
  std::vector<std::vector<double>> token_times_s;  // of each request, from the start
  double end_s = 0;
  bool interrupted = false;
  std::string error;  // the first request's that failed; empty: none
};

// Submits every request at once (ignore_eos, greedy) and waits for all. `progress` is told how many have ended, now
// and then, on the calling thread. Ctrl-C cancels what runs.
Result<EngineRun> RunOnEngine(Engine& engine, const std::vector<SampleRequest>& requests,
                              const std::function<void(size_t ended)>& progress);

// Distinct experts that a layer of B tokens touches if tokens choose as they did so far (of the engine's counts): the
// mean over layers of sum_e 1 - (1 - top_k share_e)^B. 0 without counts.
double MeasuredExpertsTouched(const Engine::ExpertLoad& load, int top_k, double tokens);

}  // namespace minimo::bench
