#include <cmath>

#include "base/error.h"
#include "minimo/request.h"

namespace minimo {
namespace {

constexpr int32_t kMaxLogprobs = 1024;     // a row of output stays small
constexpr size_t kMaxStops = 256;
constexpr size_t kMaxStopBytes = 4096;

Status ValidateLengths(const SamplingParams& p) {
  if (p.max_tokens != -1 && p.max_tokens < 1) {
    return Errorf("max_tokens is {}; it must be at least 1 (or -1: up to the context limit)", p.max_tokens);
  }
  if (p.min_tokens < 0) return Errorf("min_tokens is {}; it must not be negative", p.min_tokens);
  if (p.max_tokens != -1 && p.min_tokens > p.max_tokens) {
    return Errorf("min_tokens ({}) is greater than max_tokens ({})", p.min_tokens, p.max_tokens);
  }
  return {};
}

// Comparisons are written so that a NaN fails them.
Status ValidateNumbers(const SamplingParams& p) {
  if (!(p.temperature >= 0) || std::isinf(p.temperature)) {
    return Errorf("temperature is {}; it must be a finite number of at least 0", p.temperature);
  }
  if (!(p.top_p > 0 && p.top_p <= 1)) return Errorf("top_p is {}; it must be in (0, 1]", p.top_p);
  if (p.top_k < -1) return Errorf("top_k is {}; it must be at least 1, or 0 or -1 for all", p.top_k);
  if (!(p.min_p >= 0 && p.min_p <= 1)) return Errorf("min_p is {}; it must be in [0, 1]", p.min_p);
  if (!(p.repetition_penalty > 0) || std::isinf(p.repetition_penalty)) {
    return Errorf("repetition_penalty is {}; it must be a finite number greater than 0", p.repetition_penalty);
  }
  if (!(std::fabs(p.presence_penalty) <= 2)) {
    return Errorf("presence_penalty is {}; it must be in [-2, 2]", p.presence_penalty);
  }
  if (!(std::fabs(p.frequency_penalty) <= 2)) {
    return Errorf("frequency_penalty is {}; it must be in [-2, 2]", p.frequency_penalty);
  }
  return {};
}

Status ValidateStops(const SamplingParams& p, int32_t vocab_size) {
  if (p.stop.size() > kMaxStops) return Errorf("stop has {} strings; at most {} are taken", p.stop.size(), kMaxStops);
  for (const std::string& text : p.stop) {
    if (text.empty()) return Error{"stop has an empty string; a stop string needs at least one character"};
    if (text.size() > kMaxStopBytes) {
      return Errorf("stop has a string of {} bytes; at most {} are taken", text.size(), kMaxStopBytes);
    }
  }
  for (const int32_t id : p.stop_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return Errorf("stop_token_ids has {}, outside the vocabulary of {}", id, vocab_size);
    }
  }
  return {};
}

Status ValidateIds(const SamplingParams& p, int32_t vocab_size) {
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab_size)
      return Errorf("logit_bias has token {}, outside the vocabulary of {}", id, vocab_size);
    if (!std::isfinite(bias)) return Errorf("logit_bias of token {} is {}; it must be finite", id, bias);
  }
  for (const int32_t id : p.allowed_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return Errorf("allowed_token_ids has {}, outside the vocabulary of {}", id, vocab_size);
    }
  }
  return {};
}

Status ValidateLogprobs(const char* name, int32_t value) {
  if (value < -1 || value > kMaxLogprobs) {
    return Errorf("{} is {}; it must be in [0, {}], or -1 for none", name, value, kMaxLogprobs);
  }
  return {};
}

}  // namespace

Status Validate(const SamplingParams& params, int32_t vocab_size) {
  MINIMO_TRY(ValidateLengths(params));
  MINIMO_TRY(ValidateNumbers(params));
  MINIMO_TRY(ValidateStops(params, vocab_size));
  MINIMO_TRY(ValidateIds(params, vocab_size));
  MINIMO_TRY(ValidateLogprobs("logprobs", params.logprobs));
  return ValidateLogprobs("prompt_logprobs", params.prompt_logprobs);
}

const char* ToString(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone: return "";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "abort";
    case FinishReason::kError: return "error";
  }
  return "";
}

}  // namespace minimo
