// Anthropic's Messages to the templates' form. https://docs.anthropic.com/en/api/messages
#include "base/error.h"
#include "server/chat_input.h"
#include "server/json_parse.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

const Json* Find(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::optional<ApiError> ReadString(const Json& object, const char* name, const std::string& place, std::string* text) {
  const Json* value = Find(object, name);
  if (value == nullptr || !value->is_string()) {
    return ApiError{.param = place + "." + name, .message = fmt::format("{}.{}: expected a string.", place, name)};
  }
  *text = value->get<std::string>();
  return std::nullopt;
}

ApiError NotText(const std::string& place, const std::string& type) {
  return {.code = "unsupported_content",
          .param = place,
          .message = fmt::format("{}: a block of type \"{}\" cannot be read; this model takes text only.", place,
                                 type.substr(0, 40))};
}

// A string or an array of text blocks.
std::optional<ApiError> ReadText(const Json& value, const std::string& place, std::string* text) {
  if (value.is_string()) {
    *text = value.get<std::string>();
    return std::nullopt;
  }
  if (!value.is_array()) return WrongKind(place, value, "a string or an array of text blocks");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string block_place = fmt::format("{}[{}]", place, i);
    if (!value[i].is_object()) return WrongKind(block_place, value[i], "an object");
    std::string type, piece;
    if (auto error = ReadString(value[i], "type", block_place, &type)) return error;
    if (type != "text") return NotText(block_place, type);
    if (auto error = ReadString(value[i], "text", block_place, &piece)) return error;
    if (!text->empty() && !piece.empty()) *text += "\n";
    *text += piece;
  }
  return std::nullopt;
}

// One message's blocks. A user's tool results become tool messages before what the user says.
class BlockReader {
 public:
  BlockReader(std::string place, bool assistant) : place_(std::move(place)), assistant_(assistant) {}

  std::optional<ApiError> Read(const Json& content, ChatInput* input) {
    if (content.is_string()) {
      text_ = content.get<std::string>();
    } else if (content.is_array()) {
      for (size_t i = 0; i < content.size(); ++i) {
        if (auto error = ReadBlock(content[i], fmt::format("{}.content[{}]", place_, i), input)) return error;
      }
    } else {
      return WrongKind(place_ + ".content", content, "a string or an array of blocks");
    }
    if (assistant_) {
      Json message = {{"role", "assistant"}, {"content", std::move(text_)}};
      if (!thinking_.empty()) message["reasoning_content"] = std::move(thinking_);
      if (!calls_.empty()) message["tool_calls"] = std::move(calls_);
      input->messages.push_back(std::move(message));
    } else if (!had_results_ || !text_.empty()) {
      input->messages.push_back({{"role", "user"}, {"content", std::move(text_)}});
    }
    return std::nullopt;
  }

 private:
  std::optional<ApiError> ReadBlock(const Json& block, const std::string& place, ChatInput* input) {
    if (!block.is_object()) return WrongKind(place, block, "an object");
    std::string type;
    if (auto error = ReadString(block, "type", place, &type)) return error;
    if (type == "text") {
      std::string piece;
      if (auto error = ReadString(block, "text", place, &piece)) return error;
      if (!text_.empty() && !piece.empty()) text_ += "\n";
      text_ += piece;
      return std::nullopt;
    }
    if (type == "thinking" && assistant_) {
      std::string piece;
      if (auto error = ReadString(block, "thinking", place, &piece)) return error;
      thinking_ += piece;
      return std::nullopt;
    }
    if (type == "redacted_thinking" && assistant_) return std::nullopt;
    if (type == "tool_use" && assistant_) return ReadToolUse(block, place);
    if (type == "tool_result" && !assistant_) return ReadToolResult(block, place, input);
    return NotText(place, type);
  }

  std::optional<ApiError> ReadToolUse(const Json& block, const std::string& place) {
    std::string id, name;
    if (auto error = ReadString(block, "id", place, &id)) return error;
    if (auto error = ReadString(block, "name", place, &name)) return error;
    const Json* arguments = Find(block, "input");
    if (arguments != nullptr && !arguments->is_object()) return WrongKind(place + ".input", *arguments, "an object");
    calls_.push_back({{"id", id},
                      {"type", "function"},
                      {"function", {{"name", name}, {"arguments", arguments ? *arguments : Json::object()}}}});
    return std::nullopt;
  }

