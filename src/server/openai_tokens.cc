// GET /v1/models, POST /tokenize and /detokenize (vLLM's).
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "minimo/tokenizer.h"
#include "server/chat_input.h"
#include "server/chat_service.h"
#include "server/endpoints.h"
#include "server/json_parse.h"
#include "server/json_writer.h"
#include "server/protocol.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

void WriteModel(JsonWriter& json, const ApiContext& context, const std::string& name) {
  json.Object()
      .Member("id", name)
      .Member("object", "model")
      .Member("created", context.started_s)
      .Member("owned_by", "minimo")
      .Member("root", context.model_names[0])
      .Key("parent").Null()
      .Member("max_model_len", context.engine.max_model_len())
      .EndObject();
}

// The member as a string, "" if it is not there.
std::optional<ApiError> StringMember(const Json& body, const char* name, std::string* value) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null()) return std::nullopt;
  if (!it->is_string()) {
    return ApiError{.param = name, .message = fmt::format("{}: found {}, expected a string.", name, KindOf(*it))};
  }
  *value = it->get<std::string>();
  return std::nullopt;
}

std::optional<ApiError> BoolMember(const Json& body, const char* name, bool* value) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null()) return std::nullopt;
  if (!it->is_boolean()) {
    return ApiError{.param = name, .message = fmt::format("{}: found {}, expected a boolean.", name, KindOf(*it))};
  }
  *value = it->get<bool>();
  return std::nullopt;
}

// The prompt that /v1/chat/completions would make of these messages and tools.
std::optional<ApiError> EncodeChat(const ApiContext& context, const Json& body, std::vector<int32_t>* ids) {
  ChatInput input;
  ChatService::Options options;
  if (!body["messages"].is_array()) return WrongKind("messages", body["messages"], "an array");
  if (auto error = BoolMember(body, "add_generation_prompt", &options.add_generation_prompt)) return error;
  if (auto error = BoolMember(body, "continue_final_message", &options.continue_final_message)) return error;
  if (auto error = ReadOpenAiChat(body, &input)) return error;
  auto prepared = context.chat.Prepare(input, options);
  if (!prepared.ok()) return ApiError{.param = "messages", .message = prepared.error().message};
  *ids = std::move(prepared->prompt_ids);
  return std::nullopt;
}

std::optional<ApiError> Tokenize(const ApiContext& context, const std::string& text, JsonWriter& json) {
  auto body = ParseJsonObject(text);
  if (!body.ok()) return ApiError{.code = "invalid_json", .message = body.error().message};
  std::string model, prompt;
  bool add_special_tokens = true, return_token_strs = false;
  if (auto error = StringMember(*body, "model", &model)) return error;
  if (auto error = CheckModel(context, model)) return error;
  if (auto error = BoolMember(*body, "add_special_tokens", &add_special_tokens)) return error;
  if (auto error = BoolMember(*body, "return_token_strs", &return_token_strs)) return error;
  const Tokenizer& tokenizer = context.engine.tokenizer();
  std::vector<int32_t> ids;
  const char* name = body->contains("content") ? "content" : "prompt";  // llama.cpp's name, vLLM's
  if (body->contains("messages")) {
    if (auto error = EncodeChat(context, *body, &ids)) return error;
  } else if (body->contains(name)) {
    if (auto error = StringMember(*body, name, &prompt)) return error;
    auto encoded = tokenizer.Encode(prompt, {.add_special_tokens = add_special_tokens});
    if (!encoded.ok()) return ApiError{.param = name, .message = encoded.error().message};
    ids = std::move(*encoded);
  } else {
    return ApiError{.param = "prompt", .message = "prompt: found nothing, expected a string, or messages."};
  }
  json.Object().Member("count", static_cast<int64_t>(ids.size()));
  json.Member("max_model_len", context.engine.max_model_len()).Key("tokens").Array();
  for (const int32_t id : ids) json.Int(id);
  json.EndArray().Key("token_strs");
  if (return_token_strs) {
    json.Array();
    for (const int32_t id : ids) json.String(tokenizer.IdToToken(id).value_or(""));
    json.EndArray();
  } else {
    json.Null();
  }
  json.EndObject();
  return std::nullopt;
}

std::optional<ApiError> Detokenize(const ApiContext& context, const std::string& text, JsonWriter& json) {
  auto body = ParseJsonObject(text);
  if (!body.ok()) return ApiError{.code = "invalid_json", .message = body.error().message};
  std::string model;
  if (auto error = StringMember(*body, "model", &model)) return error;
  if (auto error = CheckModel(context, model)) return error;
  const auto tokens = body->find("tokens");
  const Tokenizer& tokenizer = context.engine.tokenizer();
  if (tokens == body->end() || !tokens->is_array()) {
    return ApiError{.param = "tokens", .message = "tokens: expected an array of token ids."};
  }
  std::vector<int32_t> ids;
  for (const Json& item : *tokens) {
    const bool integer = item.is_number_integer();
    if (!integer || item.get<double>() < 0 || item.get<double>() >= tokenizer.vocab_size()) {
      return ApiError{.param = "tokens",
                      .message = fmt::format("tokens: {} is not a token id; expected 0 to {}.",
                                             Dump(item).substr(0, 60), tokenizer.vocab_size() - 1)};
    }
    ids.push_back(item.get<int32_t>());
  }
  json.Object().Member("prompt", tokenizer.Decode(ids)).EndObject();
  return std::nullopt;
}

}  // namespace

Answer PrepareModels(const ApiContext& context, HttpRequest&& request) {
  static constexpr std::string_view kPrefix = "/v1/models/";
  JsonWriter json;
  if (request.path.size() > kPrefix.size()) {
    const std::string name = request.path.substr(kPrefix.size());
    if (auto error = CheckModel(context, name)) return AnswerError(*error);
    WriteModel(json, context, name);
    return AnswerJson(json.Take());
  }
  json.Object().Member("object", "list").Key("data").Array();
  for (const std::string& name : context.model_names) WriteModel(json, context, name);
  return AnswerJson(json.EndArray().EndObject().Take());
}

Answer PrepareTokenize(const ApiContext& context, HttpRequest&& request) {
  JsonWriter json;
  if (auto error = Tokenize(context, request.body, json)) return AnswerError(*error);
  return AnswerJson(json.Take());
}

Answer PrepareDetokenize(const ApiContext& context, HttpRequest&& request) {
  JsonWriter json;
  if (auto error = Detokenize(context, request.body, json)) return AnswerError(*error);
  return AnswerJson(json.Take());
}

}  // namespace minimo::server
