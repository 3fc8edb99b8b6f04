// minimo inspect: what a checkpoint is.
#include <nlohmann/json.hpp>

#include <fmt/ranges.h>

#include <iostream>

#include "apps/commands.h"
#include "models/fit.h"
#include "models/summary.h"

namespace minimo {
namespace {

constexpr int kSequences = 16;  // in flight, for the sliding layers' share of the cache

struct Flags {
  CommonFlags common;
  bool json = false;
};

std::string Human(double value, const char* unit) {
  const char* prefixes[] = {"", "k", "M", "G", "T"};
  int i = 0;
  while (value >= 1000 && i < 4) {
    value /= 1000;
    ++i;
  }
  return fmt::format("{:.{}f} {}{}", value, i == 0 ? 0 : 2, prefixes[i], unit);
}

// "3 full, 3 of window 24"
std::string AttentionKinds(const ModelSpec& spec) {
  std::map<int, int> kinds;
  for (const LayerSpec& layer : spec.layers) ++kinds[layer.attention.window];
  std::string text;
  for (const auto& [window, count] : kinds) {
    text +=
        fmt::format("{}{} {}", text.empty() ? "" : ", ", count, window ? fmt::format("of window {}", window) : "full");
  }
  return text;
}

// Files of ranks, if the checkpoint is written so.
struct RankFiles {
  int ranks = 0;
  std::vector<int> missing;
};

nlohmann::ordered_json ToJson(const LoadedModel& model, const ModelSummary& s, const RankFiles& files) {
  nlohmann::ordered_json json = {{"model_type", model.spec.model_type},
                                 {"layers", model.spec.num_layers()},
                                 {"hidden_size", model.spec.hidden},
                                 {"vocab_size", model.spec.vocab},
                                 {"max_position_embeddings", model.spec.max_positions},
                                 {"experts", model.spec.moe.experts},
                                 {"experts_per_token", model.spec.moe.top_k},
                                 {"mtp_layers", model.spec.mtp_layers},
                                 {"fused_kv_scale_layers", model.fused_kv_layers},
                                 {"parameters", s.total.parameters},
                                 {"active_parameters", s.total.active},
                                 {"mtp_parameters", s.mtp_parameters},
                                 {"bytes", s.total.bytes},
                                 {"weight_bytes_per_token", s.weight_bytes_per_token},
                                 {"kv_bytes_per_token", s.kv_bytes_per_token},
                                 {"kv_bytes_per_sequence", s.kv_bytes_per_sequence},
                                 {"bytes_by_dtype", s.bytes_by_dtype},
                                 {"notes", model.notes}};
  if (model.shards) {
    json["rank_files"] = {{"ranks", files.ranks}, {"experts", ToString(model.shards->experts)},
                          {"row_grain", model.shards->row_grain}, {"missing", files.missing}};
  }
  for (const auto& [name, part] : s.parts) {
    json["parts"][name] = {{"parameters", part.parameters}, {"active", part.active}, {"bytes", part.bytes}};
  }
  if (!files.missing.empty()) return json;
  for (const Fit& fit : WhatFits(model.spec, s, kSequences, files.ranks)) {
    json["fits"].push_back({{"hardware", fit.hardware.name}, {"weights_fit", fit.weights_fit},
                            {"free_bytes", fit.free_bytes}, {"context_tokens", fit.context_tokens}});
  }
  return json;
}

void Print(const LoadedModel& model, const ModelSummary& s, const RankFiles& files) {
  const ModelSpec& spec = model.spec;
  const auto line = [](const std::string& label, const std::string& value) { fmt::print("{:<22} {}\n", label, value); };
  line("model", spec.model_type);
  line("layers", fmt::format("{} ({})", spec.num_layers(), AttentionKinds(spec)));
  line("hidden / vocabulary", fmt::format("{} / {}", spec.hidden, spec.vocab));
  line("experts", fmt::format("{} of {} a token", spec.moe.top_k, spec.moe.experts));
  line("context", fmt::format("{} tokens", spec.max_positions));
  line("MTP layers", fmt::format("{}", spec.mtp_layers));
  line("parameters", fmt::format("{}, {} active", Human(s.total.parameters, ""), Human(s.total.active, "")));
  line("weights", fmt::format("{}, {} read a token", Human(s.total.bytes, "B"), Human(s.weight_bytes_per_token, "B")));
  line("KV cache, bf16", fmt::format("{} a token + {} a sequence", Human(s.kv_bytes_per_token, "B"),
                                     Human(s.kv_bytes_per_sequence, "B")));
  if (model.shards) {
    line("files", fmt::format("of {} ranks, experts {}; bytes are those of all together", files.ranks,
                              ToString(model.shards->experts)));
    if (!files.missing.empty()) line("not here", fmt::format("the files of ranks {}", fmt::join(files.missing, ", ")));
  } else {
    line("K/V scales", model.fused_kv_layers ? fmt::format("fused grid in {} layers", model.fused_kv_layers) : "plain");
  }
  fmt::print("\n{:<14} {:>12} {:>12} {:>12}\n", "part", "parameters", "active", "bytes");
  for (const auto& [name, part] : s.parts) {
    fmt::print("{:<14} {:>12} {:>12} {:>12}\n", name, Human(part.parameters, ""), Human(part.active, ""),
               Human(part.bytes, "B"));
  }
  fmt::print("\n");
  for (const auto& [dtype, bytes] : s.bytes_by_dtype) line(dtype, Human(static_cast<double>(bytes), "B"));
  for (const std::string& note : model.notes) line("note", note);
  if (!files.missing.empty()) return;
  fmt::print("\n{:<22} {:>10} {:>14}   (KV bf16, {} sequences, {:.0f} % of each device in reserve)\n", "fits on",
             "free", "context", kSequences, kReserve * 100);
  for (const Fit& fit : WhatFits(spec, s, kSequences, files.ranks)) {
    fmt::print("{:<22} {:>10} {:>14}\n", fit.hardware.name,
               fit.weights_fit ? Human(static_cast<double>(fit.free_bytes), "B") : "no",
               fit.weights_fit ? fmt::format("{} tokens", fit.context_tokens)
                               : Human(-static_cast<double>(fit.free_bytes), "B short"));
  }
}

Status Body(const Flags& flags) {
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(flags.common.model));
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(folder, {.rank_files = true}));
  RankFiles files;
  ModelSummary summary;
  if (model.shards) {
    files.ranks = model.shards->ranks;
    MINIMO_ASSIGN(summary, SummarizeRanks(model, &files.missing));
  } else {
    summary = Summarize(model);
  }
  if (flags.json) {
    std::cout << ToJson(model, summary, files).dump(2) << "\n";
  } else {
    Print(model, summary, files);
  }
  return {};
}

}  // namespace

void AddInspect(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command =
      commands.Add("inspect", "Say what a checkpoint is: architecture, sizes, number formats, oddities");
  flags->common.AddModelArgument(command);
  command.add_flag("--json", flags->json, "One JSON object");
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
