// Makes one what clients vary in, so that a template meets one form (minimo/chat.h).
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "minimo/result.h"

namespace minimo {

// What the template at hand does by itself.
struct TemplateTraits {
  bool loops_over_content = false;  // takes a list of parts
  bool splits_reasoning = false;    // splits <think> out of content
  bool reasoning_on_lines = false;  // writes reasoning between newlines: "<think>\n" ... "\n</think>"
  bool knows_developer = false;     // has a "developer" role; else it is "system"
};

// Values nested too deep for what follows; before anything copies them.
Status CheckDepth(const nlohmann::ordered_json& json, const char* what);

Result<nlohmann::ordered_json> NormalizeMessages(const nlohmann::ordered_json& messages, const TemplateTraits& traits);
// Null where there are no tools; a bare function is wrapped as {"type": "function", "function": ...}.
Result<nlohmann::ordered_json> NormalizeTools(const nlohmann::ordered_json& tools);

}  // namespace minimo
