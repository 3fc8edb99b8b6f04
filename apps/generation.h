// What `run`, `chat` and `eval` share: an engine from flags, a request from a conversation, the parts of an answer.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "minimo/chat.h"
#include "minimo/engine.h"
#include "minimo/output_parser.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"
#include "spec/model_spec.h"

namespace minimo {

// --max-tokens, --temperature, ... ; unset ones keep the model's defaults.
struct SamplingFlags {
  std::optional<int> max_tokens, min_tokens, top_k, logprobs;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool greedy = false;
  bool ignore_eos = false;

  void Add(CLI::App& command);
  SamplingParams Apply(SamplingParams params) const;
};

// --system, --tools, --thinking.
struct ChatFlags {
  std::string system;
  std::string tools_file;
  std::string thinking;  // "", "on", "off"

  void Add(CLI::App& command);
  Result<std::string> ToolsJson() const;  // empty: none
  ChatOptions Options() const;
};

// JSON text of tools, as ChatTemplate::Render takes them.
nlohmann::ordered_json ToolsOrNull(const std::string& tools_json);

struct LocalModel {
  std::string folder;
  std::unique_ptr<Engine> engine;
  double load_seconds = 0;
};
EngineOptions LocalOptions(const CommonFlags& flags, int max_num_seqs);
Result<LocalModel> OpenLocalModel(const EngineOptions& options);

// Waits for a stream to end. `on_event` may be empty; returning false cancels.
Result<Completion> Drain(Stream& stream, const std::function<bool(const Event&)>& on_event);

// Prints reasoning, answer and tool calls as they come, each under its heading.
class AnswerPrinter {
 public:
  void Print(const std::vector<ParsedDelta>& deltas);
  void End();

 private:
  void Heading(const char* name);
  std::string section_;
  bool at_start_ = true;
};

}  // namespace minimo
