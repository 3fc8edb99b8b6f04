// One choice of a request while it lives: its tokens, what of them is computed, its place in the queue. Engine thread
// only; the engine owns it, the scheduler orders it.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "kv/kv_cache.h"

namespace minimo {

enum class SequenceState { kNew, kWaiting, kRunning, kStopped };

struct Sequence {
  int64_t order = 0;     // of arrival, unique among requests
  int32_t choice = 0;    // of the request's n
  int32_t priority = 0;  // lower runs first; equal: first come first served

  std::vector<int32_t> tokens;  // prompt and output; the tokens after kv.computed are still to be computed
  int32_t prompt_tokens = 0;
  std::string cache_salt;
  bool use_prefix_cache = true;
  int32_t max_logit_rows = 0;  // > 0: every new token gives a row of logits, and a chunk has this many tokens at most

  SequenceState state = SequenceState::kNew;
  SequenceKv kv;
  int64_t last_step = -1;           // the plan that scheduled it last
  int64_t first_scheduled_us = -1;  // when it was admitted for the first time
  int32_t cached_tokens = 0;        // prompt tokens it found in the prefix cache then
  int32_t preemptions = 0;

  int32_t Remaining() const { return static_cast<int32_t>(tokens.size()) - kv.computed; }
};

// Who runs first, and of those running, who is preempted last.
inline bool Before(const Sequence& a, const Sequence& b) {
  return std::tie(a.priority, a.order, a.choice) < std::tie(b.priority, b.order, b.choice);
}

}  // namespace minimo
