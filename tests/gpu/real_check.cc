#include "tests/gpu/real_check.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "base/thread_team.h"
#include "cuda/cuda_executor.h"
#include "engine/cpu_executor.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/router_ties.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

// kFp8Prefill: bf16, a prompt's activations e4m3. kFp8All: an FP8 cache too; kF32Fp8Cache: what it is compared with.
enum class Mode { kF32, kBf16, kFp8Prefill, kFp8All, kF32Fp8Cache };
bool IsF32(Mode m) { return m == Mode::kF32 || m == Mode::kF32Fp8Cache; }
DType CacheOf(Mode m) {
  return m == Mode::kFp8All || m == Mode::kF32Fp8Cache ? DType::kF8E4M3 : IsF32(m) ? DType::kF32 : DType::kBf16;
}
Mode ExactModeOf(Mode m) { return CacheOf(m) == DType::kF8E4M3 ? Mode::kF32Fp8Cache : Mode::kF32; }

// Prompts of `prompt` tokens for each of `batch` sequences, then steps in which the first half brings a token each, the
// second half `chunk`.
struct RealRun {
  Mode mode = Mode::kBf16;
  int batch = 1, prompt = 0, steps = 3;
  int chunk = 1;

  int TokensEach() const { return prompt + steps * chunk; }
  auto Exactly() const { return std::tuple(ExactModeOf(mode), batch, prompt, steps, chunk); }
};

std::vector<StepRecord> StepsOf(const RealRun& r, const KvLayout& layout, int vocab) {
  std::vector<int32_t> ids;
  for (int i = 0; i < r.batch * r.TokensEach(); ++i) ids.push_back((i * 7919 + i / 3 * 131) % vocab);
  std::vector<StepRecord> steps;
  std::vector<Part> parts(static_cast<size_t>(r.batch), {0, r.prompt});
  size_t at = 0;
  for (int i = 0; i <= r.steps; ++i) {
    steps.push_back(MakeStep(layout, parts, r.batch, r.TokensEach(), std::span(ids).subspan(at)));
    at += steps.back().tokens.size();
    for (int s = 0; s < r.batch; ++s) {
      Part& p = parts[static_cast<size_t>(s)];
      p = {p.past + p.n, s < r.batch / 2 ? 1 : r.chunk};
    }
  }
  return steps;
}

// Every run of one model. Executors and what the exact ones make of the same tokens serve all of them: the weights go
// to the device once a mode, and the CPU takes most of the time.
class RealModel {
 public:
  RealModel(std::string name, const LoadedModel& model, std::vector<RealRun> runs)
      : name_(std::move(name)), model_(model), runs_(std::move(runs)) {}

  void Check() {
    for (const RealRun& r : runs_) {
      const Status status = Compare(r);
      if (Failed(status, name_)) return;
    }
  }

 private:
  struct Exact {
    std::vector<float> cpu;  // the prompts' logits, then those of every step
    Routed gpu;
  };

  Result<CudaExecutor*> ExecutorOf(Mode mode) {
    auto& executor = executors_[mode];
    if (executor) return executor.get();
    CudaOptions options;
    options.f32 = IsF32(mode);
    options.fp8_prefill = mode == Mode::kFp8Prefill || mode == Mode::kFp8All;
    options.probe_routing = true;
    options.max_tokens = 0;
    int batch = 0, tokens_each = 0;
    for (const RealRun& r : runs_) {
      options.max_tokens = std::max(options.max_tokens, r.batch * std::max(r.prompt, r.chunk));
      batch = std::max(batch, r.batch), tokens_each = std::max(tokens_each, r.TokensEach());
    }
    const KvLayout layout = LayoutFor(model_.spec, CacheOf(mode), batch, tokens_each);
    MINIMO_ASSIGN(executor, CudaExecutor::Create(model_.spec, &model_.weights, layout, options, team_));
    return executor.get();
  }

