// What lies between the CUDA executor and the engine, checked on a machine with a GPU:
//   gpu_engine_check rows            digests of rows against the rows, at both models' vocabularies and the nano one's
// Prints JSON lines, one a check; exits 1 if a check fails.
#include <algorithm>
#include <cmath>

#include "base/thread_team.h"
#include "cuda/cuda_executor.h"
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
        if (Failed(e.RunDigests(step, scales, false, &digests), "rows")) return;
        if (Failed(e.ReadLogits(all, &rows), "rows")) return;
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

int Main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (const auto device = cuda::FindCudaDevice(0); !device.ok()) {
    std::fprintf(stderr, "gpu_engine_check: %s\n", device.error().message.c_str());
    return 1;
  }
  if (args.size() == 1 && args[0] == "rows") {
    CheckRows();
  } else {
    std::fprintf(stderr, "usage: gpu_engine_check rows\n");
    return 2;
  }
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }
