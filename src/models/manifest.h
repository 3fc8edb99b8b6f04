// What a checkpoint must hold: every tensor of a model by name, shape and part, derived from the spec. The loader
// checks a checkpoint against it; convert, inspect and the sharding plan walk it.
#pragma once

#include <string>
#include <vector>

#include "spec/model_spec.h"
#include "tensor/tensor_view.h"

namespace minimo {

enum class TensorPart : uint8_t {
  kEmbedding, kFinalNorm, kLmHead,
  kInputNorm, kPostAttentionNorm, kQ, kK, kV, kO, kQNorm, kKNorm, kSinks,
  kRouter, kRouterBias, kGate, kUp, kDown, kExpertGate, kExpertUp, kExpertDown,
  kMtpNorm, kMtpProjection,  // of the multi-token-prediction layers, beside the parts above
};

// How ranks share a tensor (tensor parallelism): rows are output features, columns input features.
enum class ShardRule : uint8_t { kReplicate, kRows, kCols, kHeads, kKvHeads, kHeadCols };

struct TensorSpec {
  std::string name;
  Shape shape;
  TensorPart part = TensorPart::kEmbedding;
  ShardRule shard = ShardRule::kReplicate;
  int layer = -1;   // decoder layer, or MTP depth if mtp
  int expert = -1;
  bool quantizable = false;   // may be FP8 (a weight_scale_inv beside it) or 4-bit: the checkpoint decides
  bool released_fp8 = false;  // is FP8 in the released files: what a conversion to FP8 makes
  bool mtp = false;          // of a multi-token-prediction layer: optional as a whole
  bool part_of_rank = false; // one rank's rows and columns of the tensor; their place in the whole:
  int64_t first_row = 0;
  int64_t first_col = 0;

  bool IsMatrix() const { return shape.size() == 2; }
};

using Manifest = std::vector<TensorSpec>;

// "a.b.weight" -> "a.b.weight_scale_inv": the scales of FP8 blocks.
std::string ScaleName(const std::string& weight_name);

// The three tensors of a 4-bit weight in compressed-tensors' "pack-quantized" layout:
// packed I32 [rows, cols / 8], scale BF16 [rows, cols / group], shape I64 [2].
struct PackedNames {
  std::string packed, scale, shape;
};
PackedNames PackedNamesOf(const std::string& weight_name);

}  // namespace minimo
