// Parsing JSON that a request brings: bounded in size and depth, members in their order.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "minimo/result.h"

namespace minimo::grammar {

using Json = nlohmann::ordered_json;

Result<Json> ParseBoundedJson(std::string_view text);

}  // namespace minimo::grammar
