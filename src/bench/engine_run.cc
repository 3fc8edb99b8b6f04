#include "bench/engine_run.h"

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "bench/interrupt.h"

namespace minimo::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Outlives the run: a sink may be called for a while after a cancellation.
struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  EngineRun run;
  size_t ended = 0;
  Clock::time_point start;
};

EventSink SinkFor(const std::shared_ptr<Shared>& shared, size_t index) {
  return [shared, index](Event&& event) {
    const double now = std::chrono::duration<double>(Clock::now() - shared->start).count();
    std::lock_guard lock(shared->mutex);
    for (size_t i = 0; i < event.tokens.size(); ++i) shared->run.token_times_s[index].push_back(now);
    if (event.finish == FinishReason::kNone) return;
    if (event.finish == FinishReason::kError && shared->run.error.empty()) shared->run.error = event.error;
    ++shared->ended;
    shared->run.end_s = now;
    shared->changed.notify_one();
  };
}

}  // namespace

Result<EngineRun> RunOnEngine(Engine& engine, const std::vector<SampleRequest>& requests,
                              const std::function<void(size_t ended)>& progress) {
  auto shared = std::make_shared<Shared>();
  shared->run.token_times_s.resize(requests.size());
  shared->start = Clock::now();
  std::vector<std::string> ids;
  for (size_t i = 0; i < requests.size(); ++i) {
    Request request;
    request.prompt_ids = requests[i].prompt_ids;
    request.params.max_tokens = requests[i].output_len;
    request.params.ignore_eos = true;
    request.params.temperature = 0;
    MINIMO_ASSIGN(std::string id, engine.Submit(std::move(request), SinkFor(shared, i)));
    ids.push_back(std::move(id));
  }
  std::unique_lock lock(shared->mutex);
  while (shared->ended < requests.size()) {
    shared->changed.wait_for(lock, std::chrono::milliseconds(100));
    if (InterruptScope::Requested()) {
      shared->run.interrupted = true;
      break;
    }
    if (progress) progress(shared->ended);
  }
  EngineRun run = shared->run;
  lock.unlock();
  if (run.interrupted) {
    for (const std::string& id : ids) engine.Cancel(id);
  }
  return run;
}

double MeasuredExpertsTouched(const Engine::ExpertLoad& load, int top_k, double tokens) {
  double sum = 0;
  int layers = 0;
  for (int layer = 0; layer < load.layers; ++layer) {
    const int64_t* counts = load.counts.data() + static_cast<size_t>(layer) * static_cast<size_t>(load.experts);
    double total = 0;
    for (int e = 0; e < load.experts; ++e) total += static_cast<double>(counts[e]);
    if (total <= 0) continue;
    ++layers;
    for (int e = 0; e < load.experts; ++e) {
      const double chosen = std::min(1.0, top_k * static_cast<double>(counts[e]) / total);
      sum += 1 - std::pow(1 - chosen, tokens);
    }
  }
  return layers > 0 ? sum / layers : 0;
}

}  // namespace minimo::bench
