// What the programs that check the CUDA backend on a machine with GPUs share.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "kv/step.h"
#include "minimo/result.h"
#include "models/kv_layout.h"
#include "spec/model_spec.h"

namespace minimo::testing {

using Json = nlohmann::ordered_json;
inline constexpr double kFp8Bound = 6e-2;  // of activations with 3 bits of mantissa
inline int g_failures = 0;

inline void Print(const Json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

inline void Check(Json line, bool ok) {
  line["ok"] = ok;
  if (!ok) ++g_failures;
  Print(line);
}

inline bool Failed(const Status& status, const std::string& where) {
  if (status.ok()) return false;
  Check({{"check", where}, {"error", status.error().message}}, false);
  return true;
}

// ||got - expected|| / ||expected||; NaN counts as infinite.
inline double RelativeError(std::span<const float> got, std::span<const float> expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
    norm += double{expected[i]} * expected[i];
  }
  const double error = std::sqrt(difference / norm);
  return std::isnan(error) ? INFINITY : error;
}

inline KvLayout LayoutFor(const ModelSpec& spec, DType kv_dtype, int sequences, int tokens_each) {
  KvLayout layout = MakeKvLayout(spec, kv_dtype, 16);
  const int blocks = (tokens_each + 15) / 16;
  layout.num_blocks = sequences * blocks;
  layout.num_rings = layout.ring_tokens > 0 ? sequences : 0;
  return layout;
}

inline KvLayout LayoutFor(const ModelSpec& spec, bool f32, int sequences, int tokens_each) {
  return LayoutFor(spec, f32 ? DType::kF32 : DType::kBf16, sequences, tokens_each);
}

// Step of `sequences` sequences with n new tokens each, blocks dealt out in an interleaved order.
inline StepRecord MakeStep(const KvLayout& layout, int sequences, int past, int n, int tokens_each, int logits,
                    std::span<const int32_t> ids) {
  StepRecord step;
  const int blocks = (tokens_each + layout.block_size - 1) / layout.block_size;
  for (int s = 0; s < sequences; ++s) {
    step.sequences.push_back({static_cast<int32_t>(step.tokens.size()), n, past,
                              static_cast<int32_t>(step.block_tables.size()), blocks,
                              layout.num_rings > 0 ? s : -1, logits});
    for (int b = 0; b < blocks; ++b) step.block_tables.push_back(b * sequences + s);
    step.tokens.insert(step.tokens.end(), ids.begin() + s * n, ids.begin() + (s + 1) * n);
  }
  return step;
}

// The same for sequences that bring different numbers of tokens at different places, the first of `sequences`.
struct Part {
  int past, n;
};
inline StepRecord MakeStep(const KvLayout& layout, std::span<const Part> parts, int sequences, int tokens_each,
                           std::span<const int32_t> ids) {
  StepRecord step;
  const int blocks = (tokens_each + layout.block_size - 1) / layout.block_size;
  for (int s = 0; s < static_cast<int>(parts.size()); ++s) {
    step.sequences.push_back({static_cast<int32_t>(step.tokens.size()), parts[s].n, parts[s].past,
                              static_cast<int32_t>(step.block_tables.size()), blocks,
                              layout.num_rings > 0 ? s : -1, 1});
    for (int b = 0; b < blocks; ++b) step.block_tables.push_back(b * sequences + s);
    const auto at = static_cast<int64_t>(step.tokens.size());
    step.tokens.insert(step.tokens.end(), ids.begin() + at, ids.begin() + at + parts[s].n);
  }
  return step;
}

inline std::vector<int> Numbers(const std::string& text) {
  std::vector<int> numbers;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) numbers.push_back(std::stoi(part));
  return numbers;
}

}  // namespace minimo::testing
