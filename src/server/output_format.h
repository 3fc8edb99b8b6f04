// How an answer is restricted, beyond its tools: `response_format` of the OpenAI endpoints, or vLLM's
// `structured_outputs`.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "server/api_error.h"

namespace minimo::server {

struct OutputFormat {
  enum Kind { kText, kJsonObject, kJsonSchema, kRegex, kChoice } kind = kText;
  std::shared_ptr<const nlohmann::ordered_json> wanted;  // the schema, the expression or the strings
};

// response_format: {"type": "text" | "json_object"} or
// {"type": "json_schema", "json_schema": {"name", "schema", "strict"}}.
// structured_outputs: one of {"json": schema}, {"json_object": true}, {"regex": "..."} and {"choice": ["...", ...]}.
std::optional<ApiError> ReadOutputFormat(const nlohmann::ordered_json& body, OutputFormat* format);

}  // namespace minimo::server
