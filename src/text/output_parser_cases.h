// What models write, and what the output parser makes of it: for output_parser_test.
#pragma once

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace minimo {

inline constexpr const char* kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
    "location": {"type": "string"}, "days": {"type": "integer"}, "ratio": {"type": "number"},
    "metric": {"type": "boolean"}, "note": {"type": ["string", "null"]}, "opts": {"type": "object"},
    "list": {"type": "array"}, "any": {}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "unit": {"enum": ["celsius", "fahrenheit"]}, "level": {"enum": [1, 2]}, "mixed": {"type": ["string", "integer"]},
    "nul": {"type": "integer", "nullable": true},
    "ref": {"$ref": "#/$defs/count"}, "all": {"allOf": [{"type": "boolean"}]}},
    "$defs": {"count": {"type": "integer"}}}}},
  {"type": "function", "function": {"name": "ping"}}])";

// What the deltas come to: {"reasoning", "content", "calls": [[name, arguments], ...]}.
struct Outcome {
  std::string reasoning, content;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Outcome&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  out << "reasoning [" << o.reasoning << "] content [" << o.content << "]";
  for (const auto& [name, arguments] : o.calls) out << " " << name << "(" << arguments << ")";
  return out;
}

struct Case {
  std::string name, model, text;
  bool in_reasoning = false;
  Outcome expected;
  std::string tools = kTools;
};

// Each model's form of one call with one parameter.
std::string M2(const std::string& name, const std::string& value);
std::string Mimo(const std::string& name, const std::string& value);

std::vector<Case> Cases();

}  // namespace minimo
