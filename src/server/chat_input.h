// A conversation as ChatTemplate::Render takes it, whichever protocol it came by, checked field by field.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"

namespace minimo::server {

struct ToolChoice {
  enum Kind { kNone, kAuto, kRequired, kNamed } kind = kAuto;
  std::string name;  // kNamed
};

struct ChatInput {
  // [{"role": system|user|assistant|tool, "content": text, "reasoning_content"?: text, "tool_calls"?: [{"id", "type",
  //   "function": {"name", "arguments": object}}], "tool_call_id"?}]
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  // [{"type": "function", "function": {"name", "description"?, "parameters"}}]
  nlohmann::ordered_json tools = nlohmann::ordered_json::array();
  ToolChoice tool_choice;
  nlohmann::ordered_json template_kwargs = nlohmann::ordered_json::object();
};

// OpenAI's messages, tools, tool_choice, chat_template_kwargs. The error names the place, "messages[2].content".
std::optional<ApiError> ReadOpenAiChat(const nlohmann::ordered_json& body, ChatInput* input);

// Anthropic's messages, system, tools, tool_choice, thinking, chat_template_kwargs.
std::optional<ApiError> ReadAnthropicChat(const nlohmann::ordered_json& body, ChatInput* input);

// Shared by both.
ApiError WrongKind(const std::string& place, const nlohmann::ordered_json& found, const char* expected);
std::optional<ApiError> ReadTool(const std::string& place, const std::string& name,
                                 const nlohmann::ordered_json& description, const nlohmann::ordered_json& schema,
                                 ChatInput* input);
std::optional<ApiError> CheckToolChoice(const ChatInput& input);

}  // namespace minimo::server