  Result<Routed> OnGpu(Mode mode, const RealRun& r, const Routed* like, float by) {
    MINIMO_ASSIGN(CudaExecutor* const gpu, ExecutorOf(mode));
    Routed run;
    for (const StepRecord& step : StepsOf(r, gpu->kv_layout(), model_.spec.vocab)) {
      MINIMO_TRY(RunStep(*gpu, step, like, by, &run));
    }
    return run;
  }

  Result<std::vector<float>> OnCpu(const RealRun& r) {
    const KvLayout layout = LayoutFor(model_.spec, CacheOf(ExactModeOf(r.mode)), r.batch, r.TokensEach());
    MINIMO_ASSIGN(auto cpu, CpuExecutor::Create(model_, layout, DType::kF32, 0));
    std::vector<float> logits;
    for (const StepRecord& step : StepsOf(r, layout, model_.spec.vocab)) {
      StepOutput out;
      MINIMO_TRY(cpu->Run(step, &out));
      logits.insert(logits.end(), out.logits.begin(), out.logits.end());
    }
    return logits;
  }

  Result<const Exact*> ExactOf(const RealRun& r) {
    const auto [at, first] = exact_.try_emplace(r.Exactly());
    if (!first) return &at->second;
    MINIMO_ASSIGN(at->second.cpu, OnCpu(r));
    MINIMO_ASSIGN(at->second.gpu, OnGpu(ExactModeOf(r.mode), r, nullptr, 0));
    return &at->second;
  }

  // The routers' ties are decided as in float32 (router_ties.h). With kFp8Prefill a prompt's activations have 3 bits of
  // mantissa: the bound is that of such rounding.
  Status Compare(const RealRun& r) {
    MINIMO_ASSIGN(const Exact* const exact, ExactOf(r));
    const bool f32 = IsF32(r.mode), fp8 = r.mode == Mode::kFp8Prefill || r.mode == Mode::kFp8All;
    const auto run_like = [&](const Routed* like, float by) { return OnGpu(r.mode, r, like, by); };
    const float most = f32 ? 0.0f : fp8 ? kFp8Tie : kBf16Tie;
    MINIMO_ASSIGN(const Settled run, SettleTies(exact->gpu, most, run_like));
    const size_t rows = static_cast<size_t>(r.batch) * static_cast<size_t>(model_.spec.vocab);
    const auto errors = [&](const Routed& got) {  // of the prompts, of the worst step after them
      const std::span<const float> all(got.logits), want(exact->cpu);
      double decode = 0;
      for (size_t at = rows; at < want.size(); at += rows) {
        decode = std::max(decode, RelativeError(all.subspan(at, rows), want.subspan(at, rows)));
      }
      return std::pair(RelativeError(all.first(rows), want.first(rows)), decode);
    };
    const auto [free_prefill, free_decode] = errors(run.free);
    const auto [prefill, decode] = errors(run.last);
    const double bound = f32 ? 1e-4 : fp8 ? kFp8Bound : 1e-2;
    testing::Check({{"check", "real shapes"}, {"model", name_}, {"dtype", f32 ? "f32" : "bf16"},
                    {"prefill_activations", f32 ? "f32" : fp8 ? "fp8" : "bf16"},
                    {"cache", r.mode == Mode::kFp8All ? "fp8" : f32 ? "f32" : "bf16"}, {"batch", r.batch},
                    {"prompt", r.prompt}, {"chunk", r.chunk}, {"prefill_error", prefill}, {"decode_error", decode},
                    {"bound", bound}, {"choices_elsewhere", run.elsewhere}, {"prefill_error_then", free_prefill},
                    {"decode_error_then", free_decode}, {"ties_within", run.by}, {"still_elsewhere", run.left}},
                   prefill < bound && decode < bound && run.left == 0);
    return {};
  }

  std::string name_;
  const LoadedModel& model_;
  std::vector<RealRun> runs_;
  ThreadTeam team_{0};
  std::map<Mode, std::unique_ptr<CudaExecutor>> executors_;
  std::map<std::tuple<Mode, int, int, int, int>, Exact> exact_;
};

void CheckModel(const std::string& name, const SyntheticModel& model, std::vector<RealRun> runs) {
  RealModel(name, model.model(), std::move(runs)).Check();
}

