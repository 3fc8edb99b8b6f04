// Python's two formatting languages: "%5.1f" % x and "{:>8}".format(x).
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja/format.h"
#include "text/jinja/ops.h"
#include "text/jinja/runtime.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

constexpr int kMaxPrecision = 1000;

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > = ^
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  int precision = -1;
  char grouping = '\0';  // , or _
  char type = '\0';
};

// Digits at `at`; too many of them are too large.
bool ReadNumber(std::string_view text, size_t& at, int64_t* value) {
  const auto parsed = std::from_chars(text.data() + at, text.data() + text.size(), *value);
  if (parsed.ec != std::errc()) return false;
  at = static_cast<size_t>(parsed.ptr - text.data());
  return true;
}

bool IsDigitAt(std::string_view text, size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; }

Result<Spec> ParseSpec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [&](size_t i) {
    return i < text.size() && std::string_view("<>=^").find(text[i]) != std::string_view::npos;
  };
  size_t after_fill = 0;
  if (!text.empty()) DecodeAt(text, after_fill);
  if (after_fill > 0 && is_align(after_fill)) {
    spec.fill = text.substr(0, after_fill);
    spec.align = text[after_fill];
    at = after_fill + 1;
  } else if (is_align(0)) {
    spec.align = text[0];
    at = 1;
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
  if (at < text.size() && text[at] == '#') spec.alternate = true, ++at;
  if (at < text.size() && text[at] == '0') {
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    ++at;
  }
  if (IsDigitAt(text, at) && !ReadNumber(text, at, &spec.width))
    return Errorf("Too many decimal digits in format string");
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.grouping = text[at++];
  if (at < text.size() && text[at] == '.') {
    int64_t precision = 0;
    ++at;
    if (!IsDigitAt(text, at) || !ReadNumber(text, at, &precision)) return Errorf("Format specifier missing precision");
    if (precision > kMaxPrecision) return Errorf("the precision is too large");
    spec.precision = static_cast<int>(precision);
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) return Errorf("Invalid format specifier");
  return spec;
}

// Commas (or underscores) between groups of three digits before the point.
std::string Group(std::string digits, char separator) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (size_t i = whole; i > 3; i -= 3) digits.insert(i - 3, 1, separator);
  return digits;
}

Result<std::string> Pad(Runtime& runtime, const Spec& spec, const std::string& sign, const std::string& body,
                        char usual) {
  const int64_t size = static_cast<int64_t>(CodePoints(sign) + CodePoints(body));
  if (spec.width <= size) return sign + body;
  const int64_t missing = spec.width - size;
  if (missing > static_cast<int64_t>(Runtime::kMaxTextBytes))
    return runtime.ChargeText(Runtime::kMaxTextBytes + 1).error();
  MINIMO_TRY(runtime.ChargeText(static_cast<size_t>(missing) * spec.fill.size()));
  const auto fill = [&spec](int64_t count) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  switch (spec.align == '\0' ? usual : spec.align) {
    case '<': return sign + body + fill(missing);
    case '=': return sign + fill(missing) + body;
    case '^': return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    default: return fill(missing) + sign + body;
  }
}

std::string SignOf(bool negative, char style) {
  if (negative) return "-";
  return style == '-' ? "" : std::string(1, style);
}

std::string Magnitude(int64_t value, char type, bool alternate) {
  const uint64_t magnitude = value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  switch (type) {
    case 'x': return (alternate ? "0x" : "") + fmt::format("{:x}", magnitude);
    case 'X': return (alternate ? "0X" : "") + fmt::format("{:X}", magnitude);
    case 'o': return (alternate ? "0o" : "") + fmt::format("{:o}", magnitude);
    case 'b': return (alternate ? "0b" : "") + fmt::format("{:b}", magnitude);
    default: return std::to_string(magnitude);
  }
}

// The digits of a non-negative double for the types e E f F g G %, as C's printf and Python agree on them.
std::string FloatDigits(double value, char type, int precision, bool alternate) {
  if (std::isinf(value)) return std::isupper(static_cast<unsigned char>(type)) != 0 ? "INF" : "inf";
  if (std::isnan(value)) return std::isupper(static_cast<unsigned char>(type)) != 0 ? "NAN" : "nan";
  if (type == '%') return FloatDigits(value * 100, 'f', precision, alternate) + "%";
  const char format[] = {
      '%', alternate ? '#' : '.', alternate ? '.' : '*', alternate ? '*' : type, alternate ? type : '\0', '\0'};
  std::string out(512 + kMaxPrecision, '\0');
  out.resize(static_cast<size_t>(std::snprintf(out.data(), out.size(), format, precision < 0 ? 6 : precision, value)));
  return out;
}

bool IsFloatType(char type) { return type != '\0' && std::string_view("eEfFgG%").find(type) != std::string_view::npos; }

Result<std::string> FormatNumber(Runtime& runtime, const Value& value, const Spec& spec) {
  const bool as_float = value.IsFloat() || IsFloatType(spec.type);
  if (!as_float) {
    if (spec.type != '\0' && std::string_view("dxXobnc").find(spec.type) == std::string_view::npos) {
      return Errorf("Unknown format code '{}' for object of type 'int'", spec.type);
    }
    if (spec.precision >= 0) return Errorf("Precision not allowed in integer format specifier");
    if (spec.type == 'c') {
      std::string letter;
      AppendUtf8(letter, static_cast<char32_t>(value.AsInt()));
      return Pad(runtime, spec, "", letter, '<');
    }
    std::string digits = Magnitude(value.AsInt(), spec.type, spec.alternate);
    if (spec.grouping != '\0') digits = Group(digits, spec.grouping);
    return Pad(runtime, spec, SignOf(value.AsInt() < 0, spec.sign), digits, '>');
  }
  const double number = value.AsDouble();
  std::string digits;
  if (IsFloatType(spec.type)) {
    digits = FloatDigits(std::fabs(number), spec.type, spec.precision, spec.alternate);
  } else if (spec.type != '\0' && spec.type != 'n') {
    return Errorf("Unknown format code '{}' for object of type 'float'", spec.type);
  } else if (spec.precision >= 0) {
    digits = FloatDigits(std::fabs(number), 'g', spec.precision, false);
    if (digits.find_first_not_of("0123456789") == digits.npos) digits += ".0";
  } else {
    digits = FloatRepr(std::fabs(number));
  }
  if (spec.grouping != '\0') digits = Group(digits, spec.grouping);
  return Pad(runtime, spec, SignOf(std::signbit(number), spec.sign), digits, '>');
}

std::string FirstCodePoints(const std::string& text, int count) {
  return count < 0 ? text : text.substr(0, ByteOffset(text, static_cast<size_t>(count)));
}

}  // namespace

Result<std::string> FormatSpec(Runtime& runtime, const Value& value, std::string_view text) {
  if (text.empty()) return Str(value);
  if (value.IsUndefined() || !(value.IsNumber() || value.IsString())) {
    return Errorf("unsupported format string passed to {}.__format__", TypeName(value));
  }
  MINIMO_ASSIGN(const Spec spec, ParseSpec(text));
  if (value.IsNumber() && !(value.IsBool() && spec.type == 's')) return FormatNumber(runtime, value, spec);
  if (spec.type != '\0' && spec.type != 's') {
    return Errorf("Unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.align == '=') return Errorf("'=' alignment not allowed in string format specifier");
  return Pad(runtime, spec, "", FirstCodePoints(value.AsString(), spec.precision), '<');
}

namespace {

// Hands out the values of a % expression in order.
class PercentValues {
 public:
  explicit PercentValues(const Value& values) : values_(values) {
    if (values.IsList() && values.AsList().kind == List::Kind::kTuple)
      items_ = values.AsList().items;
    else
      items_ = {values};
  }
  Result<Value> Next() {
    if (next_ >= items_.size()) return Errorf("not enough arguments for format string");
    return items_[next_++];
  }
  Result<Value> Named(std::string_view name) {
    if (!values_.IsDict()) return Errorf("format requires a mapping");
    named_ = true;
    const Value* found = values_.AsDict().Find(name);
    if (found == nullptr) return Errorf("{}", StringRepr(name));
    return *found;
  }
  bool AllUsed() const {
    const bool tuple = values_.IsList() && values_.AsList().kind == List::Kind::kTuple;
    return next_ >= items_.size() || named_ || (!tuple && (values_.IsDict() || values_.IsList()));
  }

 private:
  const Value& values_;
  Values items_;
  size_t next_ = 0;
  bool named_ = false;
};

Result<std::string> PercentField(Runtime& runtime, const Value& value, Spec spec, bool left) {
  if (left) spec.align = '<', spec.fill = " ";
  switch (spec.type) {
    case 's': return Pad(runtime, spec, "", FirstCodePoints(Str(value), spec.precision), '>');
    case 'r': return Pad(runtime, spec, "", FirstCodePoints(Repr(value), spec.precision), '>');
    case 'c':
      if (value.IsString() && CodePoints(value.AsString()) == 1) return Pad(runtime, spec, "", value.AsString(), '>');
      if (!value.IsIntegral()) return Errorf("%c requires int or char");
      return FormatNumber(runtime, value, spec);
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      if (value.IsUndefined()) return Error{value.UndefinedMessage()};
      const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
      if (!value.IsIntegral() && !(decimal && value.IsFloat() && std::fabs(value.AsDouble()) < 0x1p62)) {
        return Errorf("%{} format: {} is required, not {}", spec.type, decimal ? "a real number" : "an integer",
                      TypeName(value));
      }
      if (decimal) spec.type = 'd';
      std::string digits;
      const int64_t number = value.IsFloat() ? static_cast<int64_t>(value.AsDouble()) : value.AsInt();
      digits = Magnitude(number, spec.type, spec.alternate);
      if (spec.precision > static_cast<int>(digits.size()))
        digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
      return Pad(runtime, spec, SignOf(number < 0, spec.sign), digits, '>');
    }
    default: break;
  }
  if (!IsFloatType(spec.type) || spec.type == '%') return Errorf("unsupported format character '{}'", spec.type);
  if (value.IsUndefined()) return Error{value.UndefinedMessage()};
  if (!value.IsNumber()) return Errorf("must be real number, not {}", TypeName(value));
  return FormatNumber(runtime, Value::Float(value.AsDouble()), spec);
}

// A number, or * for the next value.
Result<int64_t> ReadCount(std::string_view format, size_t& at, PercentValues& values) {
  int64_t count = 0;
  if (at < format.size() && format[at] == '*') {
    ++at;
    MINIMO_ASSIGN(const Value value, values.Next());
    if (!value.IsIntegral()) return Errorf("* wants int");
    return value.AsInt();
  }
  if (IsDigitAt(format, at) && !ReadNumber(format, at, &count)) return Errorf("width too big");
  return count;
}

}  // namespace

Result<std::string> PercentFormat(Runtime& runtime, std::string_view format, const Value& given) {
  PercentValues values(given);
  std::string out;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    ++at;
    if (at < format.size() && format[at] == '%') {
      out += format[at++];
      continue;
    }
    std::optional<Value> value;
    if (at < format.size() && format[at] == '(') {
      const size_t close = format.find(')', at);
      if (close == format.npos) return Errorf("incomplete format key");
      MINIMO_ASSIGN(value, values.Named(format.substr(at + 1, close - at - 1)));
      at = close + 1;
    }
    Spec spec;
    bool left = false;
    for (; at < format.size() && std::string_view("-+ #0").find(format[at]) != std::string_view::npos; ++at) {
      left |= format[at] == '-';
      spec.alternate |= format[at] == '#';
      if (format[at] == '+' || (format[at] == ' ' && spec.sign != '+')) spec.sign = format[at];
      if (format[at] == '0') spec.align = '=', spec.fill = "0";
    }
    MINIMO_ASSIGN(spec.width, ReadCount(format, at, values));
    if (spec.width < 0) left = true, spec.width = spec.width < -kMaxWeight ? kMaxWeight : -spec.width;
    if (at < format.size() && format[at] == '.') {
      ++at;
      MINIMO_ASSIGN(const int64_t precision, ReadCount(format, at, values));
      if (precision > kMaxPrecision) return Errorf("precision too big");
      spec.precision = static_cast<int>(std::max<int64_t>(0, precision));
    }
    if (at >= format.size()) return Errorf("incomplete format");
    spec.type = format[at++];
    if (!value) {
      MINIMO_ASSIGN(value, values.Next());
    }
    MINIMO_TRY(runtime.Charge(value->GetExtent().weight));
    // Zeros pad numbers alone.
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'c') spec.align = '\0', spec.fill = " ";
    MINIMO_ASSIGN(const std::string field, PercentField(runtime, *value, spec, left));
    out += field;
    if (out.size() > Runtime::kMaxTextBytes) return runtime.ChargeText(out.size()).error();
  }
  if (!values.AllUsed()) return Errorf("not all arguments converted during string formatting");
  return out;
}

namespace {

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Args& args) : runtime_(runtime), args_(args) {}

  Result<std::string> Run(std::string_view format, int depth) {
    if (depth > 2) return Errorf("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at];
      const bool doubled = at + 1 < format.size() && format[at + 1] == c;
      if (c != '{' && c != '}') {
        out += c;
        ++at;
      } else if (doubled) {
        out += c;
        at += 2;
      } else if (c == '}') {
        return Errorf("Single '}}' encountered in format string");
      } else {
        size_t end = at + 1;
        for (int open = 1; end < format.size(); ++end) {
          open += format[end] == '{' ? 1 : format[end] == '}' ? -1 : 0;
          if (open == 0) break;
        }
        if (end >= format.size()) {
          return at + 1 == format.size() ? Errorf("Single '{{' encountered in format string")
                                         : Errorf("expected '}}' before end of string");
        }
        MINIMO_ASSIGN(const std::string field, Field(format.substr(at + 1, end - at - 1), depth));
        out += field;
        if (out.size() > Runtime::kMaxTextBytes) return runtime_.ChargeText(out.size()).error();
        at = end + 1;
      }
    }
    return out;
  }

 private:
  // name!conversion:spec
  Result<std::string> Field(std::string_view field, int depth) {
    size_t colon = 0;
    for (int brackets = 0; colon < field.size(); ++colon) {
      brackets += field[colon] == '[' ? 1 : field[colon] == ']' ? -1 : 0;
      if (brackets <= 0 && field[colon] == ':') break;
    }
    std::string_view name = field.substr(0, colon);
    const std::string_view spec = colon < field.size() ? field.substr(colon + 1) : "";
    char conversion = '\0';
    if (const size_t bang = name.rfind('!'); bang != name.npos && bang + 2 == name.size()) {
      conversion = name.back();
      name = name.substr(0, bang);
    }
    MINIMO_ASSIGN(Value value, Lookup(name));
    MINIMO_TRY(runtime_.Charge(value.GetExtent().weight));
    if (conversion == 'r' || conversion == 'a') value = Value::String(Repr(value));
    if (conversion == 's') value = Value::String(Str(value));
    MINIMO_ASSIGN(const std::string resolved, Run(spec, depth + 1));
    return FormatSpec(runtime_, value, resolved);
  }

  // "", "0", "name", then any of ".attribute" and "[key]".
  Result<Value> Lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    const std::string_view first = name.substr(0, first_end);
    MINIMO_ASSIGN(Value value, First(first));
    for (name.remove_prefix(first_end); !name.empty();) {
      if (name[0] == '.') {
        const size_t end = std::min(name.find_first_of(".[", 1), name.size());
        MINIMO_ASSIGN(value, GetAttr(runtime_, value, name.substr(1, end - 1)));
        name.remove_prefix(end);
      } else {
        const size_t close = name.find(']');
        if (name[0] != '[' || close == name.npos) return Errorf("Missing ']' in format string");
        const std::string_view key = name.substr(1, close - 1);
        size_t at = 0;
        int64_t index = 0;
        const bool number = IsDigitAt(key, 0) && ReadNumber(key, at, &index) && at == key.size();
        MINIMO_ASSIGN(value, GetItem(runtime_, value, number ? Value::Int(index) : Value::String(std::string(key))));
        name.remove_prefix(close + 1);
      }
    }
    return value;
  }

  Result<Value> First(std::string_view name) {
    int64_t index = 0;
    size_t at = 0;
    const bool number = IsDigitAt(name, 0) && ReadNumber(name, at, &index) && at == name.size();
    if (name.empty() || number) {
      if (name.empty()) index = automatic_++;
      if (index >= static_cast<int64_t>(args_.positional.size())) {
        return Errorf("Replacement index {} out of range for positional args tuple", index);
      }
      return args_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [key, value] : args_.keyword) {
      if (key == name) return value;
    }
    return Errorf("{}", StringRepr(name));
  }

  Runtime& runtime_;
  const Args& args_;
  int64_t automatic_ = 0;
};

}  // namespace

Result<std::string> BraceFormat(Runtime& runtime, std::string_view format, const Args& args) {
  return BraceFormatter(runtime, args).Run(format, 0);
}

}  // namespace minimo::jinja
