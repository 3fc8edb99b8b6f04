// The fields of a generation request, in one table: name, type, range, where it is taken. Wrong types and ranges are
// refused by name; unknown fields are noted for a warning header.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/request.h"
#include "server/api_error.h"

namespace minimo::server {

// Who takes a field, as bits.
enum Taker : unsigned { kChat = 1, kCompletions = 2, kMessages = 4, kCountTokens = 8 };

// What the simple fields say. Structured ones (messages, tools, prompt ...) are left to their readers.
struct Fields {
  SamplingParams params;  // starts as the model's defaults
  std::string model;
  int n = 1;
  int priority = 0;
  std::string user;
  std::string request_id;
  std::string cache_salt;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool return_token_ids = false;
  bool prompt_logprobs_given = false;

  bool logprobs = false;  // chat
  int top_logprobs = 0;
  bool parallel_tool_calls = true;
  bool include_reasoning = true;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  std::optional<bool> enable_thinking;
  std::string reasoning_effort;

  int completion_logprobs = -1;  // completions
  bool echo = false;
  bool add_special_tokens = false;
  std::string suffix;

  std::vector<std::string> unknown;  // names of fields that nobody reads
};

// Reads every simple field of `body`. `fields` holds the defaults on entry. The error names the field.
std::optional<ApiError> ReadFields(const nlohmann::ordered_json& body, Taker taker, Fields* fields);

// The table in words, for the documentation and its test: one row a field.
struct FieldRow {
  std::string_view name;
  std::string type;  // "integer from 1 to 128"
  unsigned where;
};
std::vector<FieldRow> FieldTable();

// Adds `Warning: 299 minimo "..."` for unknown fields; nothing if there are none.
void AddWarnings(const Fields& fields, HeaderList* headers);

}  // namespace minimo::server
