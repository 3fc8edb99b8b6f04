#include "engine/admission.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace minimo {
namespace {

constexpr int32_t kMaxChoices = 1024;     // a request stays a small thing
constexpr int32_t kPromptLogitRows = 64;  // rows of logits a step for prompt_logprobs: 51 MB at 200,000 tokens

Status CheckPrompt(const Request& request, const AdmissionLimits& limits) {
  if (request.prompt_ids.empty()) return Error{"the prompt is empty; at least one token is needed"};
  for (const int32_t id : request.prompt_ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return Errorf("the prompt has token {}, outside the vocabulary of {}", id, limits.vocab_size);
    }
  }
  if (request.n < 1 || request.n > kMaxChoices) {
    return Errorf("n is {}; it must be in [1, {}]", request.n, kMaxChoices);
  }
  return {};
}

// How many tokens may follow the prompt.
Result<int32_t> ResolveMaxTokens(const Request& request, const AdmissionLimits& limits) {
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t asked = request.params.max_tokens;
  if (prompt >= limits.max_model_len) {
    return Errorf("the prompt has {} tokens, the context holds {}, the answer included: shorten the prompt", prompt,
                  limits.max_model_len);
  }
  if (asked > limits.max_model_len - prompt) {
    return Errorf("the prompt has {} tokens and max_tokens is {}, together more than the context of {}: lower "
                  "max_tokens to {} or less", prompt, asked, limits.max_model_len, limits.max_model_len - prompt);
  }
  if (prompt >= limits.kv_capacity_tokens || asked > limits.kv_capacity_tokens - prompt) {
    return Errorf("the prompt has {} tokens and {} are to follow; the KV cache holds {} in all: shorten the prompt, "
                  "lower max_tokens or give the cache more memory", prompt, std::max<int64_t>(asked, 1),
                  limits.kv_capacity_tokens);
  }
  if (asked > 0) return static_cast<int32_t>(asked);
  return static_cast<int32_t>(std::min<int64_t>(limits.max_model_len, limits.kv_capacity_tokens) - prompt);
}

}  // namespace

Result<std::unique_ptr<LiveRequest>> Admit(Request request, EventSink sink, const AdmissionLimits& limits) {
  MINIMO_TRY(CheckPrompt(request, limits));
  MINIMO_TRY(Validate(request.params, limits.vocab_size));
  MINIMO_ASSIGN(const int32_t max_tokens, ResolveMaxTokens(request, limits));

  auto live = std::make_unique<LiveRequest>();
  live->request = std::move(request);
  live->sink = std::move(sink);
  live->max_tokens = max_tokens;
  const Request& r = live->request;
  if (!r.params.ignore_eos) live->eos_ids = limits.eos_ids;
  // With ignore_eos no end of text is to come, so min_tokens has none to mask but the stop ids.
  auto choice = MakeChoice(live.get(), 0, SequenceSampler(r.params, live->eos_ids, r.prompt_ids), limits.tokenizer);
  choice->tokens = r.prompt_ids;
  choice->prompt_tokens = static_cast<int32_t>(r.prompt_ids.size());
  if (r.params.prompt_logprobs >= 0) {
    choice->use_prefix_cache = false;  // the cache keeps no logits
    choice->max_logit_rows = kPromptLogitRows;
    live->prompt_logprobs.push_back({r.prompt_ids[0], 0, {}});  // nothing comes before it
  }
  live->choices.push_back(std::move(choice));
  return live;
}

std::unique_ptr<LiveChoice> MakeChoice(LiveRequest* request, int32_t index, SequenceSampler sampler,
                                       const Tokenizer* tokenizer) {
  const SamplingParams& params = request->request.params;
  auto choice = std::make_unique<LiveChoice>(request, std::move(sampler));
  choice->choice = index;
  choice->priority = request->request.priority;
  choice->cache_salt = request->request.cache_salt;
  choice->stop_checker = StopChecker(params.stop, params.include_stop_str_in_output);
  if (tokenizer != nullptr) choice->detokenizer.emplace(*tokenizer, params.skip_special_tokens);
  return choice;
}

}  // namespace minimo
