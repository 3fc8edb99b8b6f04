#include "server/fields.h"

#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/ids.h"
#include "server/json_parse.h"

namespace minimo::server {
namespace {

using Json = nlohmann::ordered_json;

enum class Type { kBool, kInteger, kNumber, kString, kStrings, kIntegers, kObject, kArray, kTokenBias, kAny };

constexpr double kInt32Max = std::numeric_limits<int32_t>::max();
constexpr double kInt64Max = 9.0e18;
constexpr int kMaxStops = 64;
constexpr int kMaxListItems = 1 << 16;

struct Field {
  std::string_view name;
  unsigned where;
  Type type;
  double low;
  double high;
  void (*store)(const Json& value, Fields& out);  // the value has the type and lies in the range
};

constexpr unsigned kOpenAi = kChat | kCompletions;
constexpr unsigned kAll = kChat | kCompletions | kMessages;

void Ignore(const Json&, Fields&) {}

void StoreStops(const Json& value, Fields& out) {
  out.params.stop.clear();
  if (value.is_string()) {
    out.params.stop.push_back(value.get<std::string>());
  } else {
    for (const Json& item : value) out.params.stop.push_back(item.get<std::string>());
  }
  std::erase(out.params.stop, "");
}

void StoreIds(const Json& value, std::vector<int32_t>& ids) {
  ids.clear();
  for (const Json& item : value) ids.push_back(item.get<int32_t>());
}

void StoreStreamOptions(const Json& value, Fields& out) {
  out.include_usage = value.value("include_usage", false);
  out.continuous_usage = value.value("continuous_usage_stats", false);
}

void StoreBias(const Json& value, Fields& out) {
  for (const auto& [key, bias] : value.items()) {
    int32_t token = 0;
    std::from_chars(key.data(), key.data() + key.size(), token);
    out.params.logit_bias.emplace_back(token, bias.get<float>());
  }
}

// Names and meanings: OpenAI's reference, vLLM's extra parameters, Anthropic's Messages.
const Field kFields[] = {
    {"model", kAll | kCountTokens, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.model = v; }},
    {"max_tokens", kAll, Type::kInteger, 0, kInt64Max,
     [](const Json& v, Fields& f) {
       f.params.max_tokens = static_cast<int32_t>(std::min<int64_t>(v.get<int64_t>(), INT32_MAX));
     }},
    {"max_completion_tokens", kChat, Type::kInteger, 0, kInt64Max,
     [](const Json& v, Fields& f) {
       f.params.max_tokens = static_cast<int32_t>(std::min<int64_t>(v.get<int64_t>(), INT32_MAX));
     }},
    {"min_tokens", kOpenAi, Type::kInteger, 0, kInt32Max, [](const Json& v, Fields& f) { f.params.min_tokens = v; }},
    {"temperature", kAll, Type::kNumber, 0, 100, [](const Json& v, Fields& f) { f.params.temperature = v; }},
    {"top_p", kAll, Type::kNumber, 0, 1, [](const Json& v, Fields& f) { f.params.top_p = v; }},
    // -1 is vLLM's "all".
    {"top_k", kAll, Type::kInteger, -1, kInt32Max,
     [](const Json& v, Fields& f) { f.params.top_k = std::max(0, v.get<int>()); }},
    {"min_p", kOpenAi, Type::kNumber, 0, 1, [](const Json& v, Fields& f) { f.params.min_p = v; }},
    {"repetition_penalty", kOpenAi, Type::kNumber, 0.01, 100,
     [](const Json& v, Fields& f) { f.params.repetition_penalty = v; }},
    {"presence_penalty", kOpenAi, Type::kNumber, -2, 2,
     [](const Json& v, Fields& f) { f.params.presence_penalty = v; }},
    {"frequency_penalty", kOpenAi, Type::kNumber, -2, 2,
     [](const Json& v, Fields& f) { f.params.frequency_penalty = v; }},
    {"seed", kOpenAi, Type::kInteger, -kInt64Max, kInt64Max,
     [](const Json& v, Fields& f) { f.params.seed = static_cast<uint64_t>(v.get<int64_t>()); }},
    {"stop", kOpenAi, Type::kStrings, 0, kMaxStops, StoreStops},
    {"stop_sequences", kMessages, Type::kStrings, 0, kMaxStops, StoreStops},
    {"include_stop_str_in_output", kOpenAi, Type::kBool, 0, 0,
     [](const Json& v, Fields& f) { f.params.include_stop_str_in_output = v; }},
    {"stop_token_ids", kOpenAi, Type::kIntegers, 0, kInt32Max,
     [](const Json& v, Fields& f) { StoreIds(v, f.params.stop_token_ids); }},
    {"allowed_token_ids", kOpenAi, Type::kIntegers, 0, kInt32Max,
     [](const Json& v, Fields& f) { StoreIds(v, f.params.allowed_token_ids); }},
    {"ignore_eos", kOpenAi, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.params.ignore_eos = v; }},
    {"skip_special_tokens", kOpenAi, Type::kBool, 0, 0,
     [](const Json& v, Fields& f) { f.params.skip_special_tokens = v; }},
    {"spaces_between_special_tokens", kOpenAi, Type::kBool, 0, 0, Ignore},
    {"logit_bias", kOpenAi, Type::kTokenBias, -100, 100, StoreBias},
    {"prompt_logprobs", kOpenAi, Type::kInteger, 0, 20,
     [](const Json& v, Fields& f) {
       f.params.prompt_logprobs = v;
       f.prompt_logprobs_given = true;
     }},
    {"n", kOpenAi, Type::kInteger, 1, 128, [](const Json& v, Fields& f) { f.n = v; }},
    {"best_of", kCompletions, Type::kInteger, 1, 1, Ignore},
    {"stream", kAll, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.stream = v; }},
    {"stream_options", kOpenAi, Type::kObject, 0, 0, StoreStreamOptions},
    {"logprobs", kChat, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.logprobs = v; }},
    {"top_logprobs", kChat, Type::kInteger, 0, 20, [](const Json& v, Fields& f) { f.top_logprobs = v; }},
    {"logprobs", kCompletions, Type::kInteger, 0, 20, [](const Json& v, Fields& f) { f.completion_logprobs = v; }},
    {"echo", kCompletions, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.echo = v; }},
    {"suffix", kCompletions, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.suffix = v; }},
    {"add_special_tokens", kOpenAi, Type::kBool, 0, 0,
     [](const Json& v, Fields& f) { f.add_special_tokens = v; }},
    {"return_token_ids", kOpenAi, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.return_token_ids = v; }},
    {"priority", kAll, Type::kInteger, -kInt32Max, kInt32Max, [](const Json& v, Fields& f) { f.priority = v; }},
    {"user", kOpenAi, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.user = v; }},
    {"request_id", kOpenAi, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.request_id = v; }},
    {"cache_salt", kAll, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.cache_salt = v; }},
    {"prompt", kCompletions, Type::kAny, 0, 0, Ignore},
    {"messages", kChat | kMessages | kCountTokens, Type::kArray, 0, 0, Ignore},
    {"tools", kChat | kMessages | kCountTokens, Type::kArray, 0, 0, Ignore},
    {"tool_choice", kChat | kMessages | kCountTokens, Type::kAny, 0, 0, Ignore},
    {"parallel_tool_calls", kChat, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.parallel_tool_calls = v; }},
    {"response_format", kOpenAi, Type::kObject, 0, 0, Ignore},
    {"structured_outputs", kOpenAi, Type::kObject, 0, 0, Ignore},
    {"chat_template_kwargs", kChat | kMessages | kCountTokens, Type::kObject, 0, 0, Ignore},
    {"enable_thinking", kChat, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.enable_thinking = v.get<bool>(); }},
    {"reasoning_effort", kChat, Type::kString, 0, 0, [](const Json& v, Fields& f) { f.reasoning_effort = v; }},
    {"include_reasoning", kChat, Type::kBool, 0, 0, [](const Json& v, Fields& f) { f.include_reasoning = v; }},
    {"add_generation_prompt", kChat, Type::kBool, 0, 0,
     [](const Json& v, Fields& f) { f.add_generation_prompt = v; }},
    {"continue_final_message", kChat, Type::kBool, 0, 0,
     [](const Json& v, Fields& f) { f.continue_final_message = v; }},
    {"system", kMessages | kCountTokens, Type::kAny, 0, 0, Ignore},
    {"thinking", kMessages | kCountTokens, Type::kObject, 0, 0, Ignore},
    // Known to clients, of no effect here.
    {"metadata", kAll | kCountTokens, Type::kObject, 0, 0, Ignore},
    {"store", kChat, Type::kBool, 0, 0, Ignore},
    {"service_tier", kAll, Type::kString, 0, 0, Ignore},
    {"safety_identifier", kChat, Type::kString, 0, 0, Ignore},
    {"prompt_cache_key", kChat, Type::kString, 0, 0, Ignore},
};

