#include "minimo/output_parser.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "text/call_writer.h"
#include "text/chat_protocol.h"
#include "text/code_context.h"
#include "text/utf8.h"

namespace minimo {
namespace {

// A name in a tag is no longer than this; what looks like a longer one is text.
constexpr size_t kMaxTagBytes = 512;
// A piece of a tag at the very end of the text is a cut-off tag from this length on, else just what was written.
constexpr size_t kMinCutTagBytes = 3;

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

std::string_view SkipSpace(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  return text;
}

enum class Match { kNo, kPartial, kFull };

Match MatchTag(std::string_view text, std::string_view tag) {
  if (tag.empty()) return Match::kNo;
  if (text.starts_with(tag)) return Match::kFull;
  return tag.starts_with(text) ? Match::kPartial : Match::kNo;
}

// <opening NAME> at the front of `text`: the name without quotes, and what the tag takes up.
struct NamedTag {
  Match match = Match::kNo;
  std::string_view name;
  size_t size = 0;
};

NamedTag MatchNamedTag(std::string_view text, std::string_view opening) {
  const Match match = MatchTag(text, opening);
  if (match != Match::kFull) return {match, {}, 0};
  const size_t end = text.find_first_of(">\n<", opening.size());
  if (end == text.npos) return {text.size() < kMaxTagBytes ? Match::kPartial : Match::kNo, {}, 0};
  if (text[end] != '>' || end >= kMaxTagBytes) return {};
  std::string_view name = SkipSpace(text.substr(opening.size(), end - opening.size()));
  while (!name.empty() && IsSpace(name.back())) name.remove_suffix(1);
  if (!name.empty() && (name.front() == '"' || name.front() == '\'')) {
    const size_t close = name.find(name.front(), 1);
    name = close == name.npos ? name.substr(1) : name.substr(1, close - 1);
  }
  if (name.empty()) return {};
  return {Match::kFull, name, end + 1};
}

class TagParser final : public OutputParser {
 public:
  TagParser(const ChatProtocol& protocol, ToolTypes types, const OutputParserOptions& options)
      : protocol_(protocol),
        options_(options),
        calls_(std::move(types), protocol.tags_on_lines, options.parallel_tool_calls),
        state_(options.starts_in_reasoning ? State::kReasoning : State::kContent) {
    if (!options.split_reasoning && options.starts_in_reasoning) EmitText(kThinkOpen);
  }

  std::vector<ParsedDelta> Feed(std::string_view text) override {
    buffer_ += text;
    return Run();
  }

  std::vector<ParsedDelta> Finish() override {
    final_ = true;
    std::vector<ParsedDelta> out = Run();
    std::swap(out, out_);
    if (state_ == State::kValue) calls_.EndParameter(out_);
    if (state_ == State::kValue || state_ == State::kCall) calls_.EndCall(out_);
    const bool alone = !reasoned_ && calls_.calls() == 0;
    if (state_ == State::kContent && !started_ && alone) {
      // White space is all there is.
      started_ = true;
      EmitText(protocol_.tags_on_lines ? StripNewlines(lead_) : lead_);
    }
    return std::exchange(out_, {});
  }

  int tool_calls() const override { return calls_.calls(); }
  bool in_reasoning() const override { return state_ == State::kReasoning; }

 private:
  enum class State { kReasoning, kContent, kSection, kCall, kValue };

  std::string_view Rest() const { return std::string_view(buffer_).substr(position_); }

  std::vector<ParsedDelta> Run() {
    while (Step()) {
    }
    buffer_.erase(0, position_);
    position_ = 0;
    return std::exchange(out_, {});
  }

  // False: no progress without more text.
  bool Step() {
    if (position_ >= buffer_.size()) return false;
    switch (state_) {
      case State::kReasoning:
      case State::kContent: return StepText();
      case State::kSection: return StepSection();
      case State::kCall: return StepCall();
      case State::kValue: return StepValue();
    }
    return false;
  }

  bool DropRest() {
    position_ = buffer_.size();
    return false;
  }

  // ---- Reasoning and content ----

