// The bridge to the text and grammar rooms: conversations to prompts; outputs to reasoning, content and tool calls;
// formats and tool choices to token masks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/output_parser.h"
#include "minimo/request.h"
#include "minimo/result.h"
#include "server/output_format.h"

namespace minimo::server {

struct ChatInput;

struct PreparedChat {
  std::vector<int32_t> prompt_ids;
  std::shared_ptr<const TokenMatcher> matcher;  // null: free
  std::vector<std::unique_ptr<OutputParser>> parsers;  // one a choice
};

class ChatService {
 public:
  virtual ~ChatService() = default;

  struct Options {
    bool add_generation_prompt = true;
    bool continue_final_message = false;  // the last message is the beginning of the answer
    bool parallel_tool_calls = true;
    OutputFormat format;
    int choices = 1;
  };

  // Any thread. The error says which part of the request is at fault.
  virtual Result<PreparedChat> Prepare(const ChatInput& input, const Options& options) const = 0;

  // The mask of an answer that is in this format from its first token on; null: free. Any thread.
  virtual Result<std::shared_ptr<const TokenMatcher>> FormatMatcher(const OutputFormat& format) const = 0;
};

}  // namespace minimo::server
