// Filters whose subject is text.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

// soft_str: markup stays markup.
Value Like(const Value& subject, std::string text) { return Value::String(std::move(text), subject.IsMarkup()); }

template <std::string (*Change)(std::string_view)>
Result<Value> Changed(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("filter", args).Done());
  const std::string text = Str(subject);
  MINIMO_TRY(runtime.ChargeText(3 * text.size()));
  return Like(subject, Change(text));
}

// Jinja's own title: words are what stands between white space and ( { [ < -.
std::string JinjaTitle(std::string_view text) {
  const std::u32string letters = Decode(text);
  std::string out;
  for (size_t i = 0; i < letters.size();) {
    const auto separates = [](char32_t c) {
      return IsSpace(c) || std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos;
    };
    const bool separator = separates(letters[i]);
    size_t end = i;
    while (end < letters.size() && separates(letters[end]) == separator) ++end;
    out += Upper(Encode(std::u32string_view(letters).substr(i, 1)));
    out += Lower(Encode(std::u32string_view(letters).substr(i + 1, end - i - 1)));
    i = end;
  }
  return out;
}

Result<Value> Trim(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("trim", args);
  const Value chars = reader.Optional("chars", Value());
  MINIMO_TRY(reader.Done());
  if (!chars.IsNone() && !chars.IsString()) return Errorf("strip arg must be None or str");
  const std::string text = Str(subject);
  return Like(subject,
              std::string(Strip(text, chars.IsNone() ? std::nullopt : std::optional<std::string_view>(chars.AsString()),
                                Side::kBoth)));
}

Result<Value> Replace(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("replace", args);
  const Value old_value = reader.Required("old");
  const Value new_value = reader.Required("new");
  const Value count = reader.Optional("count", Value());
  MINIMO_TRY(reader.Done());
  Args call;
  call.positional = {Value::String(Str(old_value)), Value::String(Str(new_value)),
                     count.IsNone() ? Value::Int(-1) : count};
  return FindStringMethod("replace")(runtime, Value::String(Str(subject)), call);
}

Result<Value> Center(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("center", args);
  Args call;
  call.positional = {reader.Optional("width", Value::Int(80))};
  MINIMO_TRY(reader.Done());
  return FindStringMethod("center")(runtime, Like(subject, Str(subject)), call);
}

Result<Value> Indent(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("indent", args);
  const Value width = reader.Optional("width", Value::Int(4));
  const bool first = reader.Optional("first", Value::Bool(false)).Truthy();
  const bool blank = reader.Optional("blank", Value::Bool(false)).Truthy();
  MINIMO_TRY(reader.Done());
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (!subject.IsString()) return Errorf("unsupported operand type(s) for +=: '{}' and 'str'", TypeName(subject));
  std::string margin;
  if (width.IsString()) {
    margin = width.AsString();
  } else {
    MINIMO_ASSIGN(const int64_t spaces, ToIndex(width));
    MINIMO_TRY(runtime.ChargeText(static_cast<size_t>(std::max<int64_t>(0, spaces))));
    margin.assign(static_cast<size_t>(std::max<int64_t>(0, spaces)), ' ');
  }
  const std::string text = subject.AsString() + "\n";
  const std::vector<std::string_view> lines = SplitLines(text, false);
  MINIMO_TRY(runtime.ChargeText(text.size() + margin.size() * (lines.size() + 1)));
  std::string out = first ? margin : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += margin;
    out += lines[i];
  }
  return Like(subject, std::move(out));
}

Result<Value> Truncate(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("truncate", args);
  const Value length_value = reader.Optional("length", Value::Int(255));
  const bool kill_words = reader.Optional("killwords", Value::Bool(false)).Truthy();
  const Value end_value = reader.Optional("end", Value::String("..."));
  const Value leeway_value = reader.Optional("leeway", Value());
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const int64_t length, ToIndex(length_value));
  MINIMO_ASSIGN(const int64_t leeway, ToIndex(leeway_value.IsNone() ? Value::Int(5) : leeway_value));
  MINIMO_ASSIGN(const std::string end, ToText(end_value, "end"));
  MINIMO_ASSIGN(const int64_t size, Length(subject));
  const int64_t end_size = static_cast<int64_t>(CodePoints(end));
  if (length < end_size) return Errorf("expected length >= {}, got {}", end_size, length);
  if (leeway < 0) return Errorf("expected leeway >= 0, got {}", leeway);
  if (size <= length || size - length <= leeway) return subject;
  MINIMO_ASSIGN(const std::string text, ToText(subject, "the text"));
  MINIMO_TRY(runtime.ChargeText(text.size()));
  std::string out = text.substr(0, ByteOffset(text, static_cast<size_t>(length - end_size)));
  if (const size_t space = out.rfind(' '); !kill_words && space != out.npos) out.resize(space);
  return Like(subject, out + end);
}

Result<Value> WordCount(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("wordcount", args).Done());
  const std::string text = Str(subject);
  MINIMO_TRY(runtime.ChargeText(text.size()));
  int64_t words = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const bool word = IsWord(DecodeAt(text, i));
    words += word && !in_word;
    in_word = word;
  }
  return Value::Int(words);
}

std::string UrlQuote(const Value& value, bool query) {
  std::string out;
  for (const char c : Str(value)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    if (plain) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

Result<Value> UrlEncode(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("urlencode", args).Done());
  MINIMO_TRY(runtime.Charge(subject.GetExtent().weight));
  if (subject.IsString() || !IsIterable(subject)) return Value::String(UrlQuote(subject, false));
  std::string out;
  const auto append = [&out](const Value& key, const Value& value) {
    out += (out.empty() ? "" : "&") + UrlQuote(key, true) + "=" + UrlQuote(value, true);
  };
  if (subject.IsDict()) {
    for (const auto& [key, value] : subject.AsDict().items) append(key, value);
    return Value::String(std::move(out));
  }
  MINIMO_ASSIGN(const Values pairs, Iterate(runtime, subject));
  for (const Value& pair : pairs) {
    MINIMO_ASSIGN(const Values parts, Iterate(runtime, pair));
    if (parts.size() != 2) return Errorf("expected pairs of key and value");
    append(parts[0], parts[1]);
  }
  return Value::String(std::move(out));
}

Result<Value> Escape(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("escape", args).Done());
  if (subject.IsMarkup()) return subject;
  MINIMO_TRY(runtime.Charge(subject.GetExtent().weight));
  return Value::String(EscapeHtml(Str(subject)), true);
}

Result<Value> ForceEscape(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("forceescape", args).Done());
  return Value::String(EscapeHtml(Str(subject)), true);
}

Result<Value> Safe(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("safe", args).Done());
  return Value::String(Str(subject), true);
}

Result<Value> Format(Runtime& runtime, const Value& subject, Args& args) {
  if (!args.positional.empty() && !args.keyword.empty()) {
    return Errorf("can't handle positional and keyword arguments at the same time");
  }
  Value values;
  if (args.keyword.empty()) {
    MINIMO_ASSIGN(values, MakeList(std::move(args.positional), List::Kind::kTuple));
  } else {
    Dict dict;
    for (auto& [key, value] : args.keyword) dict.Set(Value::String(key), std::move(value));
    MINIMO_ASSIGN(values, MakeDict(std::move(dict)));
  }
  MINIMO_ASSIGN(std::string text, PercentFormat(runtime, Str(subject), values));
  return Like(subject, std::move(text));
}

}  // namespace

Function FindTextFilter(std::string_view name) {
  static constexpr std::pair<std::string_view, Function> kFilters[] = {
      {"upper", Changed<Upper>},
      {"lower", Changed<Lower>},
      {"capitalize", Changed<Capitalize>},
      {"title", Changed<JinjaTitle>},
      {"trim", Trim},
      {"replace", Replace},
      {"center", Center},
      {"indent", Indent},
      {"truncate", Truncate},
      {"wordcount", WordCount},
      {"urlencode", UrlEncode},
      {"escape", Escape},
      {"e", Escape},
      {"forceescape", ForceEscape},
      {"safe", Safe},
      {"format", Format},
  };
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace minimo::jinja
