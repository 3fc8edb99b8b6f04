// Filters that convert: numbers, defaults, text of anything, JSON, attributes.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

// Underscores may stand between digits.
bool DropUnderscores(std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') continue;
    const bool between = i > 0 && i + 1 < text.size() && std::isalnum(static_cast<unsigned char>(text[i - 1])) != 0 &&
                         std::isalnum(static_cast<unsigned char>(text[i + 1])) != 0;
    if (!between) return false;
  }
  text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
  return true;
}

// Python's int(text, base).
std::optional<int64_t> ParseInt(std::string_view given, int64_t base) {
  std::string text(Strip(given, std::nullopt, Side::kBoth));
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.erase(0, 1);
  }
  const char mark = text.size() > 2 && text[0] == '0' ? static_cast<char>(text[1] | 32) : '\0';
  const int64_t prefixed = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  if (prefixed != 0 && (base == prefixed || base == 0)) {
    base = prefixed;
    text.erase(0, 2);
  } else if (base == 0) {
    base = 10;
  }
  if (base < 2 || base > 36 || !DropUnderscores(text)) return std::nullopt;
  int64_t value = 0;
  text.insert(0, negative ? "-" : "");
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value, static_cast<int>(base));
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

// Python's float(text).
std::optional<double> ParseFloat(std::string_view given) {
  std::string text = Lower(Strip(given, std::nullopt, Side::kBoth));
  if (text.empty() || !DropUnderscores(text)) return std::nullopt;
  const std::string_view unsigned_text = std::string_view(text).substr(text[0] == '-' || text[0] == '+' ? 1 : 0);
  const bool special = unsigned_text == "inf" || unsigned_text == "infinity" || unsigned_text == "nan";
  if (!special && unsigned_text.find_first_not_of("0123456789.e+-") != unsigned_text.npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> TruncateToInt(double value) {
  if (!(value > -0x1p63 && value < 0x1p63)) return std::nullopt;
  return static_cast<int64_t>(value);
}

Result<Value> ToInt(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("int", args);
  const Value otherwise = reader.Optional("default", Value::Int(0));
  const Value base = reader.Optional("base", Value::Int(10));
  MINIMO_TRY(reader.Done());
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (subject.IsIntegral()) return Value::Int(subject.AsInt());
  std::optional<int64_t> value;
  if (subject.IsFloat()) {
    value = TruncateToInt(subject.AsDouble());
  } else if (subject.IsString()) {
    MINIMO_ASSIGN(const int64_t base_value, ToIndex(base));
    value = ParseInt(subject.AsString(), base_value);
    if (!value) {
      const std::optional<double> number = ParseFloat(subject.AsString());
      if (number) value = TruncateToInt(*number);
    }
  }
  return value ? Value::Int(*value) : otherwise;
}

Result<Value> ToFloat(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("float", args);
  const Value otherwise = reader.Optional("default", Value::Float(0));
  MINIMO_TRY(reader.Done());
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (subject.IsNumber()) return Value::Float(subject.AsDouble());
  const std::optional<double> value = subject.IsString() ? ParseFloat(subject.AsString()) : std::nullopt;
  return value ? Value::Float(*value) : otherwise;
}

Result<Value> Abs(Runtime&, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("abs", args).Done());
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (subject.IsFloat()) return Value::Float(std::fabs(subject.AsDouble()));
  if (!subject.IsIntegral()) return Errorf("bad operand type for abs(): '{}'", TypeName(subject));
  return Negate(subject, subject.AsInt() < 0);
}

double RoundFloat(double value, int64_t precision) {
  if (!std::isfinite(value) || precision > 330) return value;
  if (precision >= 0) return std::strtod(fmt::format("{:.{}f}", value, precision).c_str(), nullptr);
  const double unit = std::pow(10.0, static_cast<double>(std::min<int64_t>(-precision, 400)));
  return std::isinf(unit) ? 0.0 * value : std::nearbyint(value / unit) * unit;
}

Result<Value> Round(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("round", args);
  const Value precision_value = reader.Optional("precision", Value::Int(0));
  const Value method_value = reader.Optional("method", Value::String("common"));
  MINIMO_TRY(reader.Done());
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  const std::string method = Str(method_value);
  if (method != "common" && method != "ceil" && method != "floor")
    return Errorf("method must be common, ceil or floor");
  if (!subject.IsNumber()) return Errorf("type {} doesn't define __round__ method", TypeName(subject));
  MINIMO_ASSIGN(const int64_t precision, ToIndex(precision_value));
  if (method == "common") {
    if (!subject.IsIntegral() || precision < 0) {
      const double rounded = RoundFloat(subject.AsDouble(), precision);
      return subject.IsIntegral() ? Value::Int(static_cast<int64_t>(rounded)) : Value::Float(rounded);
    }
    return Value::Int(subject.AsInt());
  }
  const double unit = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(precision, -400, 400)));
  const double scaled = subject.AsDouble() * unit;
  if (!std::isfinite(scaled) || unit == 0) return Errorf("cannot round {}", Repr(subject));
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Result<Value> Default(Runtime&, const Value& subject, Args& args) {
  ArgReader reader("default", args);
  Value otherwise = reader.Optional("default_value", Value::String(""));
  const bool boolean = reader.Optional("boolean", Value::Bool(false)).Truthy();
  MINIMO_TRY(reader.Done());
  return subject.IsUndefined() || (boolean && !subject.Truthy()) ? otherwise : subject;
}

