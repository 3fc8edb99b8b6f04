// Checkpoints against what transformers makes of them in float32. In float32 the logits are within 1e-4. Rounded to 8
// bits, be it only in the KV cache, a token that stands at a router's tie goes to another expert, so bf16 is compared
// twice: as it runs, which is told beside what the CPU's float32 makes of a bf16 cache, and with ties decided as in
// float32 (router_ties.h), which is bounded by 1e-2.
#include "tests/gpu/golden_check.h"

#include <algorithm>
#include <cstdio>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "cuda/cuda_executor.h"
#include "models/loader.h"
#include "models/offline_runner.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/router_ties.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

constexpr double kF32Bound = 1e-4, kBf16Bound = 1e-2;

struct Case {
  std::vector<int32_t> ids;
  std::vector<float> logits;  // of the last rows
};

std::vector<Case> CasesOf(const SafetensorsFile& file) {
  std::vector<Case> cases;
  for (const auto& [tensor, view] : file.tensors()) {
    const std::string key = "input_ids";
    if (!tensor.ends_with(key)) continue;
    const TensorView& expected = file.tensors().at(tensor.substr(0, tensor.size() - key.size()) + "logits");
    cases.push_back({{view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape)},
                     {expected.As<float>(), expected.As<float>() + NumElements(expected.shape)}});
  }
  return cases;
}

double ErrorOf(std::span<const float> logits, const Case& c) {
  return RelativeError(logits.last(c.logits.size()), c.logits);
}

Result<Routed> RunCase(CudaExecutor& executor, const Case& c, size_t chunk, const Routed* like, float by) {
  Routed run;
  for (size_t at = 0; at < c.ids.size(); at += chunk) {
    const size_t n = std::min(chunk, c.ids.size() - at);
    const StepRecord step = MakeStep(executor.kv_layout(), 1, static_cast<int>(at), static_cast<int>(n),
                                     static_cast<int>(c.ids.size()), static_cast<int>(n), {c.ids.data() + at, n});
    MINIMO_TRY(RunStep(executor, step, like, by, &run));
  }
  return run;
}

void CheckGreedy(CudaExecutor& executor, const Json& c, const std::string& name, bool f32) {
  const auto prompt = c["prompt_ids"].get<std::vector<int32_t>>();
  const auto expected = c.contains("greedy_ids") ? c["greedy_ids"].get<std::vector<int32_t>>() : std::vector<int32_t>();
  if (expected.empty()) return;
  const int total = static_cast<int>(prompt.size() + expected.size());
  std::vector<int32_t> next = prompt;
  int past = 0, equal = 0;
  double gap = 0;
  for (const int32_t want : expected) {
    std::span<float> out;
    const StepRecord step = MakeStep(executor.kv_layout(), 1, past, static_cast<int>(next.size()), total, 1, next);
    if (Failed(executor.Run(step, &out), name)) return;
    past += static_cast<int>(next.size());
    const auto best = std::max_element(out.begin(), out.end());
    const int32_t got = static_cast<int32_t>(best - out.begin());
    if (got != want) {
      gap = double{*best} - out[want];
      break;
    }
    ++equal;
    next = {got};
  }
  const bool all = equal == static_cast<int>(expected.size());
  Check({{"check", "greedy"}, {"model", name}, {"dtype", f32 ? "f32" : "bf16"}, {"equal", equal},
         {"tokens", expected.size()}, {"gap_at_first_difference", gap}},
        all || (!f32 && gap < 0.1));
}

