#include "checkpoint/config_fields.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"

namespace minimo {

struct ConfigFields::Json {
  nlohmann::json value;
};

ConfigFields::ConfigFields() = default;
ConfigFields::~ConfigFields() = default;
ConfigFields::ConfigFields(ConfigFields&&) noexcept = default;

Result<ConfigFields> ConfigFields::Parse(const std::string& text, const std::string& where) {
  ConfigFields fields;
  fields.where_ = where;
  fields.json_ = std::make_unique<Json>();
  try {
    fields.json_->value = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& fault) {
    return Errorf("{}: not valid JSON ({})", where, fault.what());
  }
  if (!fields.json_->value.is_object()) return Errorf("{}: not a JSON object", where);
  return fields;
}

bool ConfigFields::Has(const std::string& key) const {
  const auto found = json_->value.find(key);
  return found != json_->value.end() && !found->is_null();
}

const ConfigFields::Json* ConfigFields::Find(const std::string& key, bool required) {
  read_.insert(key);
  if (Has(key)) return json_.get();
  if (required) missing_.push_back(Name(key));
  return nullptr;
}

int64_t ConfigFields::Int(const std::string& key, int64_t low, int64_t high) {
  const Json* json = Find(key, true);
  if (!json) return low;
  const auto& value = json->value[key];
  if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    Fault(fmt::format("{} is {}, expected an integer in [{}, {}]", Name(key), value.dump(), low, high));
    return low;
  }
  return value.get<int64_t>();
}

double ConfigFields::Number(const std::string& key, double low, double high) {
  const Json* json = Find(key, true);
  if (!json) return low;
  const auto& value = json->value[key];
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
    Fault(fmt::format("{} is {}, expected a number in [{}, {}]", Name(key), value.dump(), low, high));
    return low;
  }
  return value.get<double>();
}

std::vector<int64_t> ConfigFields::IntList(const std::string& key, size_t size, int64_t low, int64_t high) {
  std::vector<int64_t> list(size, low);
  const Json* json = Find(key, true);
  if (!json) return list;
  const auto& value = json->value[key];
  if (!value.is_array() || value.size() != size) {
    Fault(fmt::format("{} has {} entries, expected a list of {}", Name(key), value.size(), size));
    return list;
  }
  for (size_t i = 0; i < size; ++i) {
    if (!value[i].is_number_integer() || value[i].get<int64_t>() < low || value[i].get<int64_t>() > high) {
      Fault(fmt::format("{}[{}] is {}, expected an integer in [{}, {}]", Name(key), i, value[i].dump(), low, high));
      return list;
    }
    list[i] = value[i].get<int64_t>();
  }
  return list;
}

std::string ConfigFields::String(const std::string& key) {
  if (!Find(key, true)) return "";
  return StringOr(key, "");
}

int64_t ConfigFields::IntOr(const std::string& key, int64_t fallback, int64_t low, int64_t high) {
  return Find(key, false) ? Int(key, low, high) : fallback;
}

double ConfigFields::NumberOr(const std::string& key, double fallback, double low, double high) {
  return Find(key, false) ? Number(key, low, high) : fallback;
}

bool ConfigFields::BoolOr(const std::string& key, bool fallback) {
  const Json* json = Find(key, false);
  if (!json) return fallback;
  const auto& value = json->value[key];
  if (!value.is_boolean()) {
    Fault(fmt::format("{} is {}, expected true or false", Name(key), value.dump()));
    return fallback;
  }
  return value.get<bool>();
}

std::string ConfigFields::StringOr(const std::string& key, const std::string& fallback) {
  const Json* json = Find(key, false);
  if (!json) return fallback;
  const auto& value = json->value[key];
  if (!value.is_string()) {
    Fault(fmt::format("{} is {}, expected a string", Name(key), value.dump()));
    return fallback;
  }
  return value.get<std::string>();
}

std::vector<int64_t> ConfigFields::IntOrListOr(const std::string& key, std::vector<int64_t> fallback) {
  const Json* json = Find(key, false);
  if (!json) return fallback;
  const auto& value = json->value[key];
  if (value.is_number_integer()) return {value.get<int64_t>()};
  std::vector<int64_t> list;
  if (value.is_array()) {
    for (const auto& entry : value) {
      if (entry.is_number_integer()) list.push_back(entry.get<int64_t>());
    }
    if (list.size() == value.size()) return list;
  }
  Fault(fmt::format("{} is {}, expected an integer or a list of integers", Name(key), value.dump()));
  return fallback;
}

std::vector<std::string> ConfigFields::StringListOr(const std::string& key) {
  const Json* json = Find(key, false);
  std::vector<std::string> list;
  if (!json) return list;
  const auto& value = json->value[key];
  for (const auto& entry : value.is_array() ? value : nlohmann::json::array()) {
    if (entry.is_string()) list.push_back(entry.get<std::string>());
  }
  if (!value.is_array() || list.size() != value.size()) {
    Fault(fmt::format("{} is not a list of strings", Name(key)));
  }
  return list;
}

std::unique_ptr<ConfigFields> ConfigFields::Object(const std::string& key) {
  const Json* json = Find(key, false);
  if (!json) return nullptr;
  if (!json->value[key].is_object()) {
    Fault(fmt::format("{} is {}, expected an object", Name(key), json->value[key].dump()));
    return nullptr;
  }
  std::unique_ptr<ConfigFields> inner(new ConfigFields());
  inner->json_ = std::make_unique<Json>(Json{json->value[key]});
  inner->where_ = where_;
  inner->prefix_ = Name(key) + ".";
  return inner;
}

void ConfigFields::Merge(const ConfigFields& object) {
  missing_.insert(missing_.end(), object.missing_.begin(), object.missing_.end());
  faults_.insert(faults_.end(), object.faults_.begin(), object.faults_.end());
  for (const auto& [key, value] : object.json_->value.items()) {
    if (!object.read_.contains(key)) unread_.push_back(object.Name(key));
  }
}

void ConfigFields::Only(const std::string& key, std::string_view value_json) {
  const Json* json = Find(key, false);
  if (!json) return;
  const auto& value = json->value[key];
  if (value != nlohmann::json::parse(value_json)) {
    Fault(fmt::format("{} is {}, only {} is implemented", Name(key), value.dump(), value_json));
  }
}

void ConfigFields::Ignore(std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) read_.insert(std::string(key));
}

void ConfigFields::IgnoreAll() {
  for (const auto& [key, value] : json_->value.items()) read_.insert(key);
}

void ConfigFields::Fault(std::string message) { faults_.push_back(std::move(message)); }

Status ConfigFields::Finish() {
  std::string message;
  const auto append = [&](const std::string& part) { message += (message.empty() ? "" : "; ") + part; };
  if (!missing_.empty()) append(fmt::format("missing: {}", fmt::join(missing_, ", ")));
  for (const std::string& fault : faults_) append(fault);
  if (!message.empty()) return Errorf("{}: {}", where_, message);
  std::vector<std::string> unread = unread_;
  for (const auto& [key, value] : json_->value.items()) {
    if (!read_.contains(key)) unread.push_back(key);
  }
  if (!unread.empty()) {
    LogWarn("{}: not read by minimo, results may differ from the reference: {}", where_, fmt::join(unread, ", "));
  }
  return {};
}

}  // namespace minimo
