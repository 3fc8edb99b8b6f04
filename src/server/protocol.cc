#include "server/protocol.h"

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "minimo/tokenizer.h"
#include "server/fields.h"
#include "server/json_writer.h"
#include "text/utf8.h"

namespace minimo::server {

namespace {

constexpr float kNever = -9999.0f;  // OpenAI's log probability of what cannot be

}  // namespace

int64_t UnixSeconds() { return static_cast<int64_t>(std::time(nullptr)); }

std::optional<ApiError> CheckModel(const ApiContext& context, const std::string& model) {
  const auto& names = context.model_names;
  if (model.empty() || std::find(names.begin(), names.end(), model) != names.end()) return std::nullopt;
  return ApiError{.status = 404,
                  .code = "model_not_found",
                  .param = "model",
                  .message = fmt::format("The model '{}' is not served here; use '{}'.",
                                         ToValidUtf8(model).substr(0, 200), names[0])};
}

std::optional<ApiError> CheckPrompt(const ApiContext& context, const std::vector<int32_t>& ids, int32_t max_tokens) {
  const int limit = context.engine.max_model_len();
  const int64_t length = static_cast<int64_t>(ids.size());
  if (ids.empty()) return ApiError{.param = "prompt", .message = "The prompt has no tokens; expected at least one."};
  if (length >= limit) {
    return ApiError{.code = "context_length_exceeded",
                    .param = "prompt",
                    .message = fmt::format("The prompt has {} tokens; the model's context holds {}, the answer "
                                           "included. Shorten the prompt.",
                                           length, limit)};
  }
  if (max_tokens > limit - length) {
    return ApiError{.code = "context_length_exceeded",
                    .param = "max_tokens",
                    .message = fmt::format("max_tokens is {}{}, but the prompt has {} tokens and the model's context "
                                           "holds {}: at most {} can follow.",
                                           max_tokens, max_tokens == INT32_MAX ? " or more" : "",  // fields.cc stops there
                                           length, limit, limit - length)};
  }
  return std::nullopt;
}

Usage UsageSum::Total() const {
  Usage total;
  for (size_t i = 0; i < of_choice_.size(); ++i) {
    if (i % static_cast<size_t>(n_) == 0) {
      total.prompt_tokens += of_choice_[i].prompt_tokens;
      total.cached_prompt_tokens += of_choice_[i].cached_prompt_tokens;
    }
    total.completion_tokens += of_choice_[i].completion_tokens;
  }
  return total;
}

void WriteUsage(JsonWriter& json, const Usage& usage, int reasoning_tokens) {
  json.Object()
      .Member("prompt_tokens", usage.prompt_tokens)
      .Member("completion_tokens", usage.completion_tokens)
      .Member("total_tokens", usage.prompt_tokens + usage.completion_tokens)
      .Key("prompt_tokens_details")
      .Object()
      .Member("cached_tokens", usage.cached_prompt_tokens)
      .EndObject();
  if (reasoning_tokens >= 0) {
    json.Key("completion_tokens_details").Object().Member("reasoning_tokens", reasoning_tokens).EndObject();
  }
  json.EndObject();
}

void WriteFinish(JsonWriter& json, FinishReason finish) {
  json.Key("finish_reason");
  finish == FinishReason::kNone ? json.Null() : json.String(ToString(finish));
}

void WriteStopReason(JsonWriter& json, const std::string& stop_reason) {
  json.Key("stop_reason");
  const bool number = !stop_reason.empty() && stop_reason.size() < 10 &&
                      stop_reason.find_first_not_of("0123456789") == std::string::npos;
  if (stop_reason.empty()) {
    json.Null();
  } else if (number) {
    json.Raw(stop_reason);
  } else {
    json.String(stop_reason);
  }
}

std::string TokenText(const Engine& engine, int32_t token) {
  return ToValidUtf8(engine.tokenizer().TokenBytes(token));
}

size_t VisibleTokens(const Event& event, const SamplingParams& params) {
  // A stop by string ends inside the text; a stop by token ends with that token, which is not shown.
  const bool by_token = event.finish == FinishReason::kStop &&
                        std::find(params.stop.begin(), params.stop.end(), event.stop_reason) == params.stop.end();
  return by_token && !event.tokens.empty() ? event.tokens.size() - 1 : event.tokens.size();
}

namespace {

void WriteTokenAndBytes(JsonWriter& json, const Engine& engine, int32_t token, float logprob) {
  json.Member("token", TokenText(engine, token));
  json.Key("logprob").Float(std::max(logprob, kNever));
  json.Key("bytes").Array();
  for (const char c : engine.tokenizer().TokenBytes(token)) json.Int(static_cast<unsigned char>(c));
  json.EndArray();
}

}  // namespace

void WriteChatLogprob(JsonWriter& json, const Engine& engine, const OutputToken& token, int top) {
  json.Object();
  WriteTokenAndBytes(json, engine, token.token, token.logprob);
  json.Key("top_logprobs").Array();
  for (int i = 0; i < std::min<int>(top, static_cast<int>(token.top.size())); ++i) {
    const TokenLogprob& other = token.top[static_cast<size_t>(i)];
    json.Object();
    WriteTokenAndBytes(json, engine, other.token, other.logprob);
    json.EndObject();
  }
  json.EndArray().EndObject();
}

void WritePromptLogprobs(JsonWriter& json, const Engine& engine, const std::vector<int32_t>& prompt_ids,
                         const std::vector<OutputToken>& known) {
  const size_t absent = prompt_ids.size() - std::min(known.size(), prompt_ids.size());
  json.Array();
  for (size_t i = 0; i < prompt_ids.size(); ++i) {
    if (i == 0 || i < absent) {
      json.Null();
      continue;
    }
    const OutputToken& token = known[i - absent];
    const auto entry = [&](int32_t id, float logprob, int32_t rank) {
      json.Key(fmt::format("{}", id)).Object().Key("logprob").Float(std::max(logprob, kNever));
      json.Member("rank", rank).Member("decoded_token", TokenText(engine, id)).EndObject();
    };
    json.Object();
    entry(token.token, token.logprob, token.rank);
    for (const TokenLogprob& other : token.top) {
      if (other.token != token.token) entry(other.token, other.logprob, other.rank);
    }
    json.EndObject();
  }
  json.EndArray();
}

HttpResponse SseHead() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  return head;
}

Request EngineRequest(const Fields& fields, std::vector<int32_t> prompt_ids) {
  Request request;
  request.prompt_ids = std::move(prompt_ids);
  request.params = fields.params;
  request.n = fields.n;
  request.priority = fields.priority;
  request.cache_salt = fields.cache_salt;
  return request;
}

Generation::Origin OriginOf(const HttpRequest& request, const Fields& fields) {
  return {request.path, request.request_id, request.peer, fields.user, request.received_us, fields.stream};
}

Answer AnswerWith(HttpResponse response) {
  return [response = std::move(response)](const ReplyPtr& reply) { reply->Send(response); };
}

Answer AnswerJson(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return AnswerWith(std::move(response));
}

Answer AnswerError(const ApiError& error, bool anthropic) { return AnswerWith(ErrorResponse(error, anthropic)); }

}  // namespace minimo::server
