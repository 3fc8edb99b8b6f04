// POST /v1/completions (OpenAI's text completions, with vLLM's extra fields).
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "minimo/tokenizer.h"
#include "server/chat_service.h"
#include "server/endpoints.h"
#include "server/fields.h"
#include "server/json_parse.h"
#include "server/openai_completion_writer.h"
#include "server/protocol.h"
#include "spec/model_spec.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxPrompts = 2048;

ApiError BadPrompt(const std::string& found) {
  return {.param = "prompt",
          .message = fmt::format("prompt: found {}, expected a string, an array of strings, an array of token ids or "
                                 "an array of such arrays.",
                                 found)};
}

std::optional<ApiError> ReadIds(const ApiContext& context, const Json& value, std::vector<int32_t>* ids) {
  const int32_t vocab = context.engine.model().vocab;  // ids without text too
  for (const Json& item : value) {
    if (!item.is_number_integer()) return BadPrompt(std::string("an array with ") + KindOf(item));
    const int64_t id = item.is_number_unsigned() && item.get<uint64_t>() > INT32_MAX ? -1 : item.get<int64_t>();
    if (id < 0 || id >= vocab) {
      return ApiError{.param = "prompt",
                      .message = fmt::format("prompt: {} is not a token id; expected 0 to {}.", Dump(item), vocab - 1)};
    }
    ids->push_back(static_cast<int32_t>(id));
  }
  return std::nullopt;
}

std::optional<ApiError> Encode(const ApiContext& context, const Fields& fields, const Json& text,
                               std::vector<int32_t>* ids) {
  auto encoded = context.engine.tokenizer().Encode(text.get_ref<const std::string&>(),
                                                   {.add_special_tokens = fields.add_special_tokens});
  if (!encoded.ok()) return ApiError{.param = "prompt", .message = encoded.error().message};
  *ids = std::move(*encoded);
  return std::nullopt;
}

// Fills one entry a prompt.
std::optional<ApiError> ReadPrompts(const ApiContext& context, const Fields& fields, const Json& body,
                                    std::vector<std::vector<int32_t>>* prompts) {
  const auto prompt = body.find("prompt");
  if (prompt == body.end() || prompt->is_null()) return BadPrompt("nothing");
  if (prompt->is_string()) {
    prompts->emplace_back();
    return Encode(context, fields, *prompt, &prompts->back());
  }
  if (!prompt->is_array() || prompt->empty()) return BadPrompt(prompt->is_array() ? "an empty array" : KindOf(*prompt));
  if ((*prompt)[0].is_number()) {
    prompts->emplace_back();
    return ReadIds(context, *prompt, &prompts->back());
  }
  if (prompt->size() > kMaxPrompts) {
    return BadPrompt(fmt::format("{} prompts (at most {})", prompt->size(), kMaxPrompts));
  }
  for (const Json& item : *prompt) {
    prompts->emplace_back();
    std::optional<ApiError> error;
    if (item.is_string()) {
      error = Encode(context, fields, item, &prompts->back());
    } else if (item.is_array()) {
      error = ReadIds(context, item, &prompts->back());
    } else {
      error = BadPrompt(std::string("an array with ") + KindOf(item));
    }
    if (error) return error;
  }
  return std::nullopt;
}

struct Parsed {
  Fields fields;
  std::vector<std::vector<int32_t>> prompts;
  bool discard_output = false;
};

std::optional<ApiError> Parse(const ApiContext& context, const std::string& text, Parsed* parsed) {
  auto body = ParseJsonObject(text);
  if (!body.ok()) return ApiError{.code = "invalid_json", .message = body.error().message};
  Fields& fields = parsed->fields;
  fields.params = context.engine.default_params();
  fields.params.max_tokens = 16;  // OpenAI's default for this endpoint
  fields.add_special_tokens = true;
  if (auto error = ReadFields(*body, kCompletions, &fields)) return error;
  if (auto error = CheckModel(context, fields.model)) return error;
  if (!fields.suffix.empty()) {
    return ApiError{.param = "suffix",
                    .message = "suffix: these models were not trained to fill in the middle; leave it out."};
  }
  OutputFormat format;
  if (auto error = ReadOutputFormat(*body, &format)) return error;
  auto matcher = context.chat.FormatMatcher(format);
  if (!matcher.ok()) {
    const bool ours = body->contains("structured_outputs");
    return ApiError{.param = ours ? "structured_outputs" : "response_format", .message = matcher.error().message};
  }
  SamplingParams& params = fields.params;
  params.matcher = std::move(*matcher);
  parsed->discard_output = params.max_tokens == 0;
  if (parsed->discard_output) {
    if (!fields.echo) {
      return ApiError{.param = "max_tokens", .message = "max_tokens: found 0, expected at least 1 (0 needs echo)."};
    }
    params.max_tokens = 1;
    params.min_tokens = 0;
  }
  params.logprobs = fields.completion_logprobs;
  if (fields.echo && fields.completion_logprobs >= 0) params.prompt_logprobs = fields.completion_logprobs;
  if (auto error = ReadPrompts(context, fields, *body, &parsed->prompts)) return error;
  for (const auto& ids : parsed->prompts) {
    if (auto error = CheckPrompt(context, ids, params.max_tokens)) return error;
  }
  return std::nullopt;
}

}  // namespace

Answer PrepareCompletions(const ApiContext& context, HttpRequest&& request) {
  const auto parsed = std::make_shared<Parsed>();
  if (auto error = Parse(context, request.body, parsed.get())) return AnswerError(*error);
  const auto prompts = std::make_shared<std::vector<Request>>();
  for (const auto& ids : parsed->prompts) prompts->push_back(EngineRequest(parsed->fields, ids));
  return [&context, parsed, prompts, origin = OriginOf(request, parsed->fields)](const ReplyPtr& reply) {
    auto writer = std::make_unique<CompletionWriter>(context, reply, std::move(parsed->fields),
                                                     std::move(parsed->prompts), parsed->discard_output);
    Generation::Start(context.generation(), reply, origin, std::move(*prompts), std::move(writer));
  };
}

}  // namespace minimo::server
