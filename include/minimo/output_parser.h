// From the text that a model writes to its parts: reasoning, content and tool calls, while it is written. Feeding a
// text in any pieces gives, joined, what feeding it whole gives, and a tag is never shown, nor a part of one. The rules
// are told in docs/chat.md.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo {

struct OutputParserOptions {
  bool starts_in_reasoning = false;  // the prompt ended inside an open <think>: see PromptOpensReasoning
  bool split_reasoning = true;       // false: reasoning stays in the content, between its tags
  bool parse_tools = true;           // false (tool_choice "none"): what looks like a call is text
  bool parallel_tool_calls = true;   // false: calls after the first are dropped
};

struct ParsedDelta {
  enum class Kind {
    kReasoning,  // text
    kContent,    // text
    kToolCall,   // a call begins: index, id, name
    kArguments,  // index, and text: the next piece of the call's arguments; joined they are one JSON object
  };
  Kind kind = Kind::kContent;
  std::string text;
  int index = 0;     // of the call within the message
  std::string id;    // "call_" and 24 hex digits, unique
  std::string name;  // of the function
};

// For one choice of one request; not thread-safe. Never fails: what is no well-formed call is content.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  virtual std::vector<ParsedDelta> Feed(std::string_view text) = 0;
  // At the end of the text: what was held back, and the ends of calls that were cut off. Once.
  virtual std::vector<ParsedDelta> Finish() = 0;
  virtual int tool_calls() const = 0;       // begun so far; any: finish_reason is "tool_calls"
  virtual bool in_reasoning() const = 0;    // whether the next text is reasoning as far as is known
};

// By the `model_type` of the checkpoint's config.json; for a type without tool calls of its own, <think> alone is
// split. `tools`: the request's array as JSON text, empty or "null" if none; the types of arguments come from it.
Result<std::unique_ptr<OutputParser>> MakeOutputParser(std::string_view model_type, std::string_view tools,
                                                       const OutputParserOptions& options = {});

// Whether the model goes on inside an open <think> after this prompt.
bool PromptOpensReasoning(std::string_view prompt);

struct ParsedOutput {
  std::string reasoning;
  std::string content;
  struct ToolCall {
    std::string id;
    std::string name;
    std::string arguments;  // a JSON object
  };
  std::vector<ToolCall> tool_calls;

  void Add(const ParsedDelta& delta);
  // [{"id": ..., "type": "function", "function": {"name": ..., "arguments": "..."}}, ...]
  std::string ToolCallsJson() const;
};

// The whole text at once.
Result<ParsedOutput> ParseOutput(std::string_view model_type, std::string_view text, std::string_view tools = {},
                                 const OutputParserOptions& options = {});

}  // namespace minimo
