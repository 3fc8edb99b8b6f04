// How an answer is restricted, beyond its tools: `response_format` of the OpenAI endpoints.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "server/api_error.h"

namespace minimo::server {

struct OutputFormat {
  enum Kind { kText, kJsonObject, kJsonSchema } kind = kText;
  std::shared_ptr<const nlohmann::ordered_json> schema;  // kJsonSchema
};

// {"type": "text" | "json_object"} or {"type": "json_schema", "json_schema": {"name", "schema", "strict"}}.
std::optional<ApiError> ReadOutputFormat(const nlohmann::ordered_json& body, OutputFormat* format);

}  // namespace minimo::server
