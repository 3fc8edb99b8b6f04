// What lies between the CUDA executor and the engine, checked on a machine with a GPU:
//   gpu_engine_check rows            digests of rows against the rows, at both models' vocabularies and the nano one's
//   gpu_engine_check routing SHARED MODELS   are bf16's errors on the golden checkpoints flipped experts?
// Prints JSON lines, one a check; exits 1 if a check fails.
#include <algorithm>
#include <cmath>
#include <map>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "cuda/cuda_executor.h"
#include "models/loader.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;
using cuda::RowDigest;

// Everything a digest says, from the row: "" or what is wrong.
std::string Wrong(const RowDigest& d, std::span<const float> row, float scale) {
  const auto best = std::max_element(row.begin(), row.end());
  if (d.bad != 0 || d.max != *best || d.argmax != best - row.begin()) return "the best";
  double sum = 0, mass = 0;
  for (const float x : row) {
    sum += std::exp(double{x} - d.max);
    mass += std::exp((double{x} - d.max) * scale);
  }
  if (std::fabs(d.sum / sum - 1) > 1e-5) return "the sum";
  if (scale == 0) return d.count == 0 ? "" : "candidates nobody asked for";
  if (std::fabs(d.mass / mass - 1) > 1e-5) return "the mass";
  const auto reach = std::count_if(row.begin(), row.end(), [&](float x) { return x >= d.floor; });
  if (reach < cuda::DigestWanted(static_cast<int>(row.size()))) return "the floor";
  if (d.count != (reach <= cuda::kDigestCapacity ? reach : 0)) return "the count";
  for (int i = 0; i < d.count; ++i) {
    if (d.values[i] != row[static_cast<size_t>(d.tokens[i])]) return "a value";
    if (i > 0 && (d.values[i] > d.values[i - 1] || (d.values[i] == d.values[i - 1] && d.tokens[i] < d.tokens[i - 1]))) {
      return "the order";
    }
  }
  return "";
}

// Decode and prefill rows, alone and several, with and without the step begun early: the digests of a step are those of
// its rows, and a step begun early gives what the same step gives when it is asked for.
void CheckRows() {
  ThreadTeam team(0);
  for (const int vocab : {2112, 152576, 200064}) {
    CudaOptions options;
    options.random_weights = true;
    options.max_tokens = 64;
    const ModelSpec spec = M2Spec(1, 16, vocab);
    const KvLayout layout = LayoutFor(spec, false, 16, 64);
    auto made = CudaExecutor::Create(spec, nullptr, layout, options, team);
    if (!made.ok()) return Check({{"check", "rows"}, {"error", made.error().message}}, false);
    CudaExecutor& e = **made;
    for (const int batch : {1, 3, 16}) {
      std::string wrong;
      int kept = 0;
      std::vector<int32_t> ids;
      for (int i = 0; i < batch; ++i) ids.push_back((i * 977 + 5) % vocab);
      std::vector<float> scales;
      for (int i = 0; i < batch; ++i) scales.push_back(i % 3 == 0 ? 0.0f : 0.5f * static_cast<float>(i % 4 + 1));
      if (batch == 1) scales[0] = 1.25f;
      std::vector<const RowDigest*> digests;
      std::vector<int32_t> all(static_cast<size_t>(batch)), next(static_cast<size_t>(batch));
      for (int i = 0; i < batch; ++i) all[static_cast<size_t>(i)] = i;
      const std::vector<float> greedy(static_cast<size_t>(batch), 0.0f);
      for (int past = 0; past < 6 && wrong.empty(); ++past) {
        const StepRecord step = MakeStep(layout, batch, past, 1, 64, 1, ids);
        std::span<float> rows;
        if (Failed(e.RunDigests(step, scales, false, &digests), "rows") || Failed(e.ReadLogits(all, &rows), "rows")) return;
        const std::vector<float> kept_rows(rows.begin(), rows.end());
        for (int i = 0; i < batch && wrong.empty(); ++i) {
          wrong = Wrong(*digests[static_cast<size_t>(i)],
                        std::span(kept_rows).subspan(static_cast<size_t>(i) * vocab, static_cast<size_t>(vocab)),
                        scales[static_cast<size_t>(i)]);
          kept += digests[static_cast<size_t>(i)]->count;
          next[static_cast<size_t>(i)] = digests[static_cast<size_t>(i)]->argmax;
        }
        // The same step again, the next begun on the device; then the next, begun or asked for.
        std::vector<int32_t> early, late;
        for (std::vector<int32_t>* tokens : {&early, &late}) {
          if (Failed(e.RunDigests(step, greedy, tokens == &early, &digests), "rows")) return;
          const StepRecord after = MakeStep(layout, batch, past + 1, 1, 64, 1, next);
          if (Failed(e.RunDigests(after, greedy, false, &digests), "rows")) return;
          for (const RowDigest* d : digests) tokens->push_back(d->argmax);
        }
        if (early != late) wrong = "the step begun early";
        ids = next;
      }
      Check({{"check", "digests of rows"}, {"vocab", vocab}, {"batch", batch}, {"candidates", kept}, {"wrong", wrong}},
            wrong.empty());
    }
  }
}

