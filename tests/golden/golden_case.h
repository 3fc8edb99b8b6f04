// The golden files: what the reference implementation computes for a checkpoint, case by case.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "models/loader.h"
#include "models/offline_runner.h"
#include "tests/support/shared.h"

namespace minimo::testing {

inline constexpr double kLogitBound = 5e-4;   // issue: largest absolute difference in float32
inline constexpr double kHiddenBound = 5e-4;
inline constexpr double kWeightBound = 1e-4;

// A checkpoint and its golden file.
struct GoldenModel {
  std::string name;
  std::string folder;
  std::string golden;
};

inline std::vector<GoldenModel> GoldenModels() {
  const auto shared = SharedDir();
  std::vector<GoldenModel> models;
  for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    models.push_back({nano, (RepoDir() / "models" / nano).string(),
                      (shared / "golden" / nano / "golden.safetensors").string()});
  }
  for (const char* random : {"mimo-a", "mimo-b", "mimo-c", "mimo-hub", "minimax-a", "minimax-b", "minimax-c"}) {
    const auto folder = shared / "golden" / "random" / random;
    models.push_back({random, folder.string(), (folder / "golden.safetensors").string()});
  }
  return models;
}

struct GoldenCase {
  std::string prefix;  // "" or "case3."
  std::vector<int32_t> input_ids;
};

inline std::vector<int32_t> Ids(const TensorView& view) {
  CHECK(view.dtype == DType::kI32);
  return {view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape)};
}

inline std::vector<GoldenCase> GoldenCases(const SafetensorsFile& file) {
  constexpr std::string_view kKey = "input_ids";
  std::vector<GoldenCase> cases;
  for (const auto& [name, view] : file.tensors()) {
    if (name.size() >= kKey.size() && name.ends_with(kKey) && !name.ends_with("prompt_ids")) {
      cases.push_back({name.substr(0, name.size() - kKey.size()), Ids(view)});
    }
  }
  return cases;
}

// Logits of every position, fed in chunks of the given size (0: at once).
inline std::vector<float> AllLogits(OfflineRunner& runner, const std::vector<int32_t>& ids, size_t chunk,
                                    ForwardCapture* capture = nullptr) {
  runner.Reset();
  std::vector<float> logits;
  const size_t step = chunk == 0 ? ids.size() : chunk;
  for (size_t at = 0; at < ids.size(); at += step) {
    const size_t count = std::min(step, ids.size() - at);
    const auto part = runner.Append({ids.data() + at, count}, static_cast<int>(count), capture);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

// Largest absolute difference of `got`'s last rows to the golden tensor (which may hold the last positions only).
inline double MaxDifference(const std::vector<float>& got, const TensorView& golden) {
  const size_t count = static_cast<size_t>(NumElements(golden.shape));
  CHECK(got.size() >= count);
  const float* tail = got.data() + (got.size() - count);
  double worst = 0;
  for (size_t i = 0; i < count; ++i) {
    const double difference = std::fabs(double{tail[i]} - golden.As<float>()[i]);
    if (!(difference <= worst)) worst = difference;  // NaN counts as worst
  }
  return worst;
}

}  // namespace minimo::testing
