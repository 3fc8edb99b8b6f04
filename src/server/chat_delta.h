// What a model said, split by kind: the pieces that both chat protocols write.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/request.h"

namespace minimo::server {

struct ChatDelta {
  enum Kind { kReasoning, kContent, kToolBegin, kToolArguments, kToolEnd } kind = kContent;
  std::string text;  // kReasoning, kContent: new text; kToolArguments: the next piece of the arguments' JSON
  int tool = 0;      // kTool...: the call's index, from 0
  std::string name;  // kToolBegin
};

// Splits one choice's output as it comes. Never fails: what it cannot read is content.
class ChatSplitter {
 public:
  virtual ~ChatSplitter() = default;
  // Appends what `event` brings; with event.finish, everything that was held back as well.
  virtual void Feed(const Event& event, std::vector<ChatDelta>* deltas) = 0;
  virtual bool InReasoning() const = 0;  // for counting reasoning tokens
};

}  // namespace minimo::server