// Experts of each call: [calls][layers * experts] tokens more than before it.
struct Traced {
  std::vector<float> logits;
  std::vector<std::vector<int64_t>> routed;
};

Result<Traced> Trace(CudaExecutor& executor, const std::vector<int32_t>& ids, size_t chunk) {
  Traced traced;
  auto before = executor.GetExpertLoad().counts;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t n = std::min(chunk, ids.size() - at);
    const StepRecord step = MakeStep(executor.kv_layout(), 1, static_cast<int>(at), static_cast<int>(n),
                                     static_cast<int>(ids.size()), static_cast<int>(n), {ids.data() + at, n});
    std::span<float> out;
    MINIMO_TRY(executor.Run(step, &out));
    traced.logits.insert(traced.logits.end(), out.begin(), out.end());
    const auto after = executor.GetExpertLoad().counts;
    std::vector<int64_t> routed(after.size());
    for (size_t i = 0; i < after.size(); ++i) routed[i] = after[i] - before[i];
    traced.routed.push_back(std::move(routed));
    before = after;
  }
  return traced;
}

// bf16 against the golden logits; where tokens went to other experts than in float32, the biases of these experts are
// moved by `step` until they do not, which changes no weight and no float32 routing: what is left is arithmetic.
void CheckRouting(const std::string& name, const std::string& folder, const std::string& golden, size_t chunk,
                  ThreadTeam& team) {
  auto model = LoadModel(folder);
  auto file = SafetensorsFile::Open(golden);
  if (!model.ok() || !file.ok()) return Check({{"check", name}, {"error", "cannot load"}}, false);
  std::vector<int> moe;
  for (int i = 0; i < model->spec.num_layers(); ++i) {
    if (model->spec.layers[i].moe) moe.push_back(i);
  }
  const auto experts = static_cast<size_t>(model->spec.moe.experts);
  const auto make = [&](bool f32) {
    CudaOptions options;
    options.f32 = f32;
    options.max_tokens = 1024;
    return CudaExecutor::Create(model->spec, &model->weights, LayoutFor(model->spec, f32, 1, 1024), options, team);
  };
  for (const auto& [tensor, view] : file->tensors()) {
    const std::string key = "input_ids";
    if (!tensor.ends_with(key)) continue;
    const std::vector<int32_t> ids(view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape));
    const TensorView& expected = file->tensors().at(tensor.substr(0, tensor.size() - key.size()) + "logits");
    const auto size = static_cast<size_t>(NumElements(expected.shape));
    const std::span<const float> want(expected.As<float>(), size);
    const auto biases = [&] {
      std::vector<Vector> all;
      for (const int layer : moe) all.push_back(model->weights.layers[static_cast<size_t>(layer)].router_bias);
      return all;
    }();
    auto exact = make(true);
    if (!exact.ok()) return Check({{"check", name}, {"error", exact.error().message}}, false);
    auto reference = Trace(**exact, ids, chunk);
    if (!reference.ok()) return Check({{"check", name}, {"error", reference.error().message}}, false);
    int64_t flips = 0, left = 0;
    double first = 0, last = 0, moved = 0;
    int rounds = 0;
    bool same_reference = true;
    for (; rounds < 24; ++rounds) {
      auto rounded = make(false);
      if (!rounded.ok()) return Check({{"check", name}, {"error", rounded.error().message}}, false);
      auto traced = Trace(**rounded, ids, chunk);
      if (!traced.ok()) return Check({{"check", name}, {"error", traced.error().message}}, false);
      last = RelativeError({traced->logits.data() + traced->logits.size() - size, size}, want);
      left = 0;
      std::vector<double> push(moe.size() * experts, 0.0);
      for (size_t call = 0; call < traced->routed.size(); ++call) {
        for (size_t i = 0; i < push.size(); ++i) {
          const int64_t missing = reference->routed[call][i] - traced->routed[call][i];
          left += std::max<int64_t>(missing, 0);
          if (missing != 0) push[i] += missing > 0 ? 1 : -1;
        }
      }
      if (rounds == 0) flips = left, first = last;
      if (left == 0 || chunk > 1) break;
      // The earliest layer first: what follows it is a consequence.
      for (size_t layer = 0; layer < moe.size(); ++layer) {
        bool any = false;
        for (size_t e = 0; e < experts; ++e) {
          if (push[layer * experts + e] == 0) continue;
          any = true;
          float& bias = model->weights.layers[static_cast<size_t>(moe[layer])].router_bias[e];
          bias += push[layer * experts + e] > 0 ? 2e-4f : -2e-4f;
          moved = std::max(moved, std::fabs(double{bias} - biases[layer][e]));
        }
        if (any) break;
      }
    }
    if (rounds > 0) {
      auto moved_exact = make(true);
      auto again = moved_exact.ok() ? Trace(**moved_exact, ids, chunk) : Result<Traced>(moved_exact.error());
      same_reference = again.ok() && again->routed == reference->routed &&
                       RelativeError({again->logits.data() + again->logits.size() - size, size}, want) < 1e-4;
    }
    for (size_t layer = 0; layer < moe.size(); ++layer) {
      model->weights.layers[static_cast<size_t>(moe[layer])].router_bias = biases[layer];
    }
    Check({{"check", "routing"}, {"model", name}, {"case", tensor}, {"tokens_a_step", chunk}, {"error", first},
           {"flipped", flips}, {"bias_moved", moved}, {"rounds", rounds}, {"flipped_after", left},
           {"error_after", last}, {"float32_unmoved", same_reference}},
          (flips > 0 || first < 1e-2) && (chunk > 1 || left > 0 || last < 1e-2));
  }
}

void Routing(const std::string& shared, const std::string& models) {
  ThreadTeam team(0);
  for (const size_t chunk : {size_t{1}, size_t{1024}}) {
    for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
      CheckRouting(nano, models + "/" + nano, shared + "/golden/" + nano + "/golden.safetensors", chunk, team);
    }
    for (const char* random : {"mimo-a", "mimo-b", "mimo-c", "mimo-hub", "minimax-a", "minimax-b", "minimax-c"}) {
      const std::string folder = shared + "/golden/random/" + random;
      CheckRouting(random, folder, folder + "/golden.safetensors", chunk, team);
    }
  }
}

int Main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (const auto device = cuda::FindCudaDevice(0); !device.ok()) {
    std::fprintf(stderr, "gpu_engine_check: %s\n", device.error().message.c_str());
    return 1;
  }
  if (args.size() == 1 && args[0] == "rows") {
    CheckRows();
  } else if (args.size() == 3 && args[0] == "routing") {
    Routing(args[1], args[2]);
  } else {
    std::fprintf(stderr, "usage: gpu_engine_check rows | routing SHARED MODELS\n");
    return 2;
  }
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }
