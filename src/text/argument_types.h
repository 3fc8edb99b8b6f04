// The types of a tool's arguments by its JSON schema, and the way from a model's text to a JSON value of such a type.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo {

// The JSON types that a schema allows; none known: anything.
struct ArgumentTypes {
  bool string = false, integer = false, number = false, boolean = false, null = false, object = false, array = false;
  bool Unknown() const { return !(string || integer || number || boolean || null || object || array); }
  // Text whatever it looks like, and so to be passed on while it is written. With `null` allowed, or the type
  // unknown, the one text "null" is null.
  bool OnlyText() const { return !(integer || number || boolean || object || array); }
  bool AllowsNull() const { return null || Unknown(); }
};

// By `type` (one or a list), `enum`, `const`, anyOf, oneOf, allOf, `nullable`, and "$ref" within `root`.
ArgumentTypes TypesOfSchema(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

// The tools of a request: function name -> parameter name -> types.
class ToolTypes {
 public:
  static Result<ToolTypes> Parse(std::string_view tools_json);  // empty or null: no tools
  // Unknown types where the tool or the parameter is unknown.
  ArgumentTypes Find(std::string_view function, std::string_view parameter) const;

 private:
  std::map<std::string, std::map<std::string, ArgumentTypes, std::less<>>, std::less<>> types_;
};

// The JSON text of a value: null, integer, number, boolean, object or array where the text is one and the type
// allows it, in this order; else a string of the text as it is.
std::string ToJsonArgument(std::string_view text, const ArgumentTypes& types);

// Escaped for the inside of a JSON string; bytes that are not UTF-8 become U+FFFD.
void AppendJsonEscaped(std::string_view text, std::string* out);

}  // namespace minimo
