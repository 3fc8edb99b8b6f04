// A router that stands at a tie sends a rounded run to other experts than an exact one, and from there on the two
// compute different functions. To compare what rounding does to one function, the rounded run has the exact run's
// experts favoured (CudaExecutor::Favour): where its scores of two experts are closer than `by` the exact run's choice
// decides, elsewhere its own. So a run that goes other ways even then has a fault larger than a tie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/cuda_executor.h"
#include "kv/step.h"
#include "minimo/result.h"

namespace minimo::testing {

// Scores are sigmoids: in [0.5, 1) bf16 numbers stand 2^-8 apart, e4m3 numbers 2^-4. A run with activations in such a
// format cannot tell closer ones apart.
inline constexpr float kBf16Tie = 0x1p-8f, kFp8Tie = 0x1p-4f;
// Of float32 runs whose caches hold the same e4m3 codes but for a few values at the edge between two, 1/16 apart. On
// the CPU, norm weights moved by a last place change a few such values and logits by 2e-4 to 6e-4; a sigmoid passes on
// a quarter of that.
inline constexpr float kFp8CacheTie = 0x1p-12f;

struct Routed {
  std::vector<float> logits;                   // of all steps
  std::vector<std::vector<int32_t>> choices;   // of each step: [layers, tokens, top_k]
  std::vector<std::vector<int64_t>> load;      // of each step: tokens of [moe layers, experts]
};

// Appends what `executor`, made with probe_routing, makes of the step. `like`: that run's choices of this step are
// favoured.
inline Status RunStep(cuda::CudaExecutor& executor, const StepRecord& step, const Routed* like, float by, Routed* run) {
  MINIMO_TRY(executor.Favour(like != nullptr ? like->choices[run->load.size()] : std::vector<int32_t>(), by));
  std::vector<int64_t> load = executor.GetExpertLoad().counts;
  std::span<float> out;
  MINIMO_TRY(executor.Run(step, &out));
  run->logits.insert(run->logits.end(), out.begin(), out.end());
  const std::vector<int64_t> after = executor.GetExpertLoad().counts;
  for (size_t i = 0; i < load.size(); ++i) load[i] = after[i] - load[i];
  run->load.push_back(std::move(load));
  MINIMO_ASSIGN(run->choices.emplace_back(), executor.Choices());
  return {};
}

// Choices of tokens, counted by expert, that the two runs do not share.
inline int64_t Elsewhere(const Routed& a, const Routed& b) {
  int64_t count = 0;
  for (size_t step = 0; step < a.load.size(); ++step) {
    for (size_t i = 0; i < a.load[step].size(); ++i) count += std::max<int64_t>(a.load[step][i] - b.load[step][i], 0);
  }
  return count;
}

struct Settled {
  Routed free, last;              // the rounded run without favour and with it
  int64_t elsewhere = 0, left = 0;  // choices other than the exact run's, without and with favour
  double by = 0;                  // the favour that sufficed, or the largest tried
};

// run(like, by) is the rounded run. The least favour of most / 8, / 4, / 2 and most with which it goes `exact`'s ways.
template <typename Run>
Result<Settled> SettleTies(const Routed& exact, float most, Run run) {
  Settled s;
  MINIMO_ASSIGN(s.free, run(nullptr, 0.0f));
  s.last = s.free;
  s.elsewhere = s.left = Elsewhere(exact, s.free);
  for (float by = most / 8; s.left > 0 && 0 < by && by <= most; by *= 2) {
    MINIMO_ASSIGN(s.last, run(&exact, by));
    s.left = Elsewhere(exact, s.last);
    s.by = by;
  }
  return s;
}

}  // namespace minimo::testing
