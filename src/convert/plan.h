// What a conversion writes: output tensors in order, each with where its bytes come from, and the new config.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "models/loader.h"

namespace minimo {

enum class TargetFormat : uint8_t { kBf16, kFp8, kW4 };

inline constexpr int64_t kW4Group = 64;  // bf16 scales every 64 columns: 4.25 bits a weight

// One source tensor and the one to three tensors that it becomes. The first is streamed by rows; the others (scales,
// shape) are small and follow it.
struct ConvertedTensor {
  enum class Kind : uint8_t { kCopy, kBf16, kFp8, kInt4 };
  Kind kind = Kind::kCopy;
  int layer = -1;                    // for the report; -1: outside the layers
  TensorView source;                 // kCopy
  Weight weight;                     // else
  std::vector<TensorDeclaration> outputs;
  std::vector<std::string> sources;  // names of the source tensors it uses
};

struct ConvertPlan {
  std::vector<ConvertedTensor> tensors;
  std::vector<std::pair<size_t, size_t>> shards;  // [first, last) of `tensors`
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  std::string config;  // config.json of the output
};

// Refuses in words what cannot be: a target the source has already, an unknown tensor whose meaning would be lost.
Result<ConvertPlan> PlanConversion(const LoadedModel& model, TargetFormat target, int64_t shard_bytes);

}  // namespace minimo
