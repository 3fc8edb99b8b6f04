#include "text/pre_tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/json_fields.h"
#include "text/unicode_pins.h"
#include "text/utf8.h"

namespace minimo {
namespace {

// ByteLevel's own pattern (use_regex), from GPT-2.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Turns the spans of a text, in order and without gaps, into pieces. Spans may be empty, pieces are not.
class Joiner {
 public:
  using OnPiece = std::function<Status(std::string_view)>;
  Joiner(std::string_view text, SplitBehavior behavior, bool invert, const OnPiece& on_piece)
      : text_(text), behavior_(behavior), invert_(invert), on_piece_(on_piece) {}

  void OnMatch(size_t begin, size_t end) {
    if (begin != seen_) Span(seen_, begin, false);
    Span(begin, end, true);
    seen_ = end;
  }

  Status Finish() {
    if (seen_ != text_.size()) Span(seen_, text_.size(), false);
    Emit();
    return status_;
  }

 private:
  void Span(size_t begin, size_t end, bool is_match) {
    is_match ^= invert_;
    if (pending_ && JoinsPending(is_match)) {
      pending_end_ = end;
    } else {
      Emit();
      pending_ = !(behavior_ == SplitBehavior::kRemoved && is_match);
      pending_begin_ = begin;
      pending_end_ = end;
    }
    previous_is_match_ = is_match;
  }

  bool JoinsPending(bool is_match) const {
    switch (behavior_) {
      case SplitBehavior::kMergedWithPrevious: return is_match && !previous_is_match_;
      case SplitBehavior::kMergedWithNext: return !is_match && previous_is_match_;
      case SplitBehavior::kContiguous: return is_match == previous_is_match_;
      default: return false;
    }
  }

  void Emit() {
    if (pending_ && pending_end_ > pending_begin_ && status_.ok()) {
      status_ = on_piece_(text_.substr(pending_begin_, pending_end_ - pending_begin_));
    }
    pending_ = false;
  }

