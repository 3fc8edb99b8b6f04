#include "text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja/unicode.h"

namespace minimo::jinja {
namespace {

void AppendRepr(std::string& out, const Value& value);

void AppendItems(std::string& out, const Values& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    AppendRepr(out, items[i]);
  }
}

void AppendList(std::string& out, const List& list) {
  switch (list.kind) {
    case List::Kind::kGenerator: out += "<generator object>"; return;
    case List::Kind::kRange:
      out += list.range[2] == 1 ? fmt::format("range({}, {})", list.range[0], list.range[1])
                                : fmt::format("range({}, {}, {})", list.range[0], list.range[1], list.range[2]);
      return;
    case List::Kind::kTuple:
      out += '(';
      AppendItems(out, list.items);
      out += list.items.size() == 1 ? ",)" : ")";
      return;
    case List::Kind::kKeys: out += "dict_keys(["; break;
    case List::Kind::kValues: out += "dict_values(["; break;
    case List::Kind::kItems: out += "dict_items(["; break;
    case List::Kind::kList: out += '['; break;
  }
  AppendItems(out, list.items);
  out += list.kind == List::Kind::kList ? "]" : "])";
}

void AppendRepr(std::string& out, const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined: out += "Undefined"; break;
    case Value::Kind::kNone: out += "None"; break;
    case Value::Kind::kBool: out += value.AsInt() != 0 ? "True" : "False"; break;
    case Value::Kind::kInt: out += std::to_string(value.AsInt()); break;
    case Value::Kind::kFloat: out += FloatRepr(value.AsDouble()); break;
    case Value::Kind::kString:
      out += value.IsMarkup() ? "Markup(" + StringRepr(value.AsString()) + ")" : StringRepr(value.AsString());
      break;
    case Value::Kind::kList: AppendList(out, value.AsList()); break;
    case Value::Kind::kDict: {
      out += '{';
      bool first = true;
      for (const auto& [key, item] : value.AsDict().items) {
        if (!first) out += ", ";
        first = false;
        AppendRepr(out, key);
        out += ": ";
        AppendRepr(out, item);
      }
      out += '}';
      break;
    }
    case Value::Kind::kObject: out += value.AsObject().Repr(); break;
  }
}

std::string JsonString(std::string_view text, bool ascii_only) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeAt(text, i);
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (c < 0x20 || (ascii_only && c > 0x7e && c < 0x10000)) {
          out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
        } else if (ascii_only && c >= 0x10000) {
          const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
          out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
        } else {
          AppendUtf8(out, c);
        }
    }
  }
  return out + '"';
}

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(value);
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  Status Write(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::kNone: out_ += "null"; return {};
      case Value::Kind::kBool: out_ += value.AsInt() != 0 ? "true" : "false"; return {};
      case Value::Kind::kInt: out_ += std::to_string(value.AsInt()); return {};
      case Value::Kind::kFloat: out_ += JsonFloat(value.AsDouble()); return {};
      case Value::Kind::kString: out_ += JsonString(value.AsString(), style_.ascii_only); return {};
      case Value::Kind::kDict: return WriteDict(value.AsDict());
      case Value::Kind::kList: {
        const List::Kind kind = value.AsList().kind;
        if (kind == List::Kind::kList || kind == List::Kind::kTuple) return WriteList(value.AsList());
        break;
      }
      default: break;
    }
    return Errorf("Object of type {} is not JSON serializable", TypeName(value));
  }

  std::string Take() { return std::move(out_); }

 private:
  void Break(int change) {
    depth_ += change;
    if (!style_.multiline) return;
    out_ += '\n';
    for (int i = 0; i < depth_; ++i) out_ += style_.indent;
  }
  void Separate() {
    out_ += style_.item_separator;
    Break(0);
  }

  Status WriteList(const List& list) {
    if (list.items.empty()) {
      out_ += "[]";
      return {};
    }
    out_ += '[';
    Break(+1);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) Separate();
      MINIMO_TRY(Write(list.items[i]));
    }
    Break(-1);
    out_ += ']';
    return {};
  }

  Result<std::string> Key(const Value& key) const {
    switch (key.kind()) {
      case Value::Kind::kString: return key.AsString();
      case Value::Kind::kNone: return std::string("null");
      case Value::Kind::kBool: return std::string(key.AsInt() != 0 ? "true" : "false");
      case Value::Kind::kInt: return std::to_string(key.AsInt());
      case Value::Kind::kFloat: return JsonFloat(key.AsDouble());
      default: return Errorf("keys must be str, int, float, bool or None, not {}", TypeName(key));
    }
  }

  Status WriteDict(const Dict& dict) {
    if (dict.items.empty()) {
      out_ += "{}";
      return {};
    }
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      for (size_t i = 1; i < items.size(); ++i) MINIMO_TRY(Compare(items[i]->first, items[0]->first, "<"));
      std::stable_sort(items.begin(), items.end(), [](const auto* a, const auto* b) {
        const Result<int> order = Compare(a->first, b->first, "<");
        return order.ok() && *order < 0;
      });
    }
    out_ += '{';
    Break(+1);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) Separate();
      MINIMO_ASSIGN(const std::string key, Key(items[i]->first));
      out_ += JsonString(key, style_.ascii_only);
      out_ += style_.key_separator;
      MINIMO_TRY(Write(items[i]->second));
    }
    Break(-1);
    out_ += '}';
    return {};
  }

  const JsonStyle& style_;
  std::string out_;
  int depth_ = 0;
};

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  // "d.ddde+XX" with the fewest digits, then Python's layout: exponents from -4 up to 15 are written out.
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string sign;
  if (text.front() == '-') {
    sign = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  std::string digits(text.substr(0, e));
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (exponent + 1 >= count) return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

std::string StringRepr(std::string_view text) {
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeAt(text, i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      AppendUtf8(out, c);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  return out + quote;
}

std::string Repr(const Value& value) {
  std::string out;
  AppendRepr(out, value);
  return out;
}

std::string Str(const Value& value) {
  if (value.IsString()) return value.AsString();
  if (value.IsUndefined()) return "";
  return Repr(value);
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out += c;
    }
  }
  return out;
}

Result<std::string> ToJson(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  MINIMO_TRY(writer.Write(value));
  return writer.Take();
}

}  // namespace minimo::jinja
