// What a conversion costs on a text: the source's and the output's predictions, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "minimo/result.h"

namespace minimo {

struct TextQuality {
  int64_t tokens = 0;            // predicted
  double source_perplexity = 0;
  double perplexity = 0;         // of the output
  double kl_divergence = 0;      // of the output's distribution from the source's, mean nats a token
  double same_choice = 0;        // share of the tokens where both find the same one most likely
};

struct TextOptions {
  int context = 512;  // tokens a window; each begins anew
  int threads = 0;
};

// Runs both checkpoints over the ids in float32. `progress` is told tokens done and in all; returning false stops.
Result<TextQuality> CompareOnText(const std::string& source, const std::string& output, std::span<const int32_t> ids,
                                  const TextOptions& options, const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace minimo
