// Methods of str. Positions are code points.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

Value Like(const Value& subject, std::string text) { return Value::String(std::move(text), subject.IsMarkup()); }
Value Like(const Value& subject, std::string_view text) { return Value::String(std::string(text), subject.IsMarkup()); }

template <std::string (*Change)(std::string_view)>
Result<Value> Changed(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("method", args).Done());
  MINIMO_TRY(runtime.ChargeText(3 * subject.AsString().size()));
  return Like(subject, Change(subject.AsString()));
}

template <Side kSide>
Result<Value> Stripped(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("strip", args);
  const Value chars = reader.Optional("chars", Value());
  MINIMO_TRY(reader.Done());
  if (!chars.IsNone() && !chars.IsString()) return Errorf("strip arg must be None or str");
  const auto set = chars.IsNone() ? std::nullopt : std::optional<std::string_view>(chars.AsString());
  return Like(subject, Strip(subject.AsString(), set, kSide));
}

Result<Value> MakeTexts(Runtime& runtime, const Value& subject, const std::vector<std::string_view>& parts,
                        List::Kind kind = List::Kind::kList) {
  MINIMO_TRY(runtime.ChargeText(subject.AsString().size()));
  MINIMO_TRY(runtime.ChargeItems(parts.size()));
  Values items;
  for (const std::string_view part : parts) items.push_back(Like(subject, part));
  return MakeList(std::move(items), kind);
}

// White space of any length separates, and at the ends counts for nothing; a limit (-1: none) leaves the rest as it is.
std::vector<std::string_view> SplitOnSpace(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  const Side near = from_right ? Side::kRight : Side::kLeft;
  for (text = Strip(text, std::nullopt, near); !text.empty(); text = Strip(text, std::nullopt, near)) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    size_t begin = 0;
    size_t end = text.size();
    if (from_right) {
      for (size_t i = 0; i < text.size();) {
        if (IsSpace(DecodeAt(text, i))) begin = i;
      }
    } else {
      for (size_t i = 0; i < text.size();) {
        const size_t start = i;
        if (!IsSpace(DecodeAt(text, i))) continue;
        end = start;
        break;
      }
    }
    parts.push_back(text.substr(begin, end - begin));
    text = from_right ? text.substr(0, begin) : text.substr(end);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitOnText(std::string_view text, std::string_view separator, int64_t limit,
                                          bool from_right) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool kFromRight>
Result<Value> Split(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("split", args);
  const Value separator = reader.Optional("sep", Value());
  const Value limit_value = reader.Optional("maxsplit", Value::Int(-1));
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t limit, ToIndex(limit_value));
  const std::string& text = subject.AsString();
  if (separator.IsNone()) {
    // Splitting from the right scans what is left for every part.
    if (kFromRight) MINIMO_TRY(runtime.ChargeText(text.size() * (1 + text.size() / 1024)));
    return MakeTexts(runtime, subject, SplitOnSpace(text, limit, kFromRight));
  }
  MINIMO_ASSIGN(const std::string by, ToText(separator, "sep"));
  if (by.empty()) return Errorf("empty separator");
  return MakeTexts(runtime, subject, SplitOnText(text, by, limit, kFromRight));
}

Result<Value> SplitLinesMethod(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("splitlines", args);
  const bool keep_ends = reader.Optional("keepends", Value::Bool(false)).Truthy();
  MINIMO_TRY(reader.Done());
  return MakeTexts(runtime, subject, SplitLines(subject.AsString(), keep_ends));
}

template <bool kFromRight>
Result<Value> Partition(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("partition", args);
  const Value separator = reader.Required("sep");
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string by, ToText(separator, "sep"));
  if (by.empty()) return Errorf("empty separator");
  const std::string_view text = subject.AsString();
  const size_t at = kFromRight ? text.rfind(by) : text.find(by);
  if (at == text.npos) {
    return MakeTexts(
        runtime, subject,
        kFromRight ? std::vector<std::string_view>{"", "", text} : std::vector<std::string_view>{text, "", ""},
        List::Kind::kTuple);
  }
  return MakeTexts(runtime, subject, {text.substr(0, at), by, text.substr(at + by.size())}, List::Kind::kTuple);
}

