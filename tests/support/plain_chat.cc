#include "tests/support/plain_chat.h"

#include "base/error.h"
#include "server/chat_input.h"

namespace minimo::testing {
namespace {

using server::ChatDelta;

class PlainSplitter final : public server::ChatSplitter {
 public:
  void Feed(const Event& event, std::vector<ChatDelta>* deltas) override {
    text_ += event.text;
    while (Take(event.finish != FinishReason::kNone, deltas)) {
    }
  }
  bool InReasoning() const override { return state_ == kThink; }

 private:
  enum State { kText, kThink, kCall };

  // Takes one piece of text_; false: nothing more can be told yet.
  bool Take(bool last, std::vector<ChatDelta>* deltas) {
    const std::string tag = state_ == kText ? "<" : state_ == kThink ? "</think>" : ">";
    const size_t at = text_.find(tag);
    if (at == std::string::npos) {
      const size_t keep = last || state_ == kText ? 0 : std::min(text_.size(), tag.size() - 1);
      Emit(text_.size() - keep, deltas);
      return false;
    }
    Emit(at, deltas);
    if (state_ == kThink) return Enter(kText, tag.size());
    if (state_ == kCall) {
      deltas->push_back({ChatDelta::kToolEnd, "", calls_ - 1, ""});
      return Enter(kText, 1);
    }
    if (text_.compare(0, 7, "<think>") == 0) return Enter(kThink, 7);
    const size_t name_end = text_.find(' ', 6);
    if (text_.compare(0, 6, "<call ") == 0 && name_end != std::string::npos) {
      deltas->push_back({ChatDelta::kToolBegin, "", calls_++, text_.substr(6, name_end - 6)});
      return Enter(kCall, name_end + 1);
    }
    return false;
  }

  bool Enter(State state, size_t consumed) {
    text_.erase(0, consumed);
    state_ = state;
    return true;
  }

  void Emit(size_t count, std::vector<ChatDelta>* deltas) {
    if (count == 0) return;
    const auto kind = state_ == kText ? ChatDelta::kContent
                      : state_ == kThink ? ChatDelta::kReasoning
                                         : ChatDelta::kToolArguments;
    deltas->push_back({kind, text_.substr(0, count), std::max(0, calls_ - 1), ""});
    text_.erase(0, count);
  }

  std::string text_;
  State state_ = kText;
  int calls_ = 0;
};

}  // namespace

Result<server::PreparedChat> PlainChat::Prepare(const server::ChatInput& input, const Options& options) const {
  std::string prompt;
  for (const auto& message : input.messages) {
    prompt += message["role"].get<std::string>() + ": " + message["content"].get<std::string>() + "\n";
  }
  if (input.tool_choice.kind != server::ToolChoice::kNone) prompt += fmt::format("[{} tools]\n", input.tools.size());
  server::PreparedChat prepared;
  MINIMO_ASSIGN(prepared.prompt_ids, tokenizer_.Encode(prompt));
  for (int i = 0; i < options.choices; ++i) prepared.splitters.push_back(std::make_unique<PlainSplitter>());
  return prepared;
}

}  // namespace minimo::testing
