// A chat service without templates, for the fake engine. The prompt is one "role: text" line a message; an answer may
// hold <think>reasoning</think>, text and <call NAME {arguments}>.
#pragma once

#include "minimo/tokenizer.h"
#include "server/chat_service.h"

namespace minimo::testing {

class PlainChat final : public server::ChatService {
 public:
  explicit PlainChat(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  Result<server::PreparedChat> Prepare(const server::ChatInput& input, const Options& options) const override;
  Result<std::shared_ptr<const TokenMatcher>> FormatMatcher(const server::OutputFormat&) const override {
    return std::shared_ptr<const TokenMatcher>();
  }

 private:
  const Tokenizer& tokenizer_;
};

}  // namespace minimo::testing
