#include "text/argument_types.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/utf8.h"

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxSchemaDepth = 16;  // of anyOf within anyOf and references; deeper ones say no more about the type

void AddNamed(std::string_view name, ArgumentTypes& types) {
  types.string |= name == "string";
  types.integer |= name == "integer";
  types.number |= name == "number";
  types.boolean |= name == "boolean";
  types.null |= name == "null";
  types.object |= name == "object";
  types.array |= name == "array";
}

void AddTypeOf(const Json& value, ArgumentTypes& types) {
  types.string |= value.is_string();
  types.integer |= value.is_number_integer();
  types.number |= value.is_number_float();
  types.boolean |= value.is_boolean();
  types.null |= value.is_null();
  types.object |= value.is_object();
  types.array |= value.is_array();
}

// "#/$defs/x" within the root.
const Json* Resolve(const Json& root, const std::string& reference) {
  if (reference.empty() || reference[0] != '#') return nullptr;
  const Json* at = &root;
  for (size_t begin = 1; begin < reference.size();) {
    if (reference[begin] != '/') return nullptr;
    const size_t end = std::min(reference.find('/', begin + 1), reference.size());
    const auto found = at->is_object() ? at->find(reference.substr(begin + 1, end - begin - 1)) : at->end();
    if (!at->is_object() || found == at->end()) return nullptr;
    at = &*found;
    begin = end;
  }
  return at;
}

void Collect(const Json& schema, const Json& root, int depth, int& visits, ArgumentTypes& types) {
  if (!schema.is_object() || depth > kMaxSchemaDepth || ++visits > 1000) return;
  for (const auto& [key, value] : schema.items()) {
    if (key == "type" && value.is_string()) AddNamed(value.get<std::string>(), types);
    if (key == "type" && value.is_array()) {
      for (const Json& name : value) {
        if (name.is_string()) AddNamed(name.get<std::string>(), types);
      }
    }
    if (key == "nullable" && value == true) types.null = true;
    if ((key == "anyOf" || key == "oneOf" || key == "allOf") && value.is_array()) {
      for (const Json& part : value) Collect(part, root, depth + 1, visits, types);
    }
    if (key == "$ref" && value.is_string()) {
      if (const Json* target = Resolve(root, value.get<std::string>()))
        Collect(*target, root, depth + 1, visits, types);
    }
  }
  // Values and shapes tell the type where it is not said.
  if (schema.contains("type") || !types.Unknown()) return;
  if (schema.contains("const")) AddTypeOf(schema["const"], types);
  if (schema.contains("enum") && schema["enum"].is_array()) {
    for (const Json& value : schema["enum"]) AddTypeOf(value, types);
  }
  types.object |= schema.contains("properties");
  types.array |= schema.contains("items");
}

std::string_view TrimSpace(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  return first == text.npos ? std::string_view() : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

bool AllDigits(std::string_view text) { return !text.empty() && text.find_first_not_of("0123456789") == text.npos; }

// "-007" -> "-7"; "5.0" -> "5". Digits of any length stay exact.
bool ToInteger(std::string_view text, std::string* out) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (const size_t dot = text.find('.'); dot != text.npos) {
    const std::string_view fraction = text.substr(dot + 1);
    if (fraction.empty() || fraction.find_first_not_of('0') != fraction.npos) return false;
    text = text.substr(0, dot);
  }
  if (!AllDigits(text)) return false;
  text.remove_prefix(std::min(text.find_first_not_of('0'), text.size() - 1));
  *out = (negative && text != "0" ? "-" : "") + std::string(text);
  return true;
}

// A number that JSON can write; one that it writes already stays as it is.
bool ToNumber(std::string_view text, std::string* out) {
  const Json parsed = Json::parse(text, nullptr, false);
  if (parsed.is_number()) {
    *out = text;
    return true;
  }
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != text.npos) return false;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return false;
  *out = fmt::format("{}", value);
  return true;
}

bool IsOneOf(const std::string& text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(), [&text](const char* word) { return text == word; });
}

}  // namespace

ArgumentTypes TypesOfSchema(const Json& schema, const Json& root) {
  ArgumentTypes types;
  int visits = 0;
  Collect(schema, root, 0, visits, types);
  return types;
}

Result<ToolTypes> ToolTypes::Parse(std::string_view tools_json) {
  ToolTypes result;
  if (tools_json.empty()) return result;
  const Json tools = Json::parse(tools_json, nullptr, false);
  if (tools.is_null()) return result;
  if (!tools.is_array()) return Errorf("tools: a list is expected");
  for (const Json& tool : tools) {
    if (!tool.is_object()) continue;
    const Json& function = tool.contains("function") ? tool["function"] : tool;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) continue;
    auto& parameters = result.types_[function["name"].get<std::string>()];
    const auto schema = function.find("parameters");
    if (schema == function.end() || !schema->is_object()) continue;
    const auto properties = schema->find("properties");
    if (properties == schema->end() || !properties->is_object()) continue;
    for (const auto& [name, property] : properties->items()) parameters[name] = TypesOfSchema(property, *schema);
  }
  return result;
}

ArgumentTypes ToolTypes::Find(std::string_view function, std::string_view parameter) const {
  const auto tool = types_.find(function);
  if (tool == types_.end()) return {};
  const auto found = tool->second.find(parameter);
  return found == tool->second.end() ? ArgumentTypes() : found->second;
}

std::string ToJsonArgument(std::string_view text, const ArgumentTypes& types) {
  const std::string_view trimmed = TrimSpace(text);
  std::string out;
  if (types.AllowsNull() && (types.OnlyText() ? text : trimmed) == "null") return "null";
  if (types.integer && ToInteger(trimmed, &out)) return out;
  if (types.number && ToNumber(trimmed, &out)) return out;
  if (types.boolean) {
    const std::string word = Lower(trimmed);
    if (IsOneOf(word, {"true", "1", "yes", "on"})) return "true";
    if (IsOneOf(word, {"false", "0", "no", "off"})) return "false";
  }
  if ((types.object && trimmed.starts_with('{')) || (types.array && trimmed.starts_with('['))) {
    if (Json::accept(trimmed)) return std::string(trimmed);
  }
  out = "\"";
  AppendJsonEscaped(text, &out);
  return out + '"';
}

void AppendJsonEscaped(std::string_view text, std::string* out) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const char c = text[0];
    if (step.kind != Utf8Step::kValid) {
      *out += kReplacementCharacter;
    } else if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (static_cast<unsigned char>(c) >= 0x20) {
      out->append(text.substr(0, step.size));
    } else {
      switch (c) {
        case '\n': *out += "\\n"; break;
        case '\r': *out += "\\r"; break;
        case '\t': *out += "\\t"; break;
        case '\b': *out += "\\b"; break;
        case '\f': *out += "\\f"; break;
        default: *out += fmt::format("\\u{:04x}", static_cast<int>(c));
      }
    }
    text.remove_prefix(step.size);
  }
}

}  // namespace minimo
