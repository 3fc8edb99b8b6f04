// What an engine tells of its own work, for metrics: one call a step, one a finished request. Times are microseconds of
// the engine's clock.
#pragma once

#include <cstdint>
#include <span>

#include "minimo/request.h"

namespace minimo {

struct StepStats {
  int64_t step = 0;
  int32_t sequences = 0;       // in this step
  int32_t prefill_tokens = 0;  // prompt tokens computed, recomputed ones after a preemption included
  int32_t decode_tokens = 0;
  int32_t generated_tokens = 0;
  int32_t preempted = 0;
  int32_t running = 0;  // after the step
  int32_t waiting = 0;
  double kv_usage = 0;     // 0..1 of the fullest pool
  int64_t schedule_us = 0;  // planning and the cache's books
  int64_t model_us = 0;
  int64_t output_us = 0;    // sampling, text, events
  // Of the tokens of this step: from arrival to first token, and from the token before to this one.
  std::span<const int64_t> time_to_first_token_us;
  std::span<const int64_t> inter_token_us;
};

// One choice that has ended (vLLM counts each of n choices likewise).
struct FinishedStats {
  FinishReason finish = FinishReason::kNone;
  Usage usage;
  int32_t n = 1;            // of the request
  int32_t max_tokens = 0;   // as it was resolved
  int32_t preemptions = 0;
  int64_t queue_us = 0;      // arrival to first scheduled; 0 if it never was
  int64_t prefill_us = 0;    // first scheduled to first token
  int64_t decode_us = 0;     // first token to last token
  int64_t inference_us = 0;  // first scheduled to last token
  int64_t e2e_us = 0;        // arrival to the end
};

// Called on the engine thread; must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnFinished(const FinishedStats& stats) = 0;
  // The sinks have been called for all the news there was: that of a step, or of a part of it with more to follow.
  virtual void OnSent() {}
};

}  // namespace minimo