std::string Words(const Field& field) {
  const auto range = [&](std::string_view what) {
    if (field.high >= kInt32Max && field.low <= -kInt32Max) return std::string(what);
    if (field.high >= kInt32Max) return fmt::format("{} of at least {}", what, field.low);
    if (field.low == field.high) return fmt::format("{}, only {}", what, field.low);
    return fmt::format("{} from {} to {}", what, field.low, field.high);
  };
  switch (field.type) {
    case Type::kBool: return "boolean";
    case Type::kInteger: return range("integer");
    case Type::kNumber: return range("number");
    case Type::kString: return "string";
    case Type::kStrings: return fmt::format("string or array of at most {} strings", field.high);
    case Type::kIntegers: return "array of token ids";
    case Type::kObject: return "object";
    case Type::kArray: return "array";
    case Type::kTokenBias: return fmt::format("object of token ids to numbers from {} to {}", field.low, field.high);
    case Type::kAny: return "string, array or object";
  }
  return "";
}

bool InRange(const Json& value, const Field& field) {
  const double number = value.get<double>();
  return number >= field.low && number <= field.high;
}

bool IsTokenId(std::string_view text) {
  int32_t token = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), token);
  return error == std::errc() && end == text.data() + text.size() && token >= 0;
}

bool Fits(const Json& value, const Field& field) {
  switch (field.type) {
    case Type::kBool: return value.is_boolean();
    case Type::kInteger:
      // 3.0 is an integer in JSON Schema's sense, but every client writes 3.
      return value.is_number_integer() && InRange(value, field);
    case Type::kNumber: return value.is_number() && InRange(value, field);
    case Type::kString: return value.is_string();
    case Type::kObject: return value.is_object();
    case Type::kArray: return value.is_array();
    case Type::kAny: return value.is_string() || value.is_array() || value.is_object();
    case Type::kStrings:
      if (value.is_string()) return true;
      if (!value.is_array() || value.size() > static_cast<size_t>(field.high)) return false;
      for (const Json& item : value) {
        if (!item.is_string()) return false;
      }
      return true;
    case Type::kIntegers:
      if (!value.is_array() || value.size() > kMaxListItems) return false;
      for (const Json& item : value) {
        if (!item.is_number_integer() || !InRange(item, field)) return false;
      }
      return true;
    case Type::kTokenBias:
      if (!value.is_object() || value.size() > kMaxListItems) return false;
      for (const auto& [key, bias] : value.items()) {
        if (!IsTokenId(key) || !bias.is_number() || !InRange(bias, field)) return false;
      }
      return true;
  }
  return false;
}

