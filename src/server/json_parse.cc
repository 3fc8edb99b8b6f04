#include "server/json_parse.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json_depth.h"
#include "text/utf8.h"

namespace minimo::server {

Result<nlohmann::ordered_json> ParseJsonObject(std::string_view text) {
  if (text.empty()) return Errorf("The body is empty; expected a JSON object.");
  if (!IsValidUtf8(text)) return Errorf("The body is not valid UTF-8.");
  if (const int depth = JsonDepth(text); depth > kMaxJsonDepth) {
    return Errorf("The body nests {} levels deep; at most {} are read.", depth, kMaxJsonDepth);
  }
  try {
    nlohmann::ordered_json value = nlohmann::ordered_json::parse(text.begin(), text.end());
    if (!value.is_object()) return Errorf("The body is {}; expected a JSON object.", KindOf(value));
    return value;
  } catch (const std::exception& e) {
    const std::string_view what = e.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    const size_t bracket = what.find("] ");
    return Errorf("The body is not valid JSON: {}.", bracket == what.npos ? what : what.substr(bracket + 2));
  }
}

const char* KindOf(const nlohmann::ordered_json& value) {
  switch (value.type()) {
    case nlohmann::ordered_json::value_t::null: return "null";
    case nlohmann::ordered_json::value_t::boolean: return "a boolean";
    case nlohmann::ordered_json::value_t::string: return "a string";
    case nlohmann::ordered_json::value_t::array: return "an array";
    case nlohmann::ordered_json::value_t::object: return "an object";
    case nlohmann::ordered_json::value_t::number_float: return "a number with a fraction";
    default: return "an integer";
  }
}

std::string Dump(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace minimo::server
