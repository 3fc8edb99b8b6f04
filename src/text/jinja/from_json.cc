#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/jinja/template.h"

namespace minimo::jinja {
namespace {

Result<Value> Convert(const nlohmann::ordered_json& json, int depth) {
  if (depth > kMaxNesting) return Errorf("the input is nested more than {} levels deep", kMaxNesting);
  switch (json.type()) {
    case nlohmann::json::value_t::boolean: return Value::Bool(json.get<bool>());
    case nlohmann::json::value_t::number_integer: return Value::Int(json.get<int64_t>());
    case nlohmann::json::value_t::number_unsigned: {
      const uint64_t number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Value::Float(static_cast<double>(number));
      }
      return Value::Int(static_cast<int64_t>(number));
    }
    case nlohmann::json::value_t::number_float: return Value::Float(json.get<double>());
    case nlohmann::json::value_t::string: return Value::String(json.get<std::string>());
    case nlohmann::json::value_t::array: {
      Values items;
      items.reserve(json.size());
      for (const auto& item : json) {
        MINIMO_ASSIGN(Value value, Convert(item, depth + 1));
        items.push_back(std::move(value));
      }
      return MakeList(std::move(items));
    }
    case nlohmann::json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) {
        MINIMO_ASSIGN(Value value, Convert(item, depth + 1));
        dict.Set(Value::String(key), std::move(value));
      }
      return MakeDict(std::move(dict));
    }
    default: return Value();
  }
}

}  // namespace

Result<Value> FromJson(const nlohmann::ordered_json& json) { return Convert(json, 0); }

}  // namespace minimo::jinja
