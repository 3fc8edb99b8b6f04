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
#include "spec/parallel_plan.h"

namespace minimo {

enum class TargetFormat : uint8_t { kAsIs, kBf16, kFp8, kW4 };

struct ConvertRequest {
  TargetFormat target = TargetFormat::kAsIs;
  int tensor_parallel_size = 0;  // > 0: one file set for each of so many ranks
  int expert_parallel_size = 0;  // shares of the experts among them, a divisor of the ranks; 0: as run chooses
  bool released_keys = false;    // bf16: config.json's keys as released, without those that transformers reads instead
};

// One tensor of the source, read once from its first byte to its last, and the parts of it that become tensors of the
// output: all of it, or what each rank has.
struct ConvertedTensor {
  enum class Kind : uint8_t { kCopy, kBf16, kFp8, kInt4 };
  struct Part {
    int rank = 0;      // whose file set it goes to; 0 if there is one
    Range rows, cols;  // of the source; what is no matrix has the columns {0, 1}
  };
  Kind kind = Kind::kCopy;
  int layer = -1;                // for the report; -1: outside the layers
  TensorDeclaration source;      // the whole; its name is the output's too
  const std::byte* data = nullptr;  // kCopy: row after row without gaps
  Weight weight;                 // the other kinds
  std::vector<Part> parts;       // by rank, none twice
  std::vector<std::shared_ptr<const void>> owners;  // of `data` that was made here: expanded scales

  int64_t SourceRows() const { return source.shape.empty() ? 1 : source.shape[0]; }
  // The one to three tensors that a part becomes. The first is streamed by rows; the others (scales, shape) are small
  // and follow it.
  std::vector<TensorDeclaration> Outputs(const Part& part) const;
};

struct ConvertPlan {
  // Tensors written at a time, a file for each of `ranks`.
  struct Group {
    size_t first, last;  // [first, last) of `tensors`
    std::vector<int> ranks;
    int64_t bytes;
  };
  std::vector<ConvertedTensor> tensors;
  std::vector<Group> groups;
  std::optional<ShardLayout> layout;  // of one file set a rank
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  std::string config;  // config.json of the output

  int ranks() const { return layout ? layout->ranks : 1; }
};

// Refuses in words what cannot be: a target that the source has already, a layout that cannot be right.
Result<ConvertPlan> PlanConversion(const LoadedModel& model, const ConvertRequest& request, int64_t group_bytes);

}  // namespace minimo
