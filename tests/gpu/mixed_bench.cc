#include "tests/gpu/mixed_bench.h"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <vector>

#include "base/thread_team.h"
#include "tests/gpu/check_support.h"

namespace minimo::testing {

void BenchMixed(BenchModel b, const std::string& format, const std::string& steps, bool fp8_cache) {
  constexpr int kContext = 945, kPrompt = 900, kTokensEach = 960;
  ThreadTeam team(0);
  struct Mix {
    int decoding, tokens;
    std::vector<Part> parts;
  };
  std::vector<Mix> mixes;
  size_t sequences = 0;
  int decoding = 0;
  b.options.max_tokens = kContext;
  for (std::stringstream stream(steps); stream.good();) {
    std::string text;
    std::getline(stream, text, ',');
    Mix m{std::stoi(text), std::stoi(text.substr(text.find('+') + 1)), {}};
    m.parts.assign(static_cast<size_t>(m.decoding), {kContext, 1});
    for (int at = 0; at < m.tokens; at += kPrompt) m.parts.push_back({0, std::min(kPrompt, m.tokens - at)});
    sequences = std::max(sequences, m.parts.size()), decoding = std::max(decoding, m.decoding);
    b.options.max_tokens = std::max(b.options.max_tokens, m.decoding + m.tokens);
    mixes.push_back(m);
  }
  b.options.fp8_prefill = true;
  const KvLayout layout =
      LayoutFor(b.spec, fp8_cache ? DType::kF8E4M3 : DType::kBf16, static_cast<int>(sequences), kTokensEach);
  auto made = cuda::CudaExecutor::Create(b.spec, nullptr, layout, b.options, team);
  if (!made.ok()) return Check({{"check", "mixed " + b.name}, {"error", made.error().message}}, false);
  std::vector<int32_t> ids;
  for (int i = 0; i < std::max(b.options.max_tokens, kContext * decoding); ++i) {
    ids.push_back(static_cast<int32_t>((int64_t{i} * 7919 + 13) % b.spec.vocab));
  }
  std::vector<const cuda::RowDigest*> digests;
  for (int s = 0; s < decoding; ++s) {  // what those that decode have read
    StepRecord step = MakeStep(layout, 1, 0, kContext, kTokensEach, 1, std::span(ids).subspan(s * kContext));
    if (step.sequences[0].ring >= 0) step.sequences[0].ring = s;
    for (size_t i = 0; i < step.block_tables.size(); ++i) {
      step.block_tables[i] = static_cast<int32_t>(i * sequences) + s;
    }
    const float scale = 0;
    if (Failed((*made)->RunDigests(step, {&scale, 1}, false, &digests), "mixed")) return;
  }
  for (const Mix& m : mixes) {
    const StepRecord step = MakeStep(layout, m.parts, static_cast<int>(sequences), kTokensEach, ids);
    const std::vector<float> scales(m.parts.size());
    const std::vector<int64_t> before = (*made)->GetExpertLoad().counts;
    std::vector<double> times;
    for (int repeat = 0; repeat < 7; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      if (Failed((*made)->RunDigests(step, scales, false, &digests), "mixed")) return;
      if (repeat > 1) times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    std::sort(times.begin(), times.end());
    const cuda::CudaExpertLoad load = (*made)->GetExpertLoad();
    int64_t used = 0;
    for (size_t i = 0; i < before.size(); ++i) used += load.counts[i] > before[i];
    Print({{"bench", "mixed"}, {"model", b.name}, {"layers", b.spec.num_layers()}, {"format", format},
           {"cache", fp8_cache ? "fp8" : "bf16"}, {"decoding", m.decoding}, {"prompt_tokens", m.tokens},
           {"experts_used_a_layer", static_cast<double>(used) / load.layers}, {"ms", times[2] * 1e3},
           {"ms_min", times[0] * 1e3}, {"ms_max", times[4] * 1e3}});
  }
}

}  // namespace minimo::testing
