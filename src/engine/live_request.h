// A request while it lives in the engine, and its choices. Made by Submit on the caller's thread, from then on the
// engine thread's alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "minimo/request.h"
#include "sampling/sampler.h"
#include "sampling/stop_checker.h"
#include "sched/sequence.h"
#include "text/detokenizer.h"

namespace minimo {

struct LiveRequest;

// One of the n answers. Choice 0 exists from the start; the others fork from it when the prompt has been computed.
struct LiveChoice : Sequence {
  LiveChoice(LiveRequest* request, SequenceSampler sampler) : request(request), sampler(std::move(sampler)) {}

  LiveRequest* request;
  SequenceSampler sampler;
  std::optional<Detokenizer> detokenizer;  // none: no tokenizer, events carry ids alone
  StopChecker stop_checker;
  Timing timing;
  bool ended = false;
  int32_t replica = 0;  // of attention: whose scheduler has it

  int32_t OutputTokens() const { return static_cast<int32_t>(tokens.size()) - prompt_tokens; }
};

struct LiveRequest {
  Request request;
  EventSink sink;
  int64_t arrival_us = 0;
  int32_t max_tokens = 0;       // resolved: what the context leaves if the client set no limit
  std::vector<int32_t> eos_ids;  // empty if they are to be ignored
  std::vector<std::unique_ptr<LiveChoice>> choices;
  std::vector<OutputToken> prompt_logprobs;  // collected while the prompt is computed
  int32_t ended_choices = 0;
};

}  // namespace minimo
