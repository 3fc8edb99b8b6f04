#include "sampling/generation_config.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"

namespace minimo {
namespace {

using nlohmann::json;

constexpr uintmax_t kMaxConfigBytes = 16u << 20;

// The object of a JSON file; an empty object if there is no such file.
Result<json> ReadObject(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return json::object();
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return Errorf("{}: {}", path, error.message());
  if (size > kMaxConfigBytes) return Errorf("{}: {} bytes is too large for a configuration", path, size);
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false, /*ignore_comments=*/false);
  if (value.is_discarded()) return Errorf("{}: not valid JSON", path);
  if (!value.is_object()) return Errorf("{}: expected a JSON object, found {}", path, value.type_name());
  return value;
}

// Leaves *out alone where the key is absent or null.
Status ReadNumber(const json& object, const std::string& path, const char* key, double* out) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return {};
  if (!it->is_number()) return Errorf("{}: {} must be a number, found {}", path, key, it->type_name());
  *out = it->get<double>();
  return {};
}

Status ReadCount(const json& object, const std::string& path, const char* key, int32_t* out) {
  double value = *out;
  MINIMO_TRY(ReadNumber(object, path, key, &value));
  if (!(value >= -1 && value <= std::numeric_limits<int32_t>::max()) ||
      value != static_cast<double>(static_cast<int32_t>(value))) {
    return Errorf("{}: {} must be a 32-bit integer of at least -1, found {}", path, key, value);
  }
  *out = static_cast<int32_t>(value);
  return {};
}

// An id or a list of ids; empty where the key is absent or null.
Result<std::vector<int32_t>> ReadIds(const json& object, const std::string& path, const char* key) {
  std::vector<int32_t> ids;
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return ids;
  const bool is_list = it->is_array();
  for (size_t i = 0; i < (is_list ? it->size() : 1); ++i) {
    const json& id = is_list ? (*it)[i] : *it;
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return Errorf("{}: {} must be a token id or a list of token ids, found {}", path, key,
                    id.is_number() ? id.dump() : id.type_name());
    }
    ids.push_back(id.get<int32_t>());
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

Result<GenerationConfig> LoadGenerationConfig(const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  MINIMO_ASSIGN(const json object, ReadObject(path));
  GenerationConfig config;
  SamplingParams& params = config.params;
  MINIMO_TRY(ReadNumber(object, path, "temperature", &params.temperature));
  MINIMO_TRY(ReadNumber(object, path, "top_p", &params.top_p));
  MINIMO_TRY(ReadNumber(object, path, "min_p", &params.min_p));
  MINIMO_TRY(ReadNumber(object, path, "repetition_penalty", &params.repetition_penalty));
  MINIMO_TRY(ReadCount(object, path, "top_k", &params.top_k));
  MINIMO_TRY(ReadCount(object, path, "max_new_tokens", &params.max_tokens));
  if (const auto it = object.find("do_sample"); it != object.end() && !it->is_null()) {
    if (!it->is_boolean()) return Errorf("{}: do_sample must be true or false, found {}", path, it->type_name());
    if (!it->get<bool>()) params.temperature = 0;
  }
  const Status valid = Validate(params, std::numeric_limits<int32_t>::max());
  if (!valid.ok()) return Errorf("{}: {}", path, valid.error().message);

  MINIMO_ASSIGN(config.eos_ids, ReadIds(object, path, "eos_token_id"));
  if (config.eos_ids.empty()) {
    const std::string model_path = folder + "/config.json";
    MINIMO_ASSIGN(const json model, ReadObject(model_path));
    MINIMO_ASSIGN(config.eos_ids, ReadIds(model, model_path, "eos_token_id"));
  }
  return config;
}

}  // namespace minimo
