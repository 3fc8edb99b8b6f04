// POST /v1/chat/completions.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/chat_input.h"
#include "server/chat_service.h"
#include "server/endpoints.h"
#include "server/fields.h"
#include "server/json_parse.h"
#include "server/openai_chat_writer.h"
#include "server/output_format.h"
#include "server/protocol.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

struct Parsed {
  Fields fields;
  PreparedChat chat;
};

std::optional<ApiError> ReadThinking(const Fields& fields, ChatInput* input) {
  Json& kwargs = input->template_kwargs;
  if (fields.enable_thinking && !kwargs.contains("enable_thinking")) {
    kwargs["enable_thinking"] = *fields.enable_thinking;
  }
  const std::string& effort = fields.reasoning_effort;
  if (effort.empty()) return std::nullopt;
  static constexpr std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
  if (std::find(std::begin(kEfforts), std::end(kEfforts), effort) == std::end(kEfforts)) {
    return ApiError{.param = "reasoning_effort",
                    .message = "reasoning_effort: expected none, minimal, low, medium, high, xhigh or max."};
  }
  if (!kwargs.contains("reasoning_effort")) kwargs["reasoning_effort"] = effort;
  if (!kwargs.contains("enable_thinking")) kwargs["enable_thinking"] = effort != "none";
  return std::nullopt;
}

std::optional<ApiError> Parse(const ApiContext& context, const std::string& text, Parsed* parsed) {
  auto body = ParseJsonObject(text);
  if (!body.ok()) return ApiError{.code = "invalid_json", .message = body.error().message};
  Fields& fields = parsed->fields;
  fields.params = context.engine.default_params();
  fields.params.max_tokens = -1;
  if (auto error = ReadFields(*body, kChat, &fields)) return error;
  if (auto error = CheckModel(context, fields.model)) return error;
  if (fields.top_logprobs > 0 && !fields.logprobs) {
    return ApiError{.param = "top_logprobs", .message = "top_logprobs: needs \"logprobs\": true."};
  }
  if (fields.params.max_tokens == 0) {
    return ApiError{.param = "max_tokens", .message = "max_tokens: found 0, expected at least 1."};
  }
  fields.params.logprobs = fields.logprobs ? fields.top_logprobs : -1;
  ChatInput input;
  ChatService::Options options{.add_generation_prompt = fields.add_generation_prompt,
                               .continue_final_message = fields.continue_final_message,
                               .parallel_tool_calls = fields.parallel_tool_calls,
                               .choices = fields.n};
  if (auto error = ReadOpenAiChat(*body, &input)) return error;
  if (auto error = ReadOutputFormat(*body, &options.format)) return error;
  if (auto error = ReadThinking(fields, &input)) return error;
  auto prepared = context.chat.Prepare(input, options);
  if (!prepared.ok()) return ApiError{.message = prepared.error().message};
  parsed->chat = std::move(*prepared);
  fields.params.matcher = parsed->chat.matcher;
  return CheckPrompt(context, parsed->chat.prompt_ids, fields.params.max_tokens);
}

}  // namespace

Answer PrepareChat(const ApiContext& context, HttpRequest&& request) {
  const auto parsed = std::make_shared<Parsed>();
  if (auto error = Parse(context, request.body, parsed.get())) return AnswerError(*error);
  const auto prompt = std::make_shared<Request>(EngineRequest(parsed->fields, parsed->chat.prompt_ids));
  return [&context, parsed, prompt, origin = OriginOf(request, parsed->fields)](const ReplyPtr& reply) {
    auto writer = std::make_unique<OpenAiChatWriter>(context, reply, std::move(parsed->fields),
                                                     std::move(parsed->chat.prompt_ids),
                                                     std::move(parsed->chat.parsers));
    std::vector<Request> prompts;
    prompts.push_back(std::move(*prompt));
    Generation::Start(context.generation(), reply, origin, std::move(prompts), std::move(writer));
  };
}

}  // namespace minimo::server
