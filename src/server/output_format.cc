#include "server/output_format.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/json_parse.h"

namespace minimo::server {

using Json = nlohmann::ordered_json;

namespace {

bool AreStrings(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
}

std::optional<ApiError> ReadStructuredOutputs(const Json& outputs, OutputFormat* format) {
  constexpr char kOne[] = "one of \"json\", \"json_object\", \"regex\" and \"choice\"";
  const auto wrong = [](const std::string& place, const std::string& expected) {
    return ApiError{.param = place, .message = fmt::format("{}: expected {}.", place, expected)};
  };
  if (!outputs.is_object()) return wrong("structured_outputs", "an object with " + std::string(kOne));
  for (const auto& [key, value] : outputs.items()) {
    if (value.is_null() || value == false) continue;
    const std::string place = "structured_outputs." + key;
    if (format->kind != OutputFormat::kText) return wrong(place, "nothing beside another restriction");
    if (key == "json") {
      if (!value.is_object() && !value.is_boolean()) return wrong(place, "a JSON schema object");
      format->kind = OutputFormat::kJsonSchema;
    } else if (key == "json_object") {
      if (!value.is_boolean()) return wrong(place, "a boolean");
      format->kind = OutputFormat::kJsonObject;
    } else if (key == "regex") {
      if (!value.is_string()) return wrong(place, "a regular expression, as a string");
      format->kind = OutputFormat::kRegex;
    } else if (key == "choice") {
      if (!AreStrings(value)) return wrong(place, "an array of strings, at least one");
      format->kind = OutputFormat::kChoice;
    } else {
      return wrong(place, kOne);
    }
    format->wanted = std::make_shared<const Json>(value);
  }
  if (format->kind == OutputFormat::kText) return wrong("structured_outputs", "an object with " + std::string(kOne));
  return std::nullopt;
}

std::optional<ApiError> ReadResponseFormat(const Json& body, OutputFormat* format) {
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
  format->wanted = std::make_shared<const Json>(*schema);
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> ReadOutputFormat(const Json& body, OutputFormat* format) {
  if (auto error = ReadResponseFormat(body, format)) return error;
  const auto outputs = body.find("structured_outputs");
  if (outputs == body.end() || outputs->is_null()) return std::nullopt;
  return ReadStructuredOutputs(*outputs, format);
}

}  // namespace minimo::server
