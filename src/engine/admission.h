// What Submit checks before a request may enter: everything that can be known without the cache's present state.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/live_request.h"
#include "minimo/request.h"
#include "minimo/result.h"
#include "minimo/tokenizer.h"
#include "sched/scheduler.h"

namespace minimo {

// What requests are measured against; constant while an engine lives.
struct AdmissionLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  int64_t kv_capacity_tokens = 0;
  std::vector<int32_t> eos_ids;
  const Tokenizer* tokenizer = nullptr;  // null: events carry ids alone
};

// The request ready to run with its first choice, or why it never can. `request.id` is set by the caller. Any thread.
Result<std::unique_ptr<LiveRequest>> Admit(Request request, EventSink sink, const AdmissionLimits& limits);

// A further choice of a request whose prompt has been computed. `sampler` is choice 0's before its first token.
std::unique_ptr<LiveChoice> MakeChoice(LiveRequest* request, int32_t choice, SequenceSampler sampler,
                                       const Tokenizer* tokenizer);

}  // namespace minimo
