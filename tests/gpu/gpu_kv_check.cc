// Checks the FP8 KV cache on a machine with a GPU against the CPU's: see tools/gpu_check.
//   gpu_kv_check SHARED MODELS   the nano models' golden prompts, and real shapes
//   gpu_kv_check small           a few steps, for compute-sanitizer
// The measure is what the FP8 cache itself changes, the distance between the CPU's logits with it and with a float32
// cache. In float32 both caches hold the same bytes but for a few values that lie on the edge between two, each off by
// up to 1/16 of itself: the bound is a twentieth of that distance. bf16 activations move more of them, at worst every
// one as if rounded anew: sqrt(2) times that distance.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "cuda/cuda_executor.h"
#include "layers/decoder.h"
#include "models/loader.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/router_ties.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

// Of a prompt in chunks of `chunk`, then of single tokens: every row but of the prompt, of which the last.
struct Run {
  int batch = 1, prompt = 0, chunk = 0, steps = 0;
  std::vector<int32_t> ids;  // [batch, prompt + steps]
};

// run(step) for each step of the sequences.
template <typename RunOne>
Status ForSteps(const KvLayout& layout, const Run& r, bool all_logits, RunOne run) {
  const int total = r.prompt + r.steps;
  for (int past = 0; past < total;) {
    const int n = past < r.prompt ? std::min(r.chunk, r.prompt - past) : 1;
    std::vector<int32_t> ids;
    for (int s = 0; s < r.batch; ++s) {
      const auto first = r.ids.begin() + s * total + past;
      ids.insert(ids.end(), first, first + n);
    }
    MINIMO_TRY(run(MakeStep(layout, r.batch, past, n, total, all_logits ? n : 1, ids)));
    past += n;
  }
  return {};
}

// All tokens give logits, so that the experts of all are known; of a prompt's the last row is kept.
Result<Routed> OnCpu(const LoadedModel& model, const Run& r, DType kv, ThreadTeam& team) {
  const KvLayout layout = LayoutFor(model.spec, kv, r.batch, r.prompt + r.steps);
  const ModelSpec& spec = model.spec;
  Decoder decoder(spec, model.weights, team);
  KvStorage storage(GroupKv(spec), layout, kv);
  Routed run;
  MINIMO_TRY(ForSteps(layout, r, true, [&](const StepRecord& step) -> Status {
    const size_t vocab = static_cast<size_t>(spec.vocab), tokens = step.tokens.size();
    std::vector<float> logits(tokens * vocab);
    ForwardCapture capture;
    MINIMO_TRY(decoder.Forward(step, storage, logits.data(), &capture));
    for (const SequenceStep& s : step.sequences) {
      const auto last = logits.begin() + (s.first_token + s.num_tokens - 1) * spec.vocab;
      run.logits.insert(run.logits.end(), last, last + spec.vocab);
    }
    std::vector<int32_t>& choices = run.choices.emplace_back();
    std::vector<int64_t>& load = run.load.emplace_back();
    for (int i = 0; i < spec.num_layers(); ++i) {
      std::vector<int32_t> layer = capture.layers[i].router_index;
      layer.resize(tokens * static_cast<size_t>(spec.moe.top_k));
      choices.insert(choices.end(), layer.begin(), layer.end());
      if (!spec.layers[i].moe) continue;
      load.resize(load.size() + static_cast<size_t>(spec.moe.experts));
      for (const int32_t e : layer) ++load[load.size() - static_cast<size_t>(spec.moe.experts - e)];
    }
    return {};
  }));
  return run;
}

Result<std::unique_ptr<CudaExecutor>> ExecutorOf(const LoadedModel& model, const Run& r, bool f32, DType kv,
                                                 ThreadTeam& team) {
  CudaOptions options;
  options.f32 = f32;
  options.max_tokens = std::max(r.batch * r.chunk, r.batch);
  options.probe_routing = true;
  const KvLayout layout = LayoutFor(model.spec, kv, r.batch, r.prompt + r.steps);
  return CudaExecutor::Create(model.spec, &model.weights, layout, options, team);
}

Result<Routed> OnGpu(CudaExecutor& gpu, const Run& r, const Routed* like, float by) {
  Routed run;
  MINIMO_TRY(ForSteps(gpu.kv_layout(), r, false,
                      [&](const StepRecord& step) { return RunStep(gpu, step, like, by, &run); }));
  return run;
}

// An FP8 cache on the device against the same on the CPU, whose ways decide ties.
struct OnDevice {
  double error = 0, error_then = 0, by = 0;  // `then`: ties undecided
  int64_t elsewhere = 0, left = 0;
  bool same_bits = false;
};
Result<OnDevice> RunOnDevice(const LoadedModel& model, const Run& r, bool f32, const Routed& cpu, ThreadTeam& team) {
  MINIMO_ASSIGN(const auto gpu, ExecutorOf(model, r, f32, DType::kF8E4M3, team));
  const auto run = [&](const Routed* like, float by) { return OnGpu(*gpu, r, like, by); };
  MINIMO_ASSIGN(const Settled s, SettleTies(cpu, f32 ? kFp8CacheTie : kFp8Tie, run));
  MINIMO_ASSIGN(const Routed again, run(nullptr, 0));
  return OnDevice{RelativeError(s.last.logits, cpu.logits), RelativeError(s.free.logits, cpu.logits), s.by, s.elsewhere,
                  s.left, again.logits == s.free.logits};
}

void Compare(const std::string& name, const LoadedModel& model, const Run& r, ThreadTeam& team) {
  const auto fail = [&](const Error& error) {
    Check({{"check", "fp8 kv"}, {"model", name}, {"error", error.message}}, false);
  };
  const auto with = OnCpu(model, r, DType::kF8E4M3, team), without = OnCpu(model, r, DType::kF32, team);
  if (!with.ok() || !without.ok()) return fail(with.ok() ? without.error() : with.error());
  const double cost = RelativeError(with->logits, without->logits);
  for (const bool f32 : {true, false}) {
    const auto gpu = RunOnDevice(model, r, f32, *with, team);
    if (!gpu.ok()) return fail(gpu.error());
    const double bound = f32 ? cost / 20 : std::sqrt(2.0) * cost;
    Check({{"check", "fp8 kv"}, {"model", name}, {"dtype", f32 ? "f32" : "bf16"}, {"batch", r.batch},
           {"prompt", r.prompt}, {"chunk", r.chunk}, {"steps", r.steps}, {"error", gpu->error}, {"bound", bound},
           {"choices_elsewhere", gpu->elsewhere}, {"error_then", gpu->error_then}, {"ties_within", gpu->by},
           {"still_elsewhere", gpu->left}, {"same_bits_again", gpu->same_bits}},
          gpu->error < bound && gpu->left == 0 && gpu->same_bits);
  }
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