void CheckGreedyCases(CudaExecutor& executor, const std::string& path, const std::string& name, bool f32) {
  std::FILE* f = path.empty() ? nullptr : std::fopen(path.c_str(), "rb");
  if (f == nullptr) return;
  std::string text(size_t{1} << 22, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  const auto json = Json::parse(text, nullptr, false);
  for (const auto& c : json.is_array() ? json : json.value("cases", Json::array())) CheckGreedy(executor, c, name, f32);
}

struct Golden {
  std::string name, folder, cases;
  LoadedModel model;
  std::vector<Case> of;
};

std::unique_ptr<CudaExecutor> ExecutorOf(const Golden& g, bool f32, ThreadTeam& team) {
  CudaOptions options;
  options.f32 = f32;
  options.max_tokens = 1024;
  options.probe_routing = true;
  const KvLayout layout = LayoutFor(g.model.spec, f32, 1, 1024);
  auto made = CudaExecutor::Create(g.model.spec, &g.model.weights, layout, options, team);
  if (!made.ok()) Check({{"check", g.name}, {"error", made.error().message}}, false);
  return made.ok() ? std::move(*made) : nullptr;
}

constexpr size_t kChunks[] = {1024, 37, 1, 1};  // tokens a step; the second run of single ones is of graphs

// The exact runs, in the order of cases and chunks.
std::vector<Routed> CheckF32(const Golden& g, ThreadTeam& team) {
  const auto executor = ExecutorOf(g, true, team);
  std::vector<Routed> runs;
  if (!executor) return runs;
  double worst = 0;
  bool same_bits = true;
  for (const Case& c : g.of) {
    for (const size_t chunk : kChunks) {
      auto run = RunCase(*executor, c, chunk, nullptr, 0);
      if (!run.ok()) return Check({{"check", g.name}, {"error", run.error().message}}, false), std::vector<Routed>();
      worst = std::max(worst, ErrorOf(run->logits, c));
      if (chunk == 37) {
        const auto again = RunCase(*executor, c, chunk, nullptr, 0);
        same_bits = same_bits && again.ok() && again->logits == run->logits;
      }
      runs.push_back(std::move(*run));
    }
  }
  Check({{"check", "golden"}, {"model", g.name}, {"dtype", "f32"}, {"runs", runs.size()},
         {"worst_relative_error", worst}, {"bound", kF32Bound}, {"same_bits_again", same_bits}},
        worst < kF32Bound && same_bits);
  CheckGreedyCases(*executor, g.cases, g.name, true);
  return runs;
}

void CheckBf16(const Golden& g, const std::vector<Routed>& exact, ThreadTeam& team) {
  const auto executor = ExecutorOf(g, false, team);
  if (!executor) return;
  double worst_free = 0, worst = 0, worst_cache = 0, tie = 0;
  int64_t elsewhere = 0, left = 0;
  int under = 0;
  bool same_bits = true;
  for (size_t i = 0; i < exact.size(); ++i) {
    const Case& c = g.of[i / std::size(kChunks)];
    const size_t chunk = kChunks[i % std::size(kChunks)];
    const auto settled = SettleTies(exact[i], kBf16Tie, [&](const Routed* like, float by) {
      return RunCase(*executor, c, chunk, like, by);
    });
    if (!settled.ok()) return Check({{"check", g.name}, {"error", settled.error().message}}, false);
    const double error = ErrorOf(settled->free.logits, c);
    worst_free = std::max(worst_free, error);
    under += error < kBf16Bound;
    worst = std::max(worst, ErrorOf(settled->last.logits, c));
    elsewhere += settled->elsewhere, left += settled->left, tie = std::max(tie, settled->by);
    if (chunk == 37) {
      const auto again = RunCase(*executor, c, chunk, nullptr, 0);
      same_bits = same_bits && again.ok() && again->logits == settled->free.logits;
    }
    if (chunk == 1024) {
      OfflineRunner cpu(g.model, team, DType::kBf16, static_cast<int>(c.ids.size()));
      worst_cache = std::max(worst_cache, ErrorOf(cpu.Append(c.ids, static_cast<int>(c.ids.size())), c));
    }
  }
  Check({{"check", "golden"}, {"model", g.name}, {"dtype", "bf16"}, {"runs", exact.size()},
         {"worst_relative_error", worst_free}, {"runs_under_bound", under}, {"choices_elsewhere", elsewhere},
         {"cpu_f32_with_bf16_cache_error", worst_cache}, {"ties_within", tie}, {"largest_tie", kBf16Tie},
         {"choices_still_elsewhere", left}, {"worst_relative_error_ties_decided", worst}, {"bound", kBf16Bound},
         {"same_bits_again", same_bits}},
        worst < kBf16Bound && left == 0 && same_bits);
  if (Failed(executor->Favour({}, 0), g.name)) return;
  CheckGreedyCases(*executor, g.cases, g.name, false);
}

void CheckGolden(const std::string& name, const std::string& folder, const std::string& golden,
                 const std::string& cases, ThreadTeam& team) {
  auto model = LoadModel(folder);
  auto file = SafetensorsFile::Open(golden);
  if (!model.ok() || !file.ok()) return Check({{"check", name}, {"error", "cannot load"}}, false);
  const Golden g{name, folder, cases, *model, CasesOf(*file)};
  const std::vector<Routed> exact = CheckF32(g, team);
  if (!exact.empty()) CheckBf16(g, exact, team);
}

}  // namespace

void CheckGoldens(const std::string& shared, const std::string& models) {
  ThreadTeam team(0);
  for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    const std::string folder = shared + "/golden/" + nano;
    CheckGolden(nano, models + "/" + nano, folder + "/golden.safetensors", folder + "/cases.json", team);
  }
  for (const char* random : {"mimo-a", "mimo-b", "mimo-c", "mimo-hub", "minimax-a", "minimax-b", "minimax-c"}) {
    const std::string folder = shared + "/golden/random/" + random;
    CheckGolden(random, folder, folder + "/golden.safetensors", "", team);
  }
}

void CheckGoldenFolder(const std::string& folder) {
  ThreadTeam team(0);
  CheckGolden(folder, folder, folder + "/golden.safetensors", "", team);
}

}  // namespace minimo::testing
