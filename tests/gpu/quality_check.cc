// What activations in e4m3 cost a trained model: perplexity and KL divergence of whole prompts, beside bf16 and
// float32.
#include "tests/gpu/quality_check.h"

#include <cmath>

#include "base/thread_team.h"
#include "cuda/cuda_executor.h"
#include "models/loader.h"
#include "tests/gpu/check_support.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

std::vector<std::vector<int32_t>> TextsOf(const std::string& path) {
  std::vector<std::vector<int32_t>> texts;
  std::FILE* f = std::fopen(path.c_str(), "rb");
  if (f == nullptr) return texts;
  std::string text(size_t{1} << 22, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  const auto json = Json::parse(text, nullptr, false);
  for (const auto& c : json.is_array() ? json : json.value("cases", Json::array())) {
    auto ids = c["prompt_ids"].get<std::vector<int32_t>>();
    for (const int32_t id : c["greedy_ids"].get<std::vector<int32_t>>()) ids.push_back(id);
    texts.push_back(std::move(ids));
  }
  return texts;
}

std::vector<double> LogProbabilities(std::span<const float> logits) {
  double most = -INFINITY, sum = 0;
  for (const float x : logits) most = std::max(most, double{x});
  for (const float x : logits) sum += std::exp(x - most);
  std::vector<double> p(logits.size());
  for (size_t i = 0; i < p.size(); ++i) p[i] = logits[i] - most - std::log(sum);
  return p;
}

}  // namespace

void CheckQuality(const std::string& name, const std::string& folder, const std::string& cases) {
  ThreadTeam team(0);
  auto model = LoadModel(folder);
  const auto texts = TextsOf(cases);
  if (!model.ok() || texts.empty()) return Check({{"check", name}, {"error", "cannot load"}}, false);
  std::vector<std::vector<float>> exact;  // of each text, float32
  for (const char* kind : {"f32", "bf16", "fp8"}) {
    CudaOptions options;
    options.f32 = std::string(kind) == "f32";
    options.fp8_prefill = std::string(kind) == "fp8";
    options.max_tokens = 1024;
    auto executor =
        CudaExecutor::Create(model->spec, &model->weights, LayoutFor(model->spec, options.f32, 1, 1024), options, team);
    if (Failed(executor.ok() ? Status() : executor.error(), name)) return;
    const size_t vocab = static_cast<size_t>(model->spec.vocab);
    double loss = 0, divergence = 0, difference = 0, norm = 0;
    int64_t tokens = 0, same_choice = 0;
    for (size_t t = 0; t < texts.size(); ++t) {
      const int n = static_cast<int>(texts[t].size());
      const StepRecord step = MakeStep((*executor)->kv_layout(), 1, 0, n, n, n, texts[t]);
      std::span<float> out;
      if (Failed((*executor)->Run(step, &out), name)) return;
      if (options.f32) exact.emplace_back(out.begin(), out.end());
      for (size_t i = 0; i + 1 < static_cast<size_t>(n); ++i) {
        const std::span<const float> want(exact[t].data() + i * vocab, vocab), got(out.data() + i * vocab, vocab);
        const auto p = LogProbabilities(want), q = LogProbabilities(got);
        loss -= q[static_cast<size_t>(texts[t][i + 1])];
        for (size_t v = 0; v < vocab; ++v) divergence += std::exp(p[v]) * (p[v] - q[v]);
        same_choice += std::max_element(want.begin(), want.end()) - want.begin() ==
                       std::max_element(got.begin(), got.end()) - got.begin();
        for (size_t v = 0; v < vocab; ++v) {
          difference += (got[v] - want[v]) * (got[v] - want[v]), norm += want[v] * want[v];
        }
        ++tokens;
      }
    }
    const double mean = divergence / static_cast<double>(tokens);
    Check({{"check", "quality"}, {"model", name}, {"prefill_activations", kind}, {"tokens", tokens},
           {"perplexity", std::exp(loss / static_cast<double>(tokens))}, {"mean_kl", mean},
           {"same_choice", static_cast<double>(same_choice) / static_cast<double>(tokens)},
           {"logits_relative_error", std::sqrt(difference / norm)}},
          mean < 0.05);
  }
}

}  // namespace minimo::testing