// The part of the subject between two optional positions, as a slice gives it.
Result<std::string> Window(Runtime& runtime, const Value& subject, const Value& start, const Value& end) {
  if (start.IsNone() && end.IsNone()) return subject.AsString();
  MINIMO_ASSIGN(const Value part, GetSlice(runtime, subject, start, end, Value()));
  return part.AsString();
}

template <bool kAtEnd>
Result<Value> HasAffix(Runtime& runtime, const Value& subject, Args& args) {
  const char* name = kAtEnd ? "endswith" : "startswith";
  ArgReader reader(name, args);
  const Value affix = reader.Required("prefix");
  const Value start = reader.Optional("start", Value());
  const Value end = reader.Optional("end", Value());
  MINIMO_TRY(reader.Done());
  const bool tuple = affix.IsList() && affix.AsList().kind == List::Kind::kTuple;
  if (!affix.IsString() && !tuple) {
    return Errorf("{} first arg must be str or a tuple of str, not {}", name, TypeName(affix));
  }
  MINIMO_ASSIGN(const std::string text, Window(runtime, subject, start, end));
  for (const Value& candidate : tuple ? affix.AsList().items : Values{affix}) {
    MINIMO_ASSIGN(const std::string part, ToText(candidate, "tuple for startswith"));
    const bool has =
        part.size() <= text.size() && text.compare(kAtEnd ? text.size() - part.size() : 0, part.size(), part) == 0;
    if (has) return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool kFromRight, bool kMustFind>
Result<Value> Find(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("find", args);
  const Value part_value = reader.Required("sub");
  const Value start = reader.Optional("start", Value());
  const Value end = reader.Optional("end", Value());
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string part, ToText(part_value, "sub"));
  MINIMO_ASSIGN(const std::string text, Window(runtime, subject, start, end));
  MINIMO_TRY(runtime.ChargeText(text.size()));
  const size_t at = kFromRight ? text.rfind(part) : text.find(part);
  if (at == text.npos) return kMustFind ? Result<Value>(Errorf("substring not found")) : Value::Int(-1);
  int64_t offset = 0;
  if (!start.IsNone()) {
    const int64_t size = static_cast<int64_t>(CodePoints(subject.AsString()));
    offset = std::clamp<int64_t>(start.AsInt() < 0 ? start.AsInt() + size : start.AsInt(), 0, size);
  }
  return Value::Int(offset + static_cast<int64_t>(CodePoints(std::string_view(text).substr(0, at))));
}

Result<Value> Count(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("count", args);
  const Value part_value = reader.Required("sub");
  const Value start = reader.Optional("start", Value());
  const Value end = reader.Optional("end", Value());
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string part, ToText(part_value, "sub"));
  MINIMO_ASSIGN(const std::string text, Window(runtime, subject, start, end));
  MINIMO_TRY(runtime.ChargeText(text.size()));
  if (part.empty()) return Value::Int(static_cast<int64_t>(CodePoints(text)) + 1);
  int64_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return Value::Int(count);
}

