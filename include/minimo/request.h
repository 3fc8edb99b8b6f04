// What a client asks for and what it gets back. Values: a Request enters the engine by a queue, Events leave it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "minimo/result.h"

namespace minimo {

// Restricts the next token of one sequence (structured output). Owned by the sequence, called by the engine thread.
class TokenMatcher {
 public:
  virtual ~TokenMatcher() = default;
  // Sets bit t of mask[t / 32] for every token that may come next. `words` = ceil(vocab / 32).
  virtual void FillMask(uint32_t* mask, size_t words) = 0;
  // Advances by a token that the mask allowed. False if it cannot follow (the sequence then ends with an error).
  virtual bool Accept(int32_t token) = 0;
  // True when nothing but the end of the text may follow.
  virtual bool Finished() const = 0;
  virtual std::unique_ptr<TokenMatcher> Clone() const = 0;
};

// Names and meanings are vLLM's. Defaults here are neutral; generation_config.json supplies the model's.
struct SamplingParams {
  int32_t max_tokens = -1;  // -1: up to the context limit
  int32_t min_tokens = 0;   // end-of-text and stop ids are masked before this many tokens
  double temperature = 1.0; // 0: greedy
  double top_p = 1.0;       // (0, 1]
  int32_t top_k = 0;        // 0: off
  double min_p = 0.0;       // [0, 1]
  double repetition_penalty = 1.0;  // > 0, over prompt and output
  double presence_penalty = 0.0;    // over output
  double frequency_penalty = 0.0;   // over output
  std::optional<uint64_t> seed;     // same seed, same text, whatever else runs
  std::vector<std::string> stop;    // the text ends before the first of these
  bool include_stop_str_in_output = false;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int32_t logprobs = -1;         // -1: off; N: the chosen token's and the N best
  int32_t prompt_logprobs = -1;  // likewise for each prompt position; the first, with nothing before it, has 0 and none
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  bool skip_special_tokens = true;         // in the text; ids are always complete
  std::shared_ptr<const TokenMatcher> matcher;  // cloned for each sequence; null: no restriction
};

// Every field in its range, or one line that names the first that is not.
Status Validate(const SamplingParams& params, int32_t vocab_size);

struct Request {
  std::string id;  // unique among live requests; empty: the engine makes one
  std::vector<int32_t> prompt_ids;
  SamplingParams params;
  int32_t n = 1;         // choices, decoded from one shared prompt
  int32_t priority = 0;  // lower runs first (vLLM); equal: first come first served
  std::string cache_salt;  // requests share cached prefixes only under the same salt
};

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };
const char* ToString(FinishReason reason);  // "stop", "length", "abort", "error"; "" for kNone

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;  // 1: the most likely
};

struct OutputToken {
  int32_t token = 0;
  float logprob = 0;              // of the raw distribution (before any processing), as vLLM; 0 if not asked for
  std::vector<TokenLogprob> top;  // best first, if SamplingParams::logprobs > 0
  int32_t rank = 0;               // 1: the most likely of the raw distribution; 0: not asked for
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;  // of these, served from the prefix cache
  int32_t completion_tokens = 0;
};

struct Timing {  // microseconds of the engine's clock
  int64_t arrival_us = 0;
  int64_t first_scheduled_us = 0;
  int64_t first_token_us = 0;
  int64_t last_token_us = 0;
};

// One choice's news. The last event of a choice has finish != kNone; an event with kError carries `error`.
struct Event {
  int32_t choice = 0;
  std::vector<OutputToken> tokens;  // new tokens, the end-of-text token included
  std::string text;                 // new text: whole UTF-8 characters; held back while it may begin a stop string
  FinishReason finish = FinishReason::kNone;
  std::string stop_reason;          // the stop string, or the stop id as a number; empty: end of text
  std::string error;
  Usage usage;    // so far
  Timing timing;  // so far
  std::vector<OutputToken> prompt_logprobs;  // in the first event of choice 0, if asked for
};

// Called on the engine thread, in order; must not block.
using EventSink = std::function<void(Event&&)>;

}  // namespace minimo