ModelSpec MiMoLayer(int layer, int experts, int vocab) {
  ModelSpec spec = MiMoSpec(6, experts, vocab);
  spec.layers = {spec.layers[static_cast<size_t>(layer)]};
  return spec;
}
constexpr int kSlidingLayer = 1, kFullLayer = 5;

std::string Tail(ExpertFormat format) { return format == ExpertFormat::kFp8 ? " fp8" : " int4"; }

}  // namespace

void CheckReal() {
  using enum Mode;
  for (const ExpertFormat format : {ExpertFormat::kFp8, ExpertFormat::kInt4}) {
    CheckModel("m2" + Tail(format), SyntheticModel(M2Spec(2, 16, 1000), format, 64, 1),
               {{kF32, 1, 200}, {kBf16, 1, 200}, {kFp8Prefill, 1, 200}, {kFp8Prefill, 3, 140}, {kBf16, 3, 40},
                {kBf16, 12, 17}, {kBf16, 40, 5}});
    CheckModel("mimo" + Tail(format), SyntheticModel(MiMoSpec(3, 16, 1000), format, 64, 2),
               {{kF32, 1, 200}, {kBf16, 1, 200}, {kFp8Prefill, 1, 200}, {kBf16, 5, 40}, {kBf16, 70, 3}});
    CheckModel("mimo full" + Tail(format), SyntheticModel(MiMoLayer(kFullLayer, 12, 1000), format, 128, 3),
               {{kF32, 1, 150}, {kBf16, 1, 150}, {kFp8Prefill, 1, 150}});
    // Few tokens an expert, several tiles for each of fp8_linear's blocks.
    CheckModel("m2, 64 experts" + Tail(format), SyntheticModel(M2Spec(1, 64, 1000), format, 64, 4),
               {{kFp8Prefill, 1, 100, 1}});
  }
}

void CheckRealMixed() {
  using enum Mode;
  for (const ExpertFormat format : {ExpertFormat::kFp8, ExpertFormat::kInt4}) {
    CheckModel("m2" + Tail(format), SyntheticModel(M2Spec(2, 16, 1000), format, 64, 1),
               {{kBf16, 8, 40, 3, 11}, {kFp8Prefill, 8, 40, 3, 11}, {kFp8All, 8, 40, 2, 19}});
    CheckModel("mimo" + Tail(format), SyntheticModel(MiMoSpec(3, 16, 1000), format, 64, 2),
               {{kBf16, 5, 150, 2, 37}, {kFp8Prefill, 5, 150, 2, 37}, {kFp8All, 5, 150, 2, 37}});
  }
}

void CheckRealLong() {
  using enum Mode;
  CheckModel("m2", SyntheticModel(M2Spec(1, 8, 500), ExpertFormat::kInt4, 64, 1),
             {{kBf16, 1, 2100, 2}, {kFp8Prefill, 1, 2100, 2}, {kBf16, 3, 600, 2}});
  CheckModel("mimo full", SyntheticModel(MiMoLayer(kFullLayer, 8, 500), ExpertFormat::kFp8, 64, 3),
             {{kBf16, 1, 1300, 2}, {kBf16, 9, 270, 2}});
  CheckModel("mimo sliding", SyntheticModel(MiMoLayer(kSlidingLayer, 8, 500), ExpertFormat::kFp8, 64, 5),
             {{kBf16, 2, 500, 2}});
}

void CheckRealSmall() {
  using enum Mode;
  CheckModel("m2 fp8", SyntheticModel(M2Spec(1, 8, 500), ExpertFormat::kFp8, 64, 1),
             {{kBf16, 1, 20, 1}, {kBf16, 3, 12, 1}, {kF32, 1, 5, 1}});
  CheckModel("mimo int4", SyntheticModel(MiMoSpec(2, 8, 500), ExpertFormat::kInt4, 32, 2),
             {{kBf16, 1, 140, 1}, {kBf16, 3, 12, 1}});
}

}  // namespace minimo::testing