std::string Shown(const Json& value) {
  std::string text = Dump(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

const Field* FindField(std::string_view name, Taker taker) {
  for (const Field& field : kFields) {
    if (field.name == name && (field.where & taker) != 0) return &field;
  }
  return nullptr;
}

std::optional<ApiError> CheckStreamOptions(const Json& value) {
  for (const auto& [name, option] : value.items()) {
    if ((name == "include_usage" || name == "continuous_usage_stats") && !option.is_boolean()) {
      return ApiError{.param = "stream_options." + name,
                      .message = fmt::format("stream_options.{}: found {}, expected a boolean.", name,
                                             KindOf(option))};
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> ReadFields(const Json& body, Taker taker, Fields* fields) {
  for (const auto& [name, value] : body.items()) {
    const Field* field = FindField(name, taker);
    if (field == nullptr) {
      fields->unknown.push_back(name);
      continue;
    }
    if (value.is_null()) continue;  // as if it were not there
    if (!Fits(value, *field)) {
      return ApiError{.param = name,
                      .message = fmt::format("{}: found {}, expected {}.", name, Shown(value), Words(*field))};
    }
    if (name == "stream_options") {
      if (auto error = CheckStreamOptions(value)) return error;
    }
    field->store(value, *fields);
  }
  return std::nullopt;
}

std::vector<FieldRow> FieldTable() {
  std::vector<FieldRow> rows;
  for (const Field& field : kFields) rows.push_back({field.name, Words(field), field.where});
  return rows;
}

void AddWarnings(const Fields& fields, HeaderList* headers) {
  if (fields.unknown.empty()) return;
  std::string names;
  for (const std::string& name : fields.unknown) names += (names.empty() ? "" : ", ") + name;
  std::string text = SafeHeaderValue("unknown fields ignored: " + names);
  for (char& c : text) {
    if (c == '"' || c == '\\') c = '\'';
  }
  headers->emplace_back("Warning", "299 minimo \"" + text + "\"");
}

}  // namespace minimo::server