  std::string_view text_;
  SplitBehavior behavior_;
  bool invert_;
  const OnPiece& on_piece_;
  Status status_;
  size_t seen_ = 0;  // spans cover [0, seen_)
  bool pending_ = false;
  size_t pending_begin_ = 0, pending_end_ = 0;
  bool previous_is_match_ = false;
};

void FindNumeric(std::string_view text, Joiner* joiner) {
  for (size_t i = 0; i < text.size();) {
    uint32_t size = 0;
    if (IsNumeric(DecodeUtf8(text.substr(i), &size))) joiner->OnMatch(i, i + size);
    i += size;
  }
}

}  // namespace

Result<PreTokenizer> PreTokenizer::Parse(const nlohmann::json& json) {
  PreTokenizer result;
  MINIMO_TRY(ParseInto(json, &result.steps_));
  for (size_t i = 0; i < result.steps_.size(); ++i) {
    if (result.steps_[i].byte_level && i + 1 < result.steps_.size()) {
      return Errorf("pre_tokenizer has a step after ByteLevel; ByteLevel must be the last");
    }
  }
  if (result.steps_.empty() || !result.steps_.back().byte_level) {
    return Errorf("pre_tokenizer has no ByteLevel; only byte-level tokenizers are supported");
  }
  return result;
}

Status PreTokenizer::ParseInto(const nlohmann::json& json, std::vector<Step>* steps) {
  if (json.is_null()) return {};
  MINIMO_ASSIGN(const std::string type, StringField(json, "type", "pre_tokenizer"));
  if (type == "Sequence") {
    const nlohmann::json& parts = FieldOrNull(json, "pretokenizers");
    if (!parts.is_array()) return Errorf("pre_tokenizer Sequence has no list \"pretokenizers\"");
    for (const nlohmann::json& part : parts) MINIMO_TRY(ParseInto(part, steps));
    return {};
  }
  if (type == "Split") {
    MINIMO_ASSIGN(Step step, ParseSplit(json));
    steps->push_back(std::move(step));
    return {};
  }
  if (type == "ByteLevel") {
    MINIMO_ASSIGN(Step step, ParseByteLevel(json));
    steps->push_back(std::move(step));
    return {};
  }
  if (type == "Digits") {
    Step step;
    step.digits = true;
    MINIMO_ASSIGN(const bool individual, BoolField(json, "individual_digits", std::nullopt, "pre_tokenizer Digits"));
    step.behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    steps->push_back(std::move(step));
    return {};
  }
  return Errorf("pre_tokenizer \"{}\" is not supported; Split, Digits, ByteLevel and Sequence are", type);
}

Result<PreTokenizer::Step> PreTokenizer::ParseSplit(const nlohmann::json& json) {
  static const std::array<std::pair<const char*, SplitBehavior>, 5> kBehaviors = {
      {{"Removed", SplitBehavior::kRemoved},
       {"Isolated", SplitBehavior::kIsolated},
       {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
       {"MergedWithNext", SplitBehavior::kMergedWithNext},
       {"Contiguous", SplitBehavior::kContiguous}}};
  Step step;
  MINIMO_ASSIGN(step.invert, BoolField(json, "invert", std::nullopt, "pre_tokenizer Split"));
  MINIMO_ASSIGN(const std::string behavior, StringField(json, "behavior", "pre_tokenizer Split"));
  bool known = false;
  for (const auto& [name, value] : kBehaviors) {
    if (behavior != name) continue;
    step.behavior = value;
    known = true;
  }
  if (!known) return Errorf("pre_tokenizer Split has an unknown behavior \"{}\"", behavior);

  const nlohmann::json& pattern = FieldOrNull(json, "pattern");
  const nlohmann::json& regex = FieldOrNull(pattern, "Regex");
  const nlohmann::json& literal = FieldOrNull(pattern, "String");
  if (!regex.is_string() && !literal.is_string()) {
    return Errorf("pre_tokenizer Split has no \"pattern\" that is a Regex or a String");
  }
  auto compiled = regex.is_string() ? Regex::Compile(regex.get_ref<const std::string&>())
                                    : Regex::CompileLiteral(literal.get_ref<const std::string&>());
  if (!compiled.ok()) return Errorf("pre_tokenizer Split: {}", compiled.error().message);
  step.regex = std::move(compiled).value();
  return step;
}

Result<PreTokenizer::Step> PreTokenizer::ParseByteLevel(const nlohmann::json& json) {
  Step step;
  step.byte_level = true;
  MINIMO_ASSIGN(step.add_prefix_space, BoolField(json, "add_prefix_space", std::nullopt, "pre_tokenizer ByteLevel"));
  MINIMO_ASSIGN(const bool use_regex, BoolField(json, "use_regex", true, "pre_tokenizer ByteLevel"));
  if (use_regex) {
    MINIMO_ASSIGN(step.regex, Regex::Compile(kGpt2Pattern));
  }
  return step;
}

Status PreTokenizer::Split(std::string_view text, const OnWord& on_word) const { return Run(0, text, on_word); }

Status PreTokenizer::Run(size_t index, std::string_view text, const OnWord& on_word) const {
  if (text.empty()) return {};
  if (index == steps_.size()) {
    on_word(text);
    return {};
  }
  const Step& step = steps_[index];
  std::string prefixed;
  if (step.add_prefix_space && text.front() != ' ') text = prefixed.append(" ").append(text);
  if (!step.regex && !step.digits) return Run(index + 1, text, on_word);

  const Joiner::OnPiece on_piece = [&](std::string_view piece) { return Run(index + 1, piece, on_word); };
  Joiner joiner(text, step.behavior, step.invert, on_piece);
  if (step.regex) {
    MINIMO_TRY(step.regex->FindAll(text, [&](size_t begin, size_t end) { joiner.OnMatch(begin, end); }));
  } else {
    FindNumeric(text, &joiner);
  }
  return joiner.Finish();
}

}  // namespace minimo