  std::optional<ApiError> ReadToolResult(const Json& block, const std::string& place, ChatInput* input) {
    std::string id, text;
    if (auto error = ReadString(block, "tool_use_id", place, &id)) return error;
    if (const Json* content = Find(block, "content")) {
      if (auto error = ReadText(*content, place + ".content", &text)) return error;
    }
    input->messages.push_back({{"role", "tool"}, {"content", std::move(text)}, {"tool_call_id", id}});
    had_results_ = true;
    return std::nullopt;
  }

  const std::string place_;
  const bool assistant_;
  std::string text_, thinking_;
  Json calls_ = Json::array();
  bool had_results_ = false;
};

std::optional<ApiError> ReadTools(const Json& body, ChatInput* input) {
  const Json* tools = Find(body, "tools");
  if (tools == nullptr) return std::nullopt;
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string place = fmt::format("tools[{}]", i);
    const Json& tool = (*tools)[i];
    if (!tool.is_object()) return WrongKind(place, tool, "an object");
    if (const Json* type = Find(tool, "type"); type != nullptr && *type != "custom") {
      return ApiError{.param = place + ".type",
                      .message = place + ".type: tools that the server runs itself are not offered; only \"custom\"."};
    }
    std::string name;
    if (auto error = ReadString(tool, "name", place, &name)) return error;
    const Json* description = Find(tool, "description");
    const Json* schema = Find(tool, "input_schema");
    if (auto error = ReadTool(place, name, description ? *description : Json(), schema ? *schema : Json(), input)) {
      return error;
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ReadToolChoice(const Json& body, ChatInput* input) {
  input->tool_choice.kind = input->tools.empty() ? ToolChoice::kNone : ToolChoice::kAuto;
  const Json* choice = Find(body, "tool_choice");
  if (choice == nullptr) return std::nullopt;
  std::string type;
  if (!choice->is_object()) return WrongKind("tool_choice", *choice, "an object");
  if (auto error = ReadString(*choice, "type", "tool_choice", &type)) return error;
  if (type == "none") {
    input->tool_choice.kind = ToolChoice::kNone;
  } else if (type == "any") {
    input->tool_choice.kind = ToolChoice::kRequired;
  } else if (type == "tool") {
    input->tool_choice.kind = ToolChoice::kNamed;
    if (auto error = ReadString(*choice, "name", "tool_choice", &input->tool_choice.name)) return error;
  } else if (type != "auto") {
    return ApiError{.param = "tool_choice.type",
                    .message = "tool_choice.type: expected \"auto\", \"any\", \"tool\" or \"none\"."};
  }
  return CheckToolChoice(*input);
}

}  // namespace

std::optional<ApiError> ReadAnthropicChat(const Json& body, ChatInput* input) {
  if (const Json* system = Find(body, "system")) {
    std::string text;
    if (auto error = ReadText(*system, "system", &text)) return error;
    if (!text.empty()) input->messages.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  const Json* messages = Find(body, "messages");
  if (messages == nullptr || messages->empty()) {
    return ApiError{.param = "messages", .message = "messages: expected at least one message."};
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    const std::string place = fmt::format("messages[{}]", i);
    const Json& message = (*messages)[i];
    if (!message.is_object()) return WrongKind(place, message, "an object");
    std::string role;
    if (auto error = ReadString(message, "role", place, &role)) return error;
    if (role != "user" && role != "assistant") {
      return ApiError{.param = place + ".role",
                      .message = fmt::format("{}.role: found \"{}\", expected \"user\" or \"assistant\".", place,
                                             role.substr(0, 40))};
    }
    const Json* content = Find(message, "content");
    if (content == nullptr) {
      return ApiError{.param = place + ".content", .message = place + ".content: expected a string or blocks."};
    }
    if (auto error = BlockReader(place, role == "assistant").Read(*content, input)) return error;
  }
  if (auto error = ReadTools(body, input)) return error;
  if (auto error = ReadToolChoice(body, input)) return error;
  if (const Json* kwargs = Find(body, "chat_template_kwargs")) input->template_kwargs = *kwargs;
  return std::nullopt;
}

}  // namespace minimo::server
