// The cost of one choice at a vocabulary of 200,064 (MiniMax-M2's), on a row like a language model's: a heavy tail
// with a few likely tokens.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>

#include "sampling/sampler.h"

namespace minimo {
namespace {

constexpr size_t kVocab = 200064;

std::vector<float> Row(float spread) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> x(kVocab);
  for (float& v : x) v = normal(rng);
  for (int i = 0; i < 50; ++i) x[rng() % kVocab] += 6 * spread;
  return x;
}

void RunRow(benchmark::State& state, const SamplingParams& params, float spread = 2) {
  std::vector<float> logits = Row(spread);
  SequenceSampler sequence(params, std::vector<int32_t>{1}, {});
  for (auto _ : state) {
    SampleRow row{logits, &sequence};
    SampleBatch({&row, 1}, nullptr);
    if (!row.status.ok()) state.SkipWithError(row.status.error().message.c_str());
    benchmark::DoNotOptimize(row.token.token);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kVocab * sizeof(float)));
}

void Greedy(benchmark::State& state) {
  SamplingParams params;
  params.temperature = 0;
  RunRow(state, params);
}
BENCHMARK(Greedy);

void Temperature(benchmark::State& state) { RunRow(state, {}); }
BENCHMARK(Temperature);

void TopK40TopP95(benchmark::State& state) {
  SamplingParams params;
  params.top_k = 40;
  params.top_p = 0.95;
  RunRow(state, params);
}
BENCHMARK(TopK40TopP95);

void TopP95(benchmark::State& state) {
  SamplingParams params;
  params.top_p = 0.95;
  RunRow(state, params);
}
BENCHMARK(TopP95);

void TopP95OfAFlatRow(benchmark::State& state) {
  SamplingParams params;
  params.top_p = 0.95;
  RunRow(state, params, 0.3f);
}
BENCHMARK(TopP95OfAFlatRow);

void MinP(benchmark::State& state) {
  SamplingParams params;
  params.min_p = 0.05;
  RunRow(state, params);
}
BENCHMARK(MinP);

void GreedyWithTwentyLogprobs(benchmark::State& state) {
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = 20;
  RunRow(state, params);
}
BENCHMARK(GreedyWithTwentyLogprobs);

}  // namespace
}  // namespace minimo

BENCHMARK_MAIN();
