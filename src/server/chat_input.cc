#include "server/chat_input.h"

#include <set>

#include "base/error.h"
#include "server/json_parse.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxMessages = 10'000;
constexpr size_t kMaxTools = 1'000;
constexpr size_t kMaxNameLength = 256;

// A member that is there and not null.
const Json* Find(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

// A string, null, or an array of text parts: the text.
std::optional<ApiError> ReadText(const Json* value, const std::string& place, std::string* text) {
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) {
    *text = value->get<std::string>();
    return std::nullopt;
  }
  if (!value->is_array()) return WrongKind(place, *value, "a string or an array of text parts");
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& part = (*value)[i];
    const std::string part_place = fmt::format("{}[{}]", place, i);
    if (part.is_string()) {
      *text += part.get_ref<const std::string&>();
      continue;
    }
    if (!part.is_object()) return WrongKind(part_place, part, "an object with \"type\"");
    const Json* type = Find(part, "type");
    if (type == nullptr || !type->is_string()) {
      return ApiError{.param = part_place + ".type", .message = part_place + ".type: expected \"text\"."};
    }
    const std::string kind = type->get<std::string>();
    if (kind != "text" && kind != "input_text" && kind != "output_text" && kind != "refusal") {
      return ApiError{.code = "unsupported_content",
                      .param = part_place,
                      .message = fmt::format("{}: a part of type \"{}\" cannot be read; this model takes text only.",
                                             part_place, kind.substr(0, 40))};
    }
    const char* member = kind == "refusal" ? "refusal" : "text";
    const Json* piece = Find(part, member);
    if (piece == nullptr || !piece->is_string()) {
      return ApiError{.param = part_place, .message = fmt::format("{}.{}: expected a string.", part_place, member)};
    }
    *text += piece->get_ref<const std::string&>();
  }
  return std::nullopt;
}

// A call's arguments: an object, or its JSON text as OpenAI writes it.
std::optional<ApiError> ReadArguments(const Json* value, const std::string& place, Json* arguments) {
  *arguments = Json::object();
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) {
    *arguments = *value;
    return std::nullopt;
  }
  if (!value->is_string()) return WrongKind(place, *value, "a JSON object as a string");
  const std::string& text = value->get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return std::nullopt;
  auto parsed = ParseJsonObject(text);
  if (!parsed.ok()) {
    return ApiError{.param = place, .message = fmt::format("{}: expected a JSON object as a string.", place)};
  }
  *arguments = std::move(*parsed);
  return std::nullopt;
}

std::optional<ApiError> ReadToolCalls(const Json& message, const std::string& place, Json* out) {
  const Json* calls = Find(message, "tool_calls");
  if (calls == nullptr) return std::nullopt;
  if (!calls->is_array()) return WrongKind(place + ".tool_calls", *calls, "an array");
  Json result = Json::array();
  for (size_t i = 0; i < calls->size(); ++i) {
    const std::string call_place = fmt::format("{}.tool_calls[{}]", place, i);
    const Json& call = (*calls)[i];
    const Json* function = call.is_object() ? Find(call, "function") : nullptr;
    const Json* name = function != nullptr && function->is_object() ? Find(*function, "name") : nullptr;
    if (name == nullptr || !name->is_string()) {
      return ApiError{.param = call_place + ".function.name",
                      .message = call_place + ".function.name: expected a string."};
    }
    Json arguments;
    if (auto error = ReadArguments(Find(*function, "arguments"), call_place + ".function.arguments", &arguments)) {
      return error;
    }
    const Json* id = Find(call, "id");
    result.push_back({{"id", id != nullptr && id->is_string() ? *id : Json("")},
                      {"type", "function"},
                      {"function", {{"name", *name}, {"arguments", std::move(arguments)}}}});
  }
  if (!result.empty()) (*out)["tool_calls"] = std::move(result);
  return std::nullopt;
}