Result<Value> Replace(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("replace", args);
  const Value old_value = reader.Required("old");
  const Value new_value = reader.Required("new");
  const Value count_value = reader.Optional("count", Value::Int(-1));
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string old_text, ToText(old_value, "replace() argument 1"));
  MINIMO_ASSIGN(std::string new_text, ToText(new_value, "replace() argument 2"));
  MINIMO_ASSIGN(const int64_t limit, ToIndex(count_value));
  if (subject.IsMarkup() && !new_value.IsMarkup()) new_text = EscapeHtml(new_text);
  const std::string& text = subject.AsString();
  MINIMO_TRY(runtime.ChargeText(text.size()));
  std::string out;
  int64_t done = 0;
  size_t position = 0;
  while (limit < 0 || done < limit) {
    size_t at = text.find(old_text, position);
    if (at == text.npos) break;
    if (old_text.empty() && done > 0) {
      // Between code points: the next one is copied first.
      if (position >= text.size()) break;
      at = position;
      DecodeAt(text, at);
    }
    out.append(text, position, at - position);
    out += new_text;
    MINIMO_TRY(runtime.Charge(1 + static_cast<int64_t>(new_text.size() / 32)));
    if (out.size() > Runtime::kMaxTextBytes) return runtime.ChargeText(out.size()).error();
    position = at + old_text.size();
    ++done;
  }
  out.append(text, std::min(position, text.size()));
  return Like(subject, std::move(out));
}

Result<Value> JoinMethod(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("join", args);
  const Value parts = reader.Required("iterable");
  MINIMO_TRY(reader.Done());
  if (!IsIterable(parts)) return Errorf("can only join an iterable");
  MINIMO_ASSIGN(const Values items, Iterate(runtime, parts));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsString()) return Errorf("sequence item {}: expected str instance, {} found", i, TypeName(items[i]));
    if (i > 0) out += subject.AsString();
    out += subject.IsMarkup() && !items[i].IsMarkup() ? EscapeHtml(items[i].AsString()) : items[i].AsString();
    MINIMO_TRY(runtime.Charge(1 + static_cast<int64_t>((subject.AsString().size() + items[i].AsString().size()) / 32)));
    if (out.size() > Runtime::kMaxTextBytes) return runtime.ChargeText(out.size()).error();
  }
  return Like(subject, std::move(out));
}

enum class Pad { kLeft, kRight, kCenter };

template <Pad kPad>
Result<Value> Padded(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("ljust", args);
  const Value width_value = reader.Required("width");
  const Value fill_value = reader.Optional("fillchar", Value::String(" "));
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t width, ToIndex(width_value));
  MINIMO_ASSIGN(const std::string fill, ToText(fill_value, "the fill character"));
  if (CodePoints(fill) != 1) return Errorf("The fill character must be exactly one character long");
  const int64_t size = static_cast<int64_t>(CodePoints(subject.AsString()));
  if (width <= size) return subject;
  const int64_t missing = width - size;
  if (missing > static_cast<int64_t>(Runtime::kMaxTextBytes))
    return runtime.ChargeText(Runtime::kMaxTextBytes + 1).error();
  MINIMO_TRY(runtime.ChargeText(static_cast<size_t>(missing) * fill.size()));
  const int64_t left = kPad == Pad::kRight ? 0 : kPad == Pad::kLeft ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += subject.AsString();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return Like(subject, std::move(out));
}

Result<Value> ZFill(Runtime& runtime, const Value& subject, Args& args) {
  std::string text = subject.AsString();
  std::string sign;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    sign = text.substr(0, 1);
    text.erase(0, 1);
  }
  ArgReader reader("zfill", args);
  const Value width_value = reader.Required("width");
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t width, ToIndex(width_value));
  Args call;
  call.positional = {Value::Int(std::max<int64_t>(width, 0) - static_cast<int64_t>(sign.size())), Value::String("0")};
  MINIMO_ASSIGN(const Value padded, Padded<Pad::kLeft>(runtime, Value::String(text), call));
  return Like(subject, sign + padded.AsString());
}

template <bool kSuffix>
Result<Value> RemoveAffix(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("removeprefix", args);
  const Value affix_value = reader.Required("prefix");
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string affix, ToText(affix_value, "the affix"));
  const std::string& text = subject.AsString();
  if (affix.size() > text.size() || text.compare(kSuffix ? text.size() - affix.size() : 0, affix.size(), affix) != 0)
    return subject;
  return Like(subject, kSuffix ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size()));
}

