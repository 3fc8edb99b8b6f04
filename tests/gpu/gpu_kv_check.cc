// Checks the FP8 KV cache on a machine with a GPU against the CPU's: see tools/gpu_check.
//   gpu_kv_check SHARED MODELS   the nano models' golden prompts, and real shapes
//   gpu_kv_check small           a few steps, for compute-sanitizer
// The measure is what the FP8 cache itself changes, the distance between the CPU's logits with it and with a float32 cache.
// In float32 both caches hold the same bytes but for a few values that lie on the edge between two, each off by up to
// 1/16 of itself: the bound is a twentieth of that distance. bf16 activations move more of them, at worst
// every one as if rounded anew: sqrt(2) times that distance.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "cuda/cuda_executor.h"
#include "engine/cpu_executor.h"
#include "models/loader.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;
using Logits = std::vector<float>;

// Of a prompt in chunks of `chunk`, then of single tokens: every row but of the prompt, of which the last.
struct Run {
  int batch = 1, prompt = 0, chunk = 0, steps = 0;
  std::vector<int32_t> ids;  // [batch, prompt + steps]
};

template <typename RunStep>
Result<Logits> LogitsOf(const KvLayout& layout, const Run& r, RunStep run) {
  Logits all;
  const int total = r.prompt + r.steps;
  for (int past = 0; past < total;) {
    const int n = past < r.prompt ? std::min(r.chunk, r.prompt - past) : 1;
    std::vector<int32_t> ids;
    for (int s = 0; s < r.batch; ++s) {
      const auto first = r.ids.begin() + s * total + past;
      ids.insert(ids.end(), first, first + n);
    }
    MINIMO_TRY(run(MakeStep(layout, r.batch, past, n, total, 1, ids), &all));
    past += n;
  }
  return all;
}

Result<Logits> OnCpu(const LoadedModel& model, const Run& r, DType kv) {
  const KvLayout layout = LayoutFor(model.spec, kv, r.batch, r.prompt + r.steps);
  MINIMO_ASSIGN(auto cpu, CpuExecutor::Create(model, layout, kv, 0));
  return LogitsOf(layout, r, [&](const StepRecord& step, Logits* all) -> Status {
    StepOutput out;
    MINIMO_TRY(cpu->Run(step, &out));
    all->insert(all->end(), out.logits.begin(), out.logits.end());
    return {};
  });
}

Result<Logits> OnGpu(const LoadedModel& model, const Run& r, bool f32, DType kv, ThreadTeam& team) {
  const KvLayout layout = LayoutFor(model.spec, kv, r.batch, r.prompt + r.steps);
  CudaOptions options;
  options.f32 = f32;
  options.max_tokens = std::max(r.batch * r.chunk, r.batch);
  MINIMO_ASSIGN(auto gpu, CudaExecutor::Create(model.spec, &model.weights, layout, options, team));
  return LogitsOf(layout, r, [&](const StepRecord& step, Logits* all) -> Status {
    std::span<float> out;
    MINIMO_TRY(gpu->Run(step, &out));
    all->insert(all->end(), out.begin(), out.end());
    return {};
  });
}

void Compare(const std::string& name, const LoadedModel& model, const Run& r, ThreadTeam& team) {
  const auto with = OnCpu(model, r, DType::kF8E4M3), without = OnCpu(model, r, DType::kF32);
  const auto exact = OnGpu(model, r, true, DType::kF8E4M3, team), fast = OnGpu(model, r, false, DType::kF8E4M3, team);
  const auto again = OnGpu(model, r, false, DType::kF8E4M3, team);
  const auto plain = OnGpu(model, r, false, DType::kBf16, team);
  for (const auto* result : {&with, &without, &exact, &fast, &again, &plain}) {
    if (!result->ok()) return Check({{"check", "fp8 kv"}, {"model", name}, {"error", result->error().message}}, false);
  }
  const double cost = RelativeError(*with, *without), f32 = RelativeError(*exact, *with);
  const double bf16 = RelativeError(*fast, *with);
  Check({{"check", "fp8 kv"}, {"model", name}, {"batch", r.batch}, {"prompt", r.prompt}, {"chunk", r.chunk},
         {"steps", r.steps}, {"f32_error", f32}, {"f32_bound", cost / 20}, {"bf16_error", bf16}, {"bf16_bound", std::sqrt(2.0) * cost},
         {"bf16_cache_error", RelativeError(*plain, *without)}, {"same_bits_again", *fast == *again}},
        f32 < cost / 20 && bf16 < std::sqrt(2.0) * cost && *fast == *again);
}

Run Tokens(int vocab, int batch, int prompt, int chunk, int steps) {
  Run r{batch, prompt, chunk, steps, {}};
  for (int i = 0; i < batch * (prompt + steps); ++i) r.ids.push_back((i * 7919 + i / 3 * 131) % vocab);
  return r;
}

void Nano(const std::string& shared, const std::string& models, ThreadTeam& team) {
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    const auto model = LoadModel(models + "/" + name);
    const auto file = SafetensorsFile::Open(shared + "/golden/" + name + "/golden.safetensors");
    if (!model.ok() || !file.ok()) return Check({{"check", name}, {"error", "cannot load"}}, false);
    for (const auto& [tensor, view] : file->tensors()) {
      if (!tensor.ends_with("input_ids")) continue;
      Run r;
      r.ids.assign(view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape));
      r.steps = std::min<int>(8, static_cast<int>(r.ids.size()) / 2);
      r.prompt = static_cast<int>(r.ids.size()) - r.steps;
      for (r.chunk = r.prompt; r.chunk >= r.prompt / 2; r.chunk /= 2) Compare(name + (" " + tensor), *model, r, team);
    }
  }
}

void Real(ThreadTeam& team) {
  const SyntheticModel m2(M2Spec(2, 16, 1000), ExpertFormat::kInt4, 64, 1);
  const SyntheticModel mimo(MiMoSpec(3, 16, 1000), ExpertFormat::kFp8, 64, 2);
  Compare("m2", m2.model(), Tokens(1000, 1, 300, 300, 4), team);
  Compare("m2", m2.model(), Tokens(1000, 1, 300, 110, 4), team);
  Compare("m2", m2.model(), Tokens(1000, 9, 40, 40, 3), team);
  Compare("mimo", mimo.model(), Tokens(1000, 1, 300, 110, 4), team);
  Compare("mimo", mimo.model(), Tokens(1000, 9, 40, 40, 3), team);
}

void Small(ThreadTeam& team) {
  const SyntheticModel m2(M2Spec(1, 8, 500), ExpertFormat::kFp8, 64, 1);
  const SyntheticModel mimo(MiMoSpec(2, 8, 500), ExpertFormat::kInt4, 32, 2);
  Compare("m2", m2.model(), Tokens(500, 3, 20, 12, 2), team);
  Compare("mimo", mimo.model(), Tokens(500, 1, 150, 150, 2), team);
}

int Main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (const auto device = cuda::FindCudaDevice(0); !device.ok()) {
    std::fprintf(stderr, "gpu_kv_check: %s\n", device.error().message.c_str());
    return 1;
  }
  ThreadTeam team(0);
  if (args.size() == 2) {
    Real(team);
    Nano(args[0], args[1], team);
  } else if (args.size() == 1 && args[0] == "small") {
    Small(team);
  } else {
    std::fprintf(stderr, "usage: gpu_kv_check SHARED MODELS | small\n");
    return 2;
  }
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }
