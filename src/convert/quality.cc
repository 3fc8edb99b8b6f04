#include "convert/quality.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log_sum_exp.h"
#include "base/thread_team.h"
#include "models/offline_runner.h"

namespace minimo {
namespace {

constexpr size_t kChunk = 64;  // tokens a step: 51 MB of logits a model at 200,064 tokens

struct Sums {
  int64_t tokens = 0;
  double source_nll = 0, nll = 0, kl = 0;
  int64_t same = 0;

  // Logits of one position of both models, and the token that follows in the text.
  void Add(std::span<const float> source, std::span<const float> output, int32_t next) {
    const double source_log = LogSumExp(source), output_log = LogSumExp(output);
    source_nll += source_log - source[next];
    nll += output_log - output[next];
    for (size_t v = 0; v < source.size(); ++v) {
      const double log_p = source[v] - source_log, log_q = output[v] - output_log;
      kl += std::exp(log_p) * (log_p - log_q);
    }
    const auto best = [](std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); };
    same += best(source) == best(output);
    ++tokens;
  }
};

}  // namespace

Result<TextQuality> CompareOnText(const std::string& source, const std::string& output, std::span<const int32_t> ids,
                                  const TextOptions& options, const std::function<bool(int64_t, int64_t)>& progress) {
  MINIMO_ASSIGN(const LoadedModel from, LoadModel(source));
  MINIMO_ASSIGN(const LoadedModel to, LoadModel(output));
  if (ids.size() < 2) return Errorf("the text has {} tokens, expected at least 2", ids.size());
  ThreadTeam team(options.threads);
  const auto context = static_cast<size_t>(std::min(options.context, from.spec.max_positions));
  OfflineRunner a(from, team, DType::kF32, static_cast<int>(context));
  OfflineRunner b(to, team, DType::kF32, static_cast<int>(context));
  const auto vocab = static_cast<size_t>(from.spec.vocab);
  Sums sums;
  for (size_t window = 0; window + 1 < ids.size(); window += context) {
    const std::span<const int32_t> text = ids.subspan(window, std::min(context, ids.size() - window));
    a.Reset();
    b.Reset();
    for (size_t at = 0; at + 1 < text.size(); at += kChunk) {
      const auto chunk = text.subspan(at, std::min(kChunk, text.size() - at));
      const auto x = a.Append(chunk, static_cast<int>(chunk.size())),
                 y = b.Append(chunk, static_cast<int>(chunk.size()));
      for (size_t i = 0; i < chunk.size() && at + i + 1 < text.size(); ++i) {
        sums.Add(x.subspan(i * vocab, vocab), y.subspan(i * vocab, vocab), text[at + i + 1]);
      }
      if (progress && !progress(static_cast<int64_t>(window + at + chunk.size()), static_cast<int64_t>(ids.size()))) {
        return Error{"stopped; the conversion is whole, the same command compares again"};
      }
    }
  }
  const auto n = static_cast<double>(sums.tokens);
  return TextQuality{sums.tokens, std::exp(sums.source_nll / n), std::exp(sums.nll / n), sums.kl / n,
                     static_cast<double>(sums.same) / n};
}

}  // namespace minimo
