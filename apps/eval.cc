// minimo eval: perplexity on a text, or exact-match accuracy on cases.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/generation.h"
#include "base/error.h"
#include "base/log_sum_exp.h"
#include "base/thread_team.h"
#include "checkpoint/mapped_file.h"
#include "layers/tile_weights.h"
#include "models/offline_runner.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

struct Flags {
  CommonFlags common;
  SamplingFlags sampling;
  ChatFlags chat;
  std::string task;
  int context = 512;
  int concurrency = 16;
  bool json = false;
  bool show = false;
};

// {"messages": [...], "tools": [...], "answer": "..."} or with "tool_calls": [{"name": ..., "arguments": {...}}].
struct Case {
  ordered_json messages;
  std::string tools;
  std::string answer;
  ordered_json tool_calls;
};

Result<std::vector<Case>> ReadCases(const std::string& path, const std::string& text) {
  ordered_json all = ordered_json::parse(text, nullptr, false);
  if (!all.is_array()) {  // JSON lines
    all = ordered_json::array();
    std::istringstream lines(text);
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      all.push_back(ordered_json::parse(line, nullptr, false));
      if (all.back().is_discarded()) return Errorf("{}:{}: not valid JSON", path, number);
    }
  }
  std::vector<Case> cases;
  for (size_t i = 0; i < all.size(); ++i) {
    const ordered_json& c = all[i];
    const bool calls = c.is_object() && c.contains("tool_calls") && c["tool_calls"].is_array();
    if (!c.is_object() || !c.contains("messages") || !(calls || (c.contains("answer") && c["answer"].is_string()))) {
      return Errorf("{}: case {}: expected messages and an answer (text) or tool_calls", path, i);
    }
    cases.push_back({c["messages"], c.contains("tools") && !c["tools"].is_null() ? c["tools"].dump() : "",
                     calls ? "" : c["answer"].get<std::string>(), calls ? c["tool_calls"] : ordered_json()});
  }
  if (cases.empty()) return Errorf("{}: holds no case", path);
  return cases;
}

std::string Trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n\r");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n\r") - begin + 1);
}

bool Matches(const Case& c, const ParsedOutput& got) {
  if (c.tool_calls.is_null()) return Trim(got.content) == Trim(c.answer);
  if (got.tool_calls.size() != c.tool_calls.size()) return false;
  for (size_t i = 0; i < got.tool_calls.size(); ++i) {
    const auto arguments = nlohmann::json::parse(got.tool_calls[i].arguments, nullptr, false);
    if (got.tool_calls[i].name != c.tool_calls[i].value("name", "")) return false;
    if (arguments != nlohmann::json(c.tool_calls[i].value("arguments", ordered_json::object()))) return false;
  }
  return true;
}

// Cases run `concurrency` at a time; greedy unless flags say otherwise.
Status Accuracy(const Flags& flags, const std::string& text) {
  MINIMO_ASSIGN(const auto cases, ReadCases(flags.task, text));
  MINIMO_ASSIGN(const LocalModel local, OpenLocalModel(LocalOptions(flags.common, flags.concurrency)));
  MINIMO_TRY(flags.common.CheckQuantization(local.folder));
  MINIMO_ASSIGN(const ChatTemplate chat_template, ChatTemplate::FromFolder(local.folder));
  SamplingParams params = flags.sampling.Apply(local.engine->default_params());
  if (!flags.sampling.temperature) params.temperature = 0;
  if (!flags.sampling.max_tokens) params.max_tokens = 512;
  struct Running {
    std::unique_ptr<Stream> stream;
    bool reasoning = false;
  };
  std::vector<Running> running;
  ordered_json failures = ordered_json::array();
  size_t right = 0;
  const auto start = [&](size_t i) -> Status {
    MINIMO_ASSIGN(const std::string prompt,
                  chat_template.Render(cases[i].messages, ToolsOrNull(cases[i].tools), flags.chat.Options()));
    Request request;
    MINIMO_ASSIGN(request.prompt_ids, local.engine->tokenizer().Encode(prompt));
    request.params = params;
    MINIMO_ASSIGN(auto stream, Stream::Submit(*local.engine, std::move(request)));
    running.push_back({std::move(stream), PromptOpensReasoning(prompt)});
    return {};
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    while (running.size() < std::min(cases.size(), i + static_cast<size_t>(flags.concurrency)))
      MINIMO_TRY(start(running.size()));
    MINIMO_ASSIGN(const Completion done, Drain(*running[i].stream, {}));
    OutputParserOptions parse;
    parse.starts_in_reasoning = running[i].reasoning;
    MINIMO_ASSIGN(const ParsedOutput parsed,
                  ParseOutput(local.engine->model().model_type, done.text, cases[i].tools, parse));
    const bool match = Matches(cases[i], parsed);
    right += match;
    if (!match) {
      failures.push_back(
          {{"case", i},
           {"expected", cases[i].tool_calls.is_null() ? ordered_json(cases[i].answer) : cases[i].tool_calls},
           {"content", parsed.content},
           {"tool_calls", ordered_json::parse(parsed.ToolCallsJson())}});
    }
    running[i].stream.reset();
  }
  const double accuracy = static_cast<double>(right) / static_cast<double>(cases.size());
  if (flags.json) {
    std::cout << ordered_json({{"task", flags.task},
                               {"cases", cases.size()},
                               {"correct", right},
                               {"accuracy", accuracy},
                               {"failures", failures}})
                     .dump(2, ' ', false, ordered_json::error_handler_t::replace)
              << "\n";
    return {};
  }
  fmt::print("{}: {} of {} correct, accuracy {:.3f}\n", flags.task, right, cases.size(), accuracy);
  for (const auto& f : failures) {
    if (flags.show) fmt::print("  {}\n", f.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
  }
  return {};
}

// Consecutive windows of `context` tokens; every token but a window's first is predicted.
Status Perplexity(const Flags& flags, const std::string& text) {
  if (flags.common.backend == "cuda")
    return Errorf("perplexity is computed on the CPU alone; leave out --backend cuda");
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(flags.common.model));
  MINIMO_TRY(flags.common.CheckQuantization(folder));
  MINIMO_ASSIGN(const auto tokenizer, Tokenizer::FromFolder(folder));
  MINIMO_ASSIGN(const auto ids, tokenizer->Encode(text));
  if (ids.size() < 2) return Errorf("{}: {} tokens, expected at least 2", flags.task, ids.size());
  MINIMO_ASSIGN(LoadedModel model, LoadModel(folder));
  ThreadTeam team(flags.common.threads);
  if (flags.common.activations == "int8") MINIMO_TRY(TileWeights(&model.weights, SourceBytes::kKeep, team));
  OfflineRunner runner(model, team, flags.common.dtype == "bf16" ? DType::kBf16 : DType::kF32, flags.context);
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (size_t at = 0; at + 1 < ids.size(); at += static_cast<size_t>(flags.context)) {
    const size_t size = std::min(static_cast<size_t>(flags.context), ids.size() - at);
    if (size < 2) break;
    runner.Reset();
    const auto logits = runner.Append({ids.data() + at, size}, static_cast<int>(size));
    const int64_t vocab = model.spec.vocab;
    for (size_t i = 0; i + 1 < size; ++i) {
      const float* row = logits.data() + static_cast<int64_t>(i) * vocab;
      const double nll = LogSumExp({row, static_cast<size_t>(vocab)}) - row[ids[at + i + 1]];
      sum += nll;
      squares += nll * nll;
      ++count;
    }
  }
  const double n = static_cast<double>(count), mean = sum / n;
  const double error = std::sqrt(std::max(0.0, squares / n - mean * mean) / n);
  const double perplexity = std::exp(mean);
  if (flags.json) {
    std::cout << ordered_json({{"task", flags.task},
                               {"tokens", count},
                               {"nll", mean},
                               {"nll_standard_error", error},
                               {"perplexity", perplexity},
                               {"activations", flags.common.activations},
                               {"context", flags.context}})
                     .dump(2)
              << "\n";
  } else {
    fmt::print("{}: perplexity {:.4f} (nll {:.5f} +- {:.5f}) over {} tokens in windows of {}\n", flags.task, perplexity,
               mean, error, count, flags.context);
  }
  return {};
}

Status Body(const Flags& flags) {
  MINIMO_ASSIGN(const std::string text, ReadTextFile(flags.task));
  return flags.task.ends_with(".json") || flags.task.ends_with(".jsonl") ? Accuracy(flags, text)
                                                                         : Perplexity(flags, text);
}

}  // namespace

void AddEval(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("eval", "Perplexity on a text file, accuracy on a file of cases (.json, .jsonl)");
  flags->common.AddModelArgument(command);
  command.add_option("--task", flags->task, "The file")->required();
  command.add_option("--context", flags->context, "Tokens a window of the text")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command.add_option("--concurrency", flags->concurrency, "Cases at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_flag("--show", flags->show, "Print the cases that failed");
  command.add_flag("--json", flags->json, "One JSON object");
  flags->chat.Add(command);
  flags->sampling.Add(command);
  flags->common.AddRuntimeFlags(command);
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