  static std::string_view StripNewlines(std::string_view text) {
    const size_t first = text.find_first_not_of('\n');
    return first == text.npos ? std::string_view() : text.substr(first);
  }

  void EmitText(std::string_view text) {
    ParsedDelta delta;
    const bool reasoning = state_ == State::kReasoning && options_.split_reasoning;
    delta.kind = reasoning ? ParsedDelta::Kind::kReasoning : ParsedDelta::Kind::kContent;
    delta.text = ToValidUtf8(text);
    AppendDelta(out_, std::move(delta));
  }

  // Text of the current block. White space at its start waits for what follows it, and so do newlines at its end
  // where a tag on the next line would make them not part of it.
  void AddText(std::string_view text) {
    code_.Add(text);
    if (!options_.split_reasoning && !after_section_) {
      started_ |= !SkipSpace(text).empty();
      return EmitText(text);
    }
    lead_ += text;
    if (!started_) {
      if (SkipSpace(lead_).empty()) return;
      started_ = true;
      if (after_section_) lead_ = std::string(SkipSpace(lead_));
      if (protocol_.tags_on_lines) lead_ = std::string(StripNewlines(lead_));
    }
    size_t ready = lead_.size();
    if (state_ == State::kReasoning && protocol_.tags_on_lines) {
      while (ready > 0 && lead_[ready - 1] == '\n') --ready;
    }
    EmitText(std::string_view(lead_).substr(0, ready));
    lead_.erase(0, ready);
  }

  void EnterText(State state, bool after_section) {
    state_ = state;
    started_ = false;
    after_section_ = after_section;
    lead_.clear();
    code_ = CodeContext();
  }

  // How much of the text at the front is whole characters.
  size_t WholeCharacters(std::string_view text) const {
    if (final_) return text.size();
    for (size_t tail = std::min<size_t>(3, text.size()); tail > 0; --tail) {
      if (NextUtf8(text.substr(text.size() - tail)).kind == Utf8Step::kPartial) return text.size() - tail;
    }
    return text.size();
  }

  bool StepText() {
    const std::string_view rest = Rest();
    const size_t tag = rest.find('<');
    if (tag != 0) {
      const std::string_view before = rest.substr(0, tag);
      const size_t whole = tag == rest.npos ? WholeCharacters(before) : before.size();
      if (whole == 0) return false;
      AddText(rest.substr(0, whole));
      position_ += whole;
      return true;
    }
    Match best = Match::kNo;
    const auto partial = [&best](Match match) { best = match == Match::kPartial ? match : best; };
    if (const Match match = MatchTag(rest, kThinkClose); MayCloseThinking()) {
      if (match == Match::kFull) return CloseThinking();
      partial(match);
    }
    if (const Match match = MatchTag(rest, kThinkOpen); !started_) {
      if (match == Match::kFull) return OpenThinking();
      partial(match);
    }
    if (options_.parse_tools && protocol_.has_tools() && !code_.Quoted()) {
      const NamedTag call = MatchSection(rest);
      if (call.match == Match::kFull) {
        reasoned_ |= state_ == State::kReasoning && started_;
        position_ += call.size;
        return BeginCall(call.name);
      }
      partial(call.match);
    }
    if (best == Match::kPartial) {
      if (!final_) return false;
      if (rest.size() >= kMinCutTagBytes) return DropRest();
    }
    AddText(rest.substr(0, 1));
    ++position_;
    return true;
  }

  bool MayCloseThinking() const { return state_ == State::kReasoning || (!think_closed_ && !code_.Quoted()); }

  bool CloseThinking() {
    // In the content it belongs to reasoning that a tool call ended, or that had no beginning: nobody wants to see it.
    position_ += kThinkClose.size();
    think_closed_ = true;
    if (state_ != State::kReasoning) return true;
    if (!options_.split_reasoning) EmitText(kThinkClose);
    reasoned_ |= started_;
    EnterText(State::kContent, false);
    return true;
  }

  bool OpenThinking() {
    position_ += kThinkOpen.size();
    if (state_ == State::kReasoning) return true;  // the prompt has opened it already
    EnterText(State::kReasoning, false);
    think_closed_ = false;
    if (!options_.split_reasoning) EmitText(kThinkOpen);
    return true;
  }

  // ---- Tool calls ----

  // A section counts only with the first call's tag in it: <section> <call NAME>.
  NamedTag MatchSection(std::string_view text) const {
    const Match section = MatchTag(text, protocol_.section_open);
    if (section != Match::kFull) return {section, {}, 0};
    const std::string_view inside = SkipSpace(text.substr(protocol_.section_open.size()));
    const size_t before_call = text.size() - inside.size();
    if (before_call >= kMaxTagBytes) return {};
    if (inside.empty()) return {Match::kPartial, {}, 0};
    NamedTag call = MatchNamedTag(inside, protocol_.call_open);
    call.size += before_call;
    return call;
  }

  bool BeginCall(std::string_view name) {
    calls_.BeginCall(name, out_);
    state_ = State::kCall;
    return true;
  }

  void EndCall(State next) {
    calls_.EndCall(out_);
    state_ = next;
  }

  // Between calls: the next one, or the end of the section. Anything else ends the section too.
  bool StepSection() {
    position_ += Rest().size() - SkipSpace(Rest()).size();
    const std::string_view rest = Rest();
    if (rest.empty()) return false;
    const Match close = MatchTag(rest, protocol_.section_close);
    if (close == Match::kFull) {
      position_ += protocol_.section_close.size();
      EnterText(State::kContent, true);
      return true;
    }
    const NamedTag call = MatchNamedTag(rest, protocol_.call_open);
    if (call.match == Match::kFull) {
      position_ += call.size;
      return BeginCall(call.name);
    }
    bool partial = close == Match::kPartial || call.match == Match::kPartial;
    for (const std::string_view stray : {protocol_.call_close, protocol_.param_close}) {
      const Match match = MatchTag(rest, stray);
      partial |= match == Match::kPartial;
      if (match != Match::kFull) continue;
      position_ += stray.size();
      return true;
    }
    if (partial) return final_ ? DropRest() : false;
    EnterText(State::kContent, true);
    return true;
  }

  // Between parameters. What is no tag is dropped; a tag that starts something else ends the call.
  bool StepCall() {
    position_ += Rest().size() - SkipSpace(Rest()).size();
    const std::string_view rest = Rest();
    if (rest.empty()) return false;
    const NamedTag parameter = MatchNamedTag(rest, protocol_.param_open);
    if (parameter.match == Match::kFull) {
      calls_.BeginParameter(parameter.name, out_);
      position_ += parameter.size;
      state_ = State::kValue;
      return true;
    }
    const Match close = MatchTag(rest, protocol_.call_close);
    if (close == Match::kFull) {
      position_ += protocol_.call_close.size();
      EndCall(State::kSection);
      return true;
    }
    bool partial = parameter.match == Match::kPartial || close == Match::kPartial;
    for (const std::string_view other : {protocol_.section_close, protocol_.call_open, protocol_.section_open}) {
      const Match match = MatchTag(rest, other);
      if (match == Match::kFull) {
        EndCall(State::kSection);
        return true;
      }
      partial |= match == Match::kPartial;
    }
    if (partial) return final_ ? DropRest() : false;
    const size_t next = rest.find('<', 1);
    position_ += next == rest.npos ? rest.size() : next;
    return true;
  }

  bool EndValue(size_t consumed) {
    calls_.EndParameter(out_);
    position_ += consumed;
    state_ = State::kCall;
    return true;
  }

  bool StepValue() {
    const std::string_view rest = Rest();
    const size_t tag = rest.find('<');
    if (tag != 0) {
      const size_t size = std::min(tag, rest.size());
      calls_.AddText(rest.substr(0, size), out_);
      position_ += size;
      return true;
    }
    const Match close = MatchTag(rest, protocol_.param_close);
    if (close == Match::kFull) return EndValue(protocol_.param_close.size());
    const Match missing = MatchMissingClose(rest);
    if (missing == Match::kFull) return EndValue(0);
    if (close == Match::kPartial || missing == Match::kPartial) {
      if (!final_) return false;
      if (rest.size() > 1) return DropRest();
    }
    calls_.AddText(rest.substr(0, 1), out_);
    ++position_;
    return true;
  }

