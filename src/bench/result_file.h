// Where results go.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "minimo/result.h"

namespace minimo::bench {

// Writes one JSON object and a newline; makes the folder if it is not there. `append`: after what the file holds.
Status WriteResult(const std::string& path, const nlohmann::json& json, bool append = false);

}  // namespace minimo::bench
