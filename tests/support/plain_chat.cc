#include "tests/support/plain_chat.h"

#include "base/error.h"
#include "server/chat_input.h"

namespace minimo::testing {
namespace {

class PlainParser final : public OutputParser {
 public:
  std::vector<ParsedDelta> Feed(std::string_view text) override {
    text_ += text;
    return TakeAll(false);
  }
  std::vector<ParsedDelta> Finish() override { return TakeAll(true); }
  int tool_calls() const override { return calls_; }
  bool in_reasoning() const override { return state_ == kThink; }

 private:
  enum State { kText, kThink, kCall };

  std::vector<ParsedDelta> TakeAll(bool last) {
    std::vector<ParsedDelta> deltas;
    while (Take(last, &deltas)) {
    }
    return deltas;
  }

  // Takes one piece of text_; false: nothing more can be told yet.
  bool Take(bool last, std::vector<ParsedDelta>* deltas) {
    const std::string tag = state_ == kText ? "<" : state_ == kThink ? "</think>" : ">";
    const size_t at = text_.find(tag);
    if (at == std::string::npos) {
      const size_t keep = last || state_ == kText ? 0 : std::min(text_.size(), tag.size() - 1);
      Emit(text_.size() - keep, deltas);
      return false;
    }
    Emit(at, deltas);
    if (state_ != kText) return Enter(kText, tag.size());
    if (text_.compare(0, 7, "<think>") == 0) return Enter(kThink, 7);
    const size_t name_end = text_.find(' ', 6);
    if (text_.compare(0, 6, "<call ") != 0 || name_end == std::string::npos) return false;
    deltas->push_back(
        {ParsedDelta::Kind::kToolCall, "", calls_, fmt::format("call_{}", calls_), text_.substr(6, name_end - 6)});
    ++calls_;
    return Enter(kCall, name_end + 1);
  }

  bool Enter(State state, size_t consumed) {
    text_.erase(0, consumed);
    state_ = state;
    return true;
  }

  void Emit(size_t count, std::vector<ParsedDelta>* deltas) {
    if (count == 0) return;
    const auto kind = state_ == kText    ? ParsedDelta::Kind::kContent
                      : state_ == kThink ? ParsedDelta::Kind::kReasoning
                                         : ParsedDelta::Kind::kArguments;
    deltas->push_back({kind, text_.substr(0, count), std::max(0, calls_ - 1), "", ""});
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
  for (int i = 0; i < options.choices; ++i) prepared.parsers.push_back(std::make_unique<PlainParser>());
  return prepared;
}

}  // namespace minimo::testing
