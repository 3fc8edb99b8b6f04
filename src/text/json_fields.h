// Fields of a JSON object, with errors in words.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "minimo/result.h"

namespace minimo {

// The field, or null (the JSON value) where it is absent or `json` is no object.
inline const nlohmann::json& FieldOrNull(const nlohmann::json& json, const char* key) {
  static const nlohmann::json kNull;
  if (!json.is_object()) return kNull;
  const auto it = json.find(key);
  return it == json.end() ? kNull : *it;
}

// `owner` names the object in the message.
inline Result<bool> BoolField(const nlohmann::json& json, const char* key, std::optional<bool> otherwise,
                              std::string_view owner) {
  const nlohmann::json& field = FieldOrNull(json, key);
  if (field.is_boolean()) return field.get<bool>();
  if (field.is_null() && otherwise.has_value()) return *otherwise;
  return Errorf("{} has no \"{}\" that is true or false", owner, key);
}

inline Result<std::string> StringField(const nlohmann::json& json, const char* key, std::string_view owner) {
  const nlohmann::json& field = FieldOrNull(json, key);
  if (field.is_string()) return field.get<std::string>();
  return Errorf("{} has no \"{}\" that is a string", owner, key);
}

}  // namespace minimo
