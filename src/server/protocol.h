// What the protocols share: the server's own context, lengths, usage, log probabilities, server-sent events.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/engine.h"
#include "minimo/request.h"
#include "server/api_error.h"
#include "server/endpoints.h"
#include "server/generation.h"
#include "server/http_types.h"

namespace minimo::server {

class JsonWriter;
class ChatService;
struct Fields;

// What every endpoint may use; outlives all requests.
struct ApiContext {
  Engine& engine;
  Metrics& metrics;
  Admission& admission;
  const ChatService& chat;
  std::vector<std::string> model_names;  // the first is the one that answers carry
  int64_t started_s = 0;                 // Unix time

  GenerationContext generation() const { return {engine, metrics, admission}; }
};

int64_t UnixSeconds();

// The model named is served here ("" is taken as the default).
std::optional<ApiError> CheckModel(const ApiContext& context, const std::string& model);

// The prompt and max_tokens fit the context; token ids name tokens.
std::optional<ApiError> CheckPrompt(const ApiContext& context, const std::vector<int32_t>& ids, int32_t max_tokens);

// Sums usage over the choices of a request; a prompt counts once for all its choices.
class UsageSum {
 public:
  UsageSum(int choices, int n) : n_(n), of_choice_(static_cast<size_t>(choices)) {}
  void Set(int choice, const Usage& usage) { of_choice_[static_cast<size_t>(choice)] = usage; }
  Usage Total() const;
  Usage Of(int choice) const { return of_choice_[static_cast<size_t>(choice)]; }

 private:
  int n_;
  std::vector<Usage> of_choice_;
};

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details": {"cached_tokens"}} and, if not
// negative, completion_tokens_details.reasoning_tokens.
void WriteUsage(JsonWriter& json, const Usage& usage, int reasoning_tokens);

// "stop", "length"; null while the choice runs.
void WriteFinish(JsonWriter& json, FinishReason finish);
// vLLM's stop_reason: the stop string, the stop token's id, or null.
void WriteStopReason(JsonWriter& json, const std::string& stop_reason);

// A token as text, U+FFFD for bytes that are not whole characters.
std::string TokenText(const Engine& engine, int32_t token);

// The tokens of an event that stand in the text: without the one that ended it.
size_t VisibleTokens(const Event& event, const SamplingParams& params);

// OpenAI chat: {"token", "logprob", "bytes", "top_logprobs": [...]}.
void WriteChatLogprob(JsonWriter& json, const Engine& engine, const OutputToken& token, int top);

// vLLM's prompt_logprobs: one entry a prompt token, null for the first:
// {"<token id>": {"logprob", "rank", "decoded_token"}, ...}.
void WritePromptLogprobs(JsonWriter& json, const Engine& engine, const std::vector<int32_t>& prompt_ids,
                         const std::vector<OutputToken>& known);

HttpResponse SseHead();  // of a stream of server-sent events

// The engine's request for one prompt of these fields.
Request EngineRequest(const Fields& fields, std::vector<int32_t> prompt_ids);
Generation::Origin OriginOf(const HttpRequest& request, const Fields& fields);

// What an endpoint's preparation comes to when it can answer at once.
Answer AnswerWith(HttpResponse response);
Answer AnswerJson(std::string body);
Answer AnswerError(const ApiError& error, bool anthropic = false);

}  // namespace minimo::server