// Reasoning that a client brings back: reasoning_content (ours), reasoning (vLLM), reasoning_details (OpenRouter).
std::optional<ApiError> ReadReasoning(const Json& message, const std::string& place, Json* out) {
  for (const char* name : {"reasoning_content", "reasoning"}) {
    const Json* value = Find(message, name);
    if (value == nullptr) continue;
    if (!value->is_string()) return WrongKind(fmt::format("{}.{}", place, name), *value, "a string");
    if (!value->get_ref<const std::string&>().empty()) {
      (*out)["reasoning_content"] = *value;
      return std::nullopt;
    }
  }
  const Json* details = Find(message, "reasoning_details");
  if (details == nullptr || !details->is_array()) return std::nullopt;
  std::string text;
  for (const Json& detail : *details) {
    const Json* piece = detail.is_object() ? Find(detail, "text") : nullptr;
    if (piece != nullptr && piece->is_string()) text += piece->get_ref<const std::string&>();
  }
  if (!text.empty()) (*out)["reasoning_content"] = text;
  return std::nullopt;
}

std::optional<ApiError> ReadMessage(const Json& message, const std::string& place, Json* out) {
  if (!message.is_object()) return WrongKind(place, message, "an object");
  const Json* role_value = Find(message, "role");
  if (role_value == nullptr || !role_value->is_string()) {
    return ApiError{.param = place + ".role",
                    .message = place + ".role: expected \"system\", \"user\", \"assistant\" or \"tool\"."};
  }
  std::string role = role_value->get<std::string>();
  if (role == "developer") role = "system";
  if (role == "function") role = "tool";
  static const std::set<std::string> kRoles = {"system", "user", "assistant", "tool"};
  if (kRoles.count(role) == 0) {
    return ApiError{.param = place + ".role",
                    .message = fmt::format("{}.role: found \"{}\", expected \"system\", \"user\", \"assistant\" or "
                                           "\"tool\".",
                                           place, role.substr(0, 40))};
  }
  std::string text;
  const Json* content = Find(message, "content");
  if (content == nullptr && role != "assistant") {
    return ApiError{.param = place + ".content", .message = place + ".content: found nothing, expected a string."};
  }
  if (auto error = ReadText(content, place + ".content", &text)) return error;
  *out = {{"role", role}, {"content", std::move(text)}};
  if (role == "assistant") {
    if (auto error = ReadReasoning(message, place, out)) return error;
    if (auto error = ReadToolCalls(message, place, out)) return error;
  }
  if (role == "tool") {
    const Json* id = Find(message, "tool_call_id");
    if (id != nullptr && id->is_string()) (*out)["tool_call_id"] = *id;
  }
  return std::nullopt;
}