bool IsDigit(char32_t c) {
  return IsDecimal(c) || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}
bool IsAlnum(char32_t c) { return IsAlpha(c) || IsNumeric(c); }

// isalpha and its sisters: not empty, and all of the class.
template <bool (*Predicate)(char32_t)>
Result<Value> All(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("method", args).Done());
  const std::string& text = subject.AsString();
  MINIMO_TRY(runtime.ChargeText(text.size()));
  for (size_t i = 0; i < text.size();) {
    if (!Predicate(DecodeAt(text, i))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty() || Predicate == IsPrintable);
}

template <bool kUpper>
Result<Value> IsCaseMethod(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_ASSIGN(const bool is_case, FindTest(kUpper ? "upper" : "lower")(runtime, subject, args));
  return Value::Bool(is_case);
}

Result<Value> IsTitleMethod(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("istitle", args).Done());
  MINIMO_TRY(runtime.ChargeText(subject.AsString().size()));
  bool after_cased = false;
  bool found = false;
  for (const char32_t c : Decode(subject.AsString())) {
    const bool upper = IsUpper(c) || IsTitle(c);
    if ((upper && after_cased) || (IsLower(c) && !after_cased)) return Value::Bool(false);
    after_cased = upper || IsLower(c);
    found |= after_cased;
  }
  return Value::Bool(found);
}

Result<Value> IsIdentifierMethod(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("isidentifier", args).Done());
  return Value::Bool(IsIdentifier(subject.AsString()));
}

Result<Value> IsAscii(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("isascii", args).Done());
  const std::string& text = subject.AsString();
  return Value::Bool(std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; }));
}

Result<Value> FormatMethod(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_ASSIGN(std::string text, BraceFormat(runtime, subject.AsString(), args));
  return Like(subject, std::move(text));
}

}  // namespace

Function FindStringMethod(std::string_view name) {
  static constexpr std::pair<std::string_view, Function> kMethods[] = {
      {"upper", Changed<Upper>},
      {"lower", Changed<Lower>},
      {"title", Changed<Title>},
      {"capitalize", Changed<Capitalize>},
      {"swapcase", Changed<SwapCase>},
      {"casefold", Changed<Lower>},
      {"strip", Stripped<Side::kBoth>},
      {"lstrip", Stripped<Side::kLeft>},
      {"rstrip", Stripped<Side::kRight>},
      {"split", Split<false>},
      {"rsplit", Split<true>},
      {"splitlines", SplitLinesMethod},
      {"partition", Partition<false>},
      {"rpartition", Partition<true>},
      {"startswith", HasAffix<false>},
      {"endswith", HasAffix<true>},
      {"find", Find<false, false>},
      {"rfind", Find<true, false>},
      {"index", Find<false, true>},
      {"rindex", Find<true, true>},
      {"count", Count},
      {"replace", Replace},
      {"join", JoinMethod},
      {"ljust", Padded<Pad::kRight>},
      {"rjust", Padded<Pad::kLeft>},
      {"center", Padded<Pad::kCenter>},
      {"zfill", ZFill},
      {"removeprefix", RemoveAffix<false>},
      {"removesuffix", RemoveAffix<true>},
      {"isalpha", All<IsAlpha>},
      {"isdigit", All<IsDigit>},
      {"isdecimal", All<IsDecimal>},
      {"isnumeric", All<IsNumeric>},
      {"isalnum", All<IsAlnum>},
      {"isspace", All<IsSpace>},
      {"isprintable", All<IsPrintable>},
      {"isupper", IsCaseMethod<true>},
      {"islower", IsCaseMethod<false>},
      {"istitle", IsTitleMethod},
      {"isidentifier", IsIdentifierMethod},
      {"isascii", IsAscii},
      {"format", FormatMethod},
  };
  for (const auto& [known, method] : kMethods) {
    if (name == known) return method;
  }
  return nullptr;
}

}  // namespace minimo::jinja
