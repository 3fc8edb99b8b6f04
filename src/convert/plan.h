// What a conversion writes: output tensors in order, each with where its bytes come from, and the new config.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "models/loader.h"

namespace minimo {

enum class TargetFormat : uint8_t { kAsIs, kBf16, kFp8, kW4 };

struct ConvertRequest {
  TargetFormat target = TargetFormat::kAsIs;
  int tensor_parallel_size = 0;  // > 0: one file set for each of so many ranks
  int expert_parallel_size = 0;  // shares of the experts among them, a divisor of the ranks; 0: as run chooses
  bool released_keys = false;    // bf16: config.json's keys as released, without those that transformers reads instead
};

// One source tensor, or a rank's part of it, and the one to three tensors that it becomes. The first is streamed by
// rows; the others (scales, shape) are small and follow it.
struct ConvertedTensor {
  enum class Kind : uint8_t { kCopy, kBf16, kFp8, kInt4 };
  Kind kind = Kind::kCopy;
  int layer = -1;  // for the report; -1: outside the layers
  int rank = 0;    // whose file set it goes to; 0 if there is one
  // kCopy: rows of row_bytes each, `stride` bytes apart in the source.
  struct Rows {
    const std::byte* data = nullptr;
    int64_t rows = 0;
    int64_t row_bytes = 0;
    int64_t stride = 0;
  };
  Rows source;
  Weight weight;        // the other kinds
  std::vector<TensorDeclaration> outputs;
  std::vector<std::shared_ptr<const void>> owners;  // of a source made here: expanded scales
};

struct ConvertPlan {
  std::vector<ConvertedTensor> tensors;
  std::vector<std::pair<size_t, size_t>> groups;  // [first, last) of `tensors`: written at a time, a file for each rank
  std::optional<ShardLayout> layout;              // of one file set a rank
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  std::string config;  // config.json of the output

  int ranks() const { return layout ? layout->ranks : 1; }
};

// Refuses in words what cannot be: a target that the source has already, a layout that cannot be right.
Result<ConvertPlan> PlanConversion(const LoadedModel& model, const ConvertRequest& request, int64_t group_bytes);

}  // namespace minimo
