// POST /v1/messages and /v1/messages/count_tokens.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/anthropic_writer.h"
#include "server/chat_input.h"
#include "server/chat_service.h"
#include "server/endpoints.h"
#include "server/fields.h"
#include "server/json_parse.h"
#include "server/json_writer.h"
#include "server/protocol.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

struct Parsed {
  Fields fields;
  PreparedChat chat;
  bool show_thinking = true;
};

// {"type": "enabled", "budget_tokens": N} | {"type": "disabled"} | {"type": "adaptive"}
std::optional<ApiError> ReadThinking(const Json& body, ChatInput* input, bool* show) {
  const auto thinking = body.find("thinking");
  if (thinking == body.end() || thinking->is_null()) return std::nullopt;
  const auto type = thinking->find("type");
  const bool disabled = type != thinking->end() && *type == "disabled";
  if (type == thinking->end() || (!disabled && *type != "enabled" && *type != "adaptive")) {
    return ApiError{.param = "thinking.type",
                    .message = "thinking.type: expected \"enabled\", \"disabled\" or \"adaptive\"."};
  }
  if (!input->template_kwargs.contains("enable_thinking")) input->template_kwargs["enable_thinking"] = !disabled;
  *show = !disabled;
  return std::nullopt;
}

std::optional<ApiError> Parse(const ApiContext& context, const std::string& text, Taker taker, Parsed* parsed) {
  auto body = ParseJsonObject(text);
  if (!body.ok()) return ApiError{.code = "invalid_json", .message = body.error().message};
  Fields& fields = parsed->fields;
  fields.params = context.engine.default_params();
  fields.params.max_tokens = 0;
  if (auto error = ReadFields(*body, taker, &fields)) return error;
  if (auto error = CheckModel(context, fields.model)) return error;
  if (taker == kMessages && fields.params.max_tokens < 1) {
    return ApiError{.param = "max_tokens", .message = "max_tokens: expected an integer of at least 1."};
  }
  ChatInput input;
  if (auto error = ReadAnthropicChat(*body, &input)) return error;
  if (auto error = ReadThinking(*body, &input, &parsed->show_thinking)) return error;
  ChatService::Options options;
  if (const auto choice = body->find("tool_choice"); choice != body->end() && choice->is_object()) {
    const auto one = choice->find("disable_parallel_tool_use");
    options.parallel_tool_calls = one == choice->end() || *one != true;
  }
  // A last message of the assistant is the beginning of its answer (a prefill).
  options.continue_final_message = input.messages.back()["role"] == "assistant";
  options.add_generation_prompt = !options.continue_final_message;
  auto prepared = context.chat.Prepare(input, options);
  if (!prepared.ok()) return ApiError{.message = prepared.error().message};
  parsed->chat = std::move(*prepared);
  fields.params.matcher = parsed->chat.matcher;
  if (taker == kCountTokens) return std::nullopt;
  return CheckPrompt(context, parsed->chat.prompt_ids, fields.params.max_tokens);
}

}  // namespace

Answer PrepareMessages(const ApiContext& context, HttpRequest&& request) {
  const auto parsed = std::make_shared<Parsed>();
  if (auto error = Parse(context, request.body, kMessages, parsed.get())) return AnswerError(*error, true);
  const auto prompt = std::make_shared<Request>(EngineRequest(parsed->fields, parsed->chat.prompt_ids));
  return [&context, parsed, prompt, origin = OriginOf(request, parsed->fields)](const ReplyPtr& reply) {
    auto writer = std::make_unique<AnthropicWriter>(
        context, reply, std::move(parsed->fields), static_cast<int>(parsed->chat.prompt_ids.size()),
        std::move(parsed->chat.parsers[0]), parsed->show_thinking);
    std::vector<Request> prompts;
    prompts.push_back(std::move(*prompt));
    Generation::Start(context.generation(), reply, origin, std::move(prompts), std::move(writer));
  };
}

Answer PrepareCountTokens(const ApiContext& context, HttpRequest&& request) {
  Parsed parsed;
  if (auto error = Parse(context, request.body, kCountTokens, &parsed)) return AnswerError(*error, true);
  JsonWriter json;
  json.Object().Member("input_tokens", static_cast<int64_t>(parsed.chat.prompt_ids.size()));
  return AnswerJson(json.EndObject().Take());
}

}  // namespace minimo::server
