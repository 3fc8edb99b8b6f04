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
#include "tests/gpu/router_nudge.h"
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
// moved until they do not (a token a step; else nothing is moved), which must not change what float32 computes.
void CheckRouting(const std::string& name, const std::string& folder, const std::string& golden, size_t chunk,
                  ThreadTeam& team) {
  auto model = LoadModel(folder);
  auto file = SafetensorsFile::Open(golden);
  if (!model.ok() || !file.ok()) return Check({{"check", name}, {"error", "cannot load"}}, false);
  for (const auto& [tensor, view] : file->tensors()) {
    const std::string key = "input_ids";
    if (!tensor.ends_with(key)) continue;
    const std::vector<int32_t> ids(view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape));
    const TensorView& expected = file->tensors().at(tensor.substr(0, tensor.size() - key.size()) + "logits");
    const auto size = static_cast<size_t>(NumElements(expected.shape));
    const auto error = [&](const Traced& t) {
      return RelativeError({t.logits.data() + t.logits.size() - size, size}, {expected.As<float>(), size});
    };
    LoadedModel nudged = *model;  // the weights are shared, the biases are not
    const auto n = NudgeRouters(&nudged, 2e-4f, chunk > 1 ? 0 : 24, [&](bool f32) -> Result<Traced> {
      CudaOptions options;
      options.f32 = f32;
      options.max_tokens = 1024;
      MINIMO_ASSIGN(auto executor, CudaExecutor::Create(nudged.spec, &nudged.weights,
                                                        LayoutFor(nudged.spec, f32, 1, 1024), options, team));
      return Trace(*executor, ids, chunk);
    });
    if (!n.ok()) return Check({{"check", name}, {"error", n.error().message}}, false);
    const bool unmoved = error(n->exact) < 1e-4;
    Check({{"check", "routing"}, {"model", name}, {"case", tensor}, {"tokens_a_step", chunk}, {"error", error(n->first)},
           {"flipped", n->flipped}, {"bias_moved", n->moved}, {"rounds", n->rounds}, {"flipped_after", n->left},
           {"error_after", error(n->last)}, {"float32_unmoved", unmoved}},
          (n->flipped > 0 || error(n->first) < 1e-2) && (chunk > 1 || n->left > 0 || error(n->last) < 1e-2));
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