Result<Value> ToString(Runtime& runtime, const Value& subject, Args& args) {
  MINIMO_TRY(ArgReader("string", args).Done());
  if (subject.IsString()) return subject;
  MINIMO_TRY(runtime.Charge(subject.GetExtent().weight));
  return Value::String(Str(subject));
}

Result<Value> ToJsonFilter(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("tojson", args);
  const Value ascii = reader.Optional("ensure_ascii", Value::Bool(false));
  const Value indent = reader.Optional("indent", Value());
  const Value separators = reader.Optional("separators", Value());
  const Value sort_keys = reader.Optional("sort_keys", Value::Bool(false));
  MINIMO_TRY(reader.Done());
  JsonStyle style;
  style.ascii_only = ascii.Truthy();
  style.sort_keys = sort_keys.Truthy();
  if (!indent.IsNone()) {
    style.multiline = true;
    style.item_separator = ",";
    if (indent.IsString()) {
      style.indent = indent.AsString();
    } else {
      MINIMO_ASSIGN(const int64_t spaces, ToIndex(indent));
      if (spaces > 1000) return Errorf("an indent of {} is too large", spaces);
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(0, spaces)), ' ');
    }
  }
  if (!separators.IsNone()) {
    MINIMO_ASSIGN(const Values parts, Iterate(runtime, separators));
    if (parts.size() != 2 || !parts[0].IsString() || !parts[1].IsString())
      return Errorf("separators must be two strings");
    style.item_separator = parts[0].AsString();
    style.key_separator = parts[1].AsString();
  }
  const Extent extent = subject.GetExtent();
  const size_t per_node = style.indent.size() * static_cast<size_t>(extent.nesting) + style.item_separator.size() +
                          style.key_separator.size();
  MINIMO_TRY(runtime.ChargeText(static_cast<size_t>(extent.weight) * (32 + per_node) / 2));
  MINIMO_ASSIGN(std::string text, ToJson(subject, style));
  return Value::String(std::move(text));
}

// obj|attr("name"): attributes alone, never items.
Result<Value> Attr(Runtime& runtime, const Value& subject, Args& args) {
  ArgReader reader("attr", args);
  const Value name_value = reader.Required("name");
  MINIMO_TRY(reader.Done());
  MINIMO_ASSIGN(const std::string name, ToText(name_value, "attribute name"));
  if (subject.IsUndefined()) return Error{subject.UndefinedMessage()};
  if (subject.IsObject()) return GetAttr(runtime, subject, name);
  if (std::optional<Value> method = FindMethod(subject, name)) return *std::move(method);
  return Value::Undefined(fmt::format("'{}' has no attribute {}", ObjectTypeRepr(subject), StringRepr(name)));
}

}  // namespace

Function FindValueFilter(std::string_view name) {
  static constexpr std::pair<std::string_view, Function> kFilters[] = {
      {"int", ToInt},       {"float", ToFloat},       {"abs", Abs},
      {"round", Round},     {"default", Default},     {"d", Default},
      {"string", ToString}, {"tojson", ToJsonFilter}, {"attr", Attr},
  };
  for (const auto& [known, filter] : kFilters) {
    if (name == known) return filter;
  }
  return nullptr;
}

}  // namespace minimo::jinja