  // A value without its end tag: the call's end tag stands where nothing but the end of the section, the next call or
  // the end of the text follows it; or the section's where the text ends.
  Match MatchMissingClose(std::string_view text) const {
    const Match section = MatchTag(text, protocol_.section_close);
    if (section == Match::kFull) {
      if (!SkipSpace(text.substr(protocol_.section_close.size())).empty()) return Match::kNo;
      return final_ ? Match::kFull : Match::kPartial;
    }
    const Match call = MatchTag(text, protocol_.call_close);
    if (call != Match::kFull) return call == Match::kPartial ? call : section;
    const std::string_view after = SkipSpace(text.substr(protocol_.call_close.size()));
    if (after.empty()) return final_ ? Match::kFull : Match::kPartial;
    const Match ends[] = {MatchTag(after, protocol_.section_close), MatchTag(after, protocol_.call_open)};
    if (ends[0] == Match::kFull || ends[1] == Match::kFull) return Match::kFull;
    if (ends[0] == Match::kNo && ends[1] == Match::kNo) return Match::kNo;
    return final_ ? Match::kFull : Match::kPartial;
  }

  const ChatProtocol& protocol_;
  const OutputParserOptions options_;
  CallWriter calls_;
  State state_;
  std::string buffer_;  // fed and not yet understood
  size_t position_ = 0;
  std::vector<ParsedDelta> out_;
  bool final_ = false;
  // Of the current block of text:
  bool started_ = false;        // more than white space has come
  bool after_section_ = false;  // it follows a section of calls
  std::string lead_;            // held back white space
  CodeContext code_;
  bool reasoned_ = false;      // there was reasoning
  bool think_closed_ = false;  // </think> has come
};

}  // namespace

Result<std::unique_ptr<OutputParser>> MakeOutputParser(std::string_view model_type, std::string_view tools,
                                                       const OutputParserOptions& options) {
  MINIMO_ASSIGN(ToolTypes types, ToolTypes::Parse(tools));
  return std::unique_ptr<OutputParser>(
      std::make_unique<TagParser>(FindChatProtocol(model_type), std::move(types), options));
}

bool PromptOpensReasoning(std::string_view prompt) {
  while (!prompt.empty() && IsSpace(prompt.back())) prompt.remove_suffix(1);
  return prompt.ends_with(kThinkOpen);
}

void ParsedOutput::Add(const ParsedDelta& delta) {
  switch (delta.kind) {
    case ParsedDelta::Kind::kReasoning: reasoning += delta.text; break;
    case ParsedDelta::Kind::kContent: content += delta.text; break;
    case ParsedDelta::Kind::kToolCall: tool_calls.push_back({delta.id, delta.name, ""}); break;
    case ParsedDelta::Kind::kArguments: tool_calls[static_cast<size_t>(delta.index)].arguments += delta.text; break;
  }
}

std::string ParsedOutput::ToolCallsJson() const {
  nlohmann::ordered_json calls = nlohmann::ordered_json::array();
  for (const ToolCall& call : tool_calls) {
    nlohmann::ordered_json function = {{"name", call.name}, {"arguments", call.arguments}};
    calls.push_back({{"id", call.id}, {"type", "function"}, {"function", std::move(function)}});
  }
  return calls.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<ParsedOutput> ParseOutput(std::string_view model_type, std::string_view text, std::string_view tools,
                                 const OutputParserOptions& options) {
  MINIMO_ASSIGN(const std::unique_ptr<OutputParser> parser, MakeOutputParser(model_type, tools, options));
  ParsedOutput output;
  for (const ParsedDelta& delta : parser->Feed(text)) output.Add(delta);
  for (const ParsedDelta& delta : parser->Finish()) output.Add(delta);
  return output;
}

}  // namespace minimo