std::optional<ApiError> ReadTools(const Json& body, ChatInput* input) {
  const Json* tools = Find(body, "tools");
  if (tools == nullptr) return std::nullopt;
  if (!tools->is_array()) return WrongKind("tools", *tools, "an array");
  if (tools->size() > kMaxTools) {
    return ApiError{.param = "tools",
                    .message = fmt::format("tools: found {}, at most {} are taken.", tools->size(), kMaxTools)};
  }
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string place = fmt::format("tools[{}]", i);
    const Json& tool = (*tools)[i];
    if (!tool.is_object()) return WrongKind(place, tool, "an object");
    const Json* type = Find(tool, "type");
    if (type != nullptr && *type != "function") {
      return ApiError{.param = place + ".type", .message = place + ".type: only \"function\" is known."};
    }
    const Json* function = Find(tool, "function");
    if (function == nullptr || !function->is_object()) {
      return ApiError{.param = place + ".function", .message = place + ".function: expected an object."};
    }
    const Json* name = Find(*function, "name");
    if (name == nullptr || !name->is_string()) {
      return ApiError{.param = place + ".function.name", .message = place + ".function.name: expected a string."};
    }
    const Json* description = Find(*function, "description");
    const Json* parameters = Find(*function, "parameters");
    if (auto error = ReadTool(place + ".function", name->get<std::string>(), description ? *description : Json(),
                              parameters ? *parameters : Json(), input)) {
      return error;
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ReadToolChoice(const Json& body, ChatInput* input) {
  const Json* choice = Find(body, "tool_choice");
  const ApiError bad{.param = "tool_choice",
                     .message = "tool_choice: expected \"none\", \"auto\", \"required\" or {\"type\": \"function\", "
                                "\"function\": {\"name\": ...}}."};
  if (choice == nullptr) {
    input->tool_choice.kind = input->tools.empty() ? ToolChoice::kNone : ToolChoice::kAuto;
    return std::nullopt;
  }
  if (*choice == "none") {
    input->tool_choice.kind = ToolChoice::kNone;
  } else if (*choice == "auto") {
    input->tool_choice.kind = input->tools.empty() ? ToolChoice::kNone : ToolChoice::kAuto;
  } else if (*choice == "required") {
    input->tool_choice.kind = ToolChoice::kRequired;
  } else if (choice->is_object()) {
    const Json* function = Find(*choice, "function");
    const Json* name = function != nullptr && function->is_object() ? Find(*function, "name") : nullptr;
    if (name == nullptr || !name->is_string()) return bad;
    input->tool_choice = {ToolChoice::kNamed, name->get<std::string>()};
  } else {
    return bad;
  }
  return CheckToolChoice(*input);
}

}  // namespace

ApiError WrongKind(const std::string& place, const Json& found, const char* expected) {
  return {.param = place, .message = fmt::format("{}: found {}, expected {}.", place, KindOf(found), expected)};
}

std::optional<ApiError> ReadTool(const std::string& place, const std::string& name, const Json& description,
                                 const Json& schema, ChatInput* input) {
  if (name.empty() || name.size() > kMaxNameLength || name.find_first_of("<>\"'\n\r\t &=") != std::string::npos) {
    return ApiError{.param = place + ".name",
                    .message = fmt::format("{}.name: expected 1 to {} characters without spaces, quotes, '<', '>', "
                                           "'&' and '='.",
                                           place, kMaxNameLength)};
  }
  if (!description.is_null() && !description.is_string()) {
    return WrongKind(place + ".description", description, "a string");
  }
  if (!schema.is_null() && !schema.is_object()) {
    return WrongKind(place + ".parameters", schema, "a JSON schema object");
  }
  Json function = {{"name", name}};
  if (!description.is_null()) function["description"] = description;
  function["parameters"] = schema.is_null() ? Json{{"type", "object"}, {"properties", Json::object()}} : schema;
  input->tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  return std::nullopt;
}

std::optional<ApiError> CheckToolChoice(const ChatInput& input) {
  const ToolChoice& choice = input.tool_choice;
  if (choice.kind == ToolChoice::kRequired && input.tools.empty()) {
    return ApiError{.param = "tool_choice", .message = "tool_choice: \"required\" needs tools, and none are given."};
  }
  if (choice.kind != ToolChoice::kNamed) return std::nullopt;
  for (const Json& tool : input.tools) {
    if (tool["function"]["name"] == choice.name) return std::nullopt;
  }
  return ApiError{.param = "tool_choice",
                  .message = fmt::format("tool_choice: names \"{}\", which is not among the tools.",
                                         choice.name.substr(0, kMaxNameLength))};
}

std::optional<ApiError> ReadOpenAiChat(const Json& body, ChatInput* input) {
  const Json* messages = Find(body, "messages");
  if (messages == nullptr || messages->empty()) {
    return ApiError{.param = "messages", .message = "messages: expected at least one message."};
  }
  if (messages->size() > kMaxMessages) {
    return ApiError{
        .param = "messages",
        .message = fmt::format("messages: found {}, at most {} are taken.", messages->size(), kMaxMessages)};
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    Json message;
    if (auto error = ReadMessage((*messages)[i], fmt::format("messages[{}]", i), &message)) return error;
    input->messages.push_back(std::move(message));
  }
  if (auto error = ReadTools(body, input)) return error;
  if (auto error = ReadToolChoice(body, input)) return error;
  const Json* kwargs = Find(body, "chat_template_kwargs");
  if (kwargs == nullptr) return std::nullopt;
  if (!kwargs->is_object()) return WrongKind("chat_template_kwargs", *kwargs, "an object");
  input->template_kwargs = *kwargs;
  return std::nullopt;
}

}  // namespace minimo::server
