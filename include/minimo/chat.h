// From a conversation to the prompt text: the checkpoint's own chat template, fed as Hugging Face feeds it.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo {

struct ChatOptions {
  bool add_generation_prompt = true;
  // The prompt ends within the last message's content, for the model to go on; excludes add_generation_prompt.
  bool continue_final_message = false;
  std::optional<bool> enable_thinking;  // unset: the template's default
  std::string reasoning_effort;         // empty: not given; "none" also turns thinking off where that is not set
  std::string extra;                    // a JSON object of further variables (chat_template_kwargs); empty: none
};

// Immutable; threads may render at the same time.
class ChatTemplate {
 public:
  // Reads chat_template.jinja, else `chat_template` of tokenizer_config.json (a text, or a list of named ones:
  // "tool_use" serves requests with tools), else chat_template.json; and the special tokens (bos_token, ...).
  static Result<ChatTemplate> FromFolder(const std::filesystem::path& folder);
  // `special_tokens`: a JSON object, {"bos_token": "<s>", ...}; empty: none.
  static Result<ChatTemplate> FromText(std::string_view source, std::string_view special_tokens = {});

  // `messages`: an array in the OpenAI form; `tools`: an array or null. What clients vary in is made one: arguments
  // that are JSON text become objects; reasoning in `reasoning_content`, `reasoning`, `reasoning_details` or inline
  // <think> becomes reasoning_content, unless the template splits <think> itself; missing or null content becomes "";
  // lists of text parts stay lists where the template loops over content, else they are joined. Errors name the
  // message: "messages[2].content[0]: ..."; what the template raises is passed on word by word.
  Result<std::string> Render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                             const ChatOptions& options = {}) const;
  // The same from JSON text; an empty `tools`: none.
  Result<std::string> RenderText(std::string_view messages, std::string_view tools, const ChatOptions& options = {}) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace minimo
