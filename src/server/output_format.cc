#include "server/output_format.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/json_parse.h"

namespace minimo::server {

using Json = nlohmann::ordered_json;

std::optional<ApiError> ReadOutputFormat(const Json& body, OutputFormat* format) {
  const auto value = body.find("response_format");
  if (value == body.end() || value->is_null()) return std::nullopt;
  const auto type = value->find("type");
  if (type == value->end() || !type->is_string()) {
    return ApiError{.param = "response_format.type",
                    .message = "response_format.type: expected \"text\", \"json_object\" or \"json_schema\"."};
  }
  if (*type == "text") return std::nullopt;
  if (*type == "json_object") {
    format->kind = OutputFormat::kJsonObject;
    return std::nullopt;
  }
  if (*type != "json_schema") {
    return ApiError{.param = "response_format.type",
                    .message = fmt::format("response_format.type: found {}, expected \"text\", \"json_object\" or "
                                           "\"json_schema\".",
                                           Dump(*type).substr(0, 60))};
  }
  const auto holder = value->find("json_schema");
  const bool held = holder != value->end() && holder->is_object();
  // llama.cpp's clients put the schema beside the type.
  const Json* schema = nullptr;
  if (held && holder->contains("schema")) schema = &(*holder)["schema"];
  if (!held && value->contains("schema")) schema = &(*value)["schema"];
  if (schema == nullptr || !(schema->is_object() || schema->is_boolean())) {
    return ApiError{.param = "response_format.json_schema.schema",
                    .message = "response_format.json_schema.schema: expected a JSON schema object."};
  }
  format->kind = OutputFormat::kJsonSchema;
  format->schema = std::make_shared<const Json>(*schema);
  return std::nullopt;
}

}  // namespace minimo::server
