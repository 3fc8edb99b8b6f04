#include "apps/generation.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/flag_checks.h"
#include "base/clock.h"
#include "base/error.h"
#include "checkpoint/mapped_file.h"
#include "models/loader.h"

namespace minimo {

void SamplingFlags::Add(CLI::App& command) {
  command.add_option("--max-tokens", max_tokens, "New tokens at most; default: up to the context limit")
      ->check(AtLeast(1));
  command.add_option("--min-tokens", min_tokens, "New tokens before the text may end")->check(AtLeast(0));
  command.add_option("--temperature", temperature, "0: greedy");
  command.add_option("--top-p", top_p, "(0, 1]");
  command.add_option("--top-k", top_k, "0: off");
  command.add_option("--min-p", min_p, "[0, 1]");
  command.add_option("--repetition-penalty", repetition_penalty, "> 0; 1: off");
  command.add_option("--presence-penalty", presence_penalty, "[-2, 2]");
  command.add_option("--frequency-penalty", frequency_penalty, "[-2, 2]");
  command.add_option("--seed", seed, "The same seed gives the same text")->check(AtLeast(0));
  command.add_option("--stop", stop, "A text to end before; may be given again");
  command.add_option("--stop-token-ids", stop_token_ids, "Ids to end at: 1,2,3")->delimiter(',');
  command.add_option("--logprobs", logprobs, "With --json: log probabilities of the N best tokens")
      ->check(CLI::Range(0, 20));
  command.add_flag("--greedy", greedy, "The most likely token always");
  command.add_flag("--ignore-eos", ignore_eos, "Go on past the end of the text");
}

SamplingParams SamplingFlags::Apply(SamplingParams params) const {
  const auto set = [](auto& to, const auto& from) {
    if (from) to = *from;
  };
  set(params.max_tokens, max_tokens);
  set(params.min_tokens, min_tokens);
  set(params.temperature, temperature);
  set(params.top_p, top_p);
  set(params.top_k, top_k);
  set(params.min_p, min_p);
  set(params.repetition_penalty, repetition_penalty);
  set(params.presence_penalty, presence_penalty);
  set(params.frequency_penalty, frequency_penalty);
  set(params.logprobs, logprobs);
  if (seed) params.seed = *seed;
  if (greedy) params.temperature = 0;
  params.stop = stop;
  params.stop_token_ids.insert(params.stop_token_ids.end(), stop_token_ids.begin(), stop_token_ids.end());
  params.ignore_eos = ignore_eos;
  return params;
}

void ChatFlags::Add(CLI::App& command) {
  command.add_option("--system", system, "The system message");
  command.add_option("--tools", tools_file, "A JSON file with the tools the model may call (OpenAI's form)");
  command.add_option("--thinking", thinking, "on or off; default: the template's")->check(CLI::IsMember({"on", "off"}));
}

Result<std::string> ChatFlags::ToolsJson() const {
  if (tools_file.empty()) return std::string();
  MINIMO_ASSIGN(const std::string text, ReadTextFile(tools_file));
  if (!nlohmann::json::parse(text, nullptr, false).is_array()) {
    return Errorf("{}: expected a JSON list of tools", tools_file);
  }
  return text;
}

nlohmann::ordered_json ToolsOrNull(const std::string& tools_json) {
  return tools_json.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json::parse(tools_json, nullptr, false);
}

ChatOptions ChatFlags::Options() const {
  ChatOptions options;
  if (!thinking.empty()) options.enable_thinking = thinking == "on";
  return options;
}

EngineOptions LocalOptions(const CommonFlags& flags, int max_num_seqs) {
  EngineOptions options;
  options.model = flags.model;
  options.backend = flags.backend;
  options.dtype = flags.dtype;
  options.activations = flags.activations;
  options.threads = flags.threads;
  options.max_num_seqs = max_num_seqs;
  return options;
}

Result<LocalModel> OpenLocalModel(const EngineOptions& options) {
  const SteadyClock clock;
  const int64_t began = clock.NowUs();
  LocalModel local;
  MINIMO_ASSIGN(local.folder, ResolveModelFolder(options.model));
  MINIMO_ASSIGN(local.engine, Engine::Create(options));
  local.load_seconds = static_cast<double>(clock.NowUs() - began) * 1e-6;
  return local;
}

Result<Completion> Drain(Stream& stream, const std::function<bool(const Event&)>& on_event) {
  Completion whole;
  while (std::optional<Event> event = stream.Next()) {
    whole.text += event->text;
    whole.tokens.insert(whole.tokens.end(), event->tokens.begin(), event->tokens.end());
    whole.finish = event->finish;
    whole.stop_reason = event->stop_reason;
    whole.usage = event->usage;
    whole.timing = event->timing;
    if (event->finish == FinishReason::kError) return Error{event->error};
    if (on_event && !on_event(*event)) stream.Cancel();
  }
  return whole;
}

void AnswerPrinter::Heading(const char* name) {
  if (section_ == name) return;
  const bool color = isatty(STDOUT_FILENO) != 0;
  fmt::print("{}{}[{}]{}\n", section_.empty() ? "" : "\n", color ? "\033[2m" : "", name, color ? "\033[0m" : "");
  section_ = name;
  at_start_ = true;
}

void AnswerPrinter::Print(const std::vector<ParsedDelta>& deltas) {
  for (const ParsedDelta& delta : deltas) {
    std::string text = delta.text;
    switch (delta.kind) {
      case ParsedDelta::Kind::kReasoning: Heading("reasoning"); break;
      case ParsedDelta::Kind::kContent:
        if (section_ != "answer" && text.find_first_not_of(" \n") == std::string::npos) continue;
        Heading("answer");
        break;
      case ParsedDelta::Kind::kToolCall:
        if (section_ == "tool call") section_ = "last call";  // a heading for each
        Heading("tool call");
        text = delta.name + " ";
        break;
      case ParsedDelta::Kind::kArguments: break;
    }
    if (at_start_) text.erase(0, text.find_first_not_of('\n'));
    if (text.empty()) continue;
    at_start_ = false;
    fmt::print("{}", text);
  }
  std::fflush(stdout);
}

void AnswerPrinter::End() {
  if (!section_.empty()) fmt::print("\n");
  section_.clear();
  std::fflush(stdout);
}

}  // namespace minimo
