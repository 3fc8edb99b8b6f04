// Reads the JSON of a request body: depth-limited, strict UTF-8, errors in words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo::server {

inline constexpr int kMaxJsonDepth = 100;  // what recursive users of a value (templates, schemas) can bear

// A JSON object. Refuses malformed text, invalid UTF-8, numbers beyond double, nesting beyond kMaxJsonDepth.
Result<nlohmann::ordered_json> ParseJsonObject(std::string_view text);

// "an integer", "a string" ...: for messages.
const char* KindOf(const nlohmann::ordered_json& value);

// The value as JSON text; invalid UTF-8 cannot throw here.
std::string Dump(const nlohmann::ordered_json& value);

}  // namespace minimo::server
