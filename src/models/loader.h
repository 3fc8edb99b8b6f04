// A checkpoint folder becomes a spec and weights. Matrices are views of the mapped files; nothing is copied but the
// small vectors (norms, biases, sinks), which are held in float32.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "models/model.h"
#include "models/shard_layout.h"
#include "spec/model_spec.h"

namespace minimo {

// What linear layers multiply: float32, or int8 with a scale a group (ops/linear/tiles.h).
enum class Activations : uint8_t { kExact, kInt8 };

struct LoadOptions {
  int num_layers = 0;       // > 0: only the first N decoder layers
  bool rank_files = false;  // also one that is written as a file set a rank; else it is refused
};

struct LoadedModel {
  const ModelFamily* family = nullptr;
  ModelSpec spec;
  std::string folder;                            // empty: random weights
  DecoderWeights weights;                        // empty if `shards`
  std::shared_ptr<const Checkpoint> checkpoint;  // null if `shards`
  std::optional<ShardLayout> shards;             // each rank opens files of its own (ShardModel)
  Activations activations = Activations::kExact;  // how an executor shall compute
  bool resident = false;                          // matrices are in memory of ours, but for those of HasExactTiles
  bool dummy = false;                             // random weights in memory that nothing else reads
  int fused_kv_layers = 0;          // layers whose K/V scales follow the fused grid
  std::vector<std::string> notes;   // oddities worth telling: unknown tensors, incomplete MTP, ...
};

// `model` is a folder, or the name of a shipped model (models/NAME beside the program's source or installation).
Result<std::string> ResolveModelFolder(const std::string& model);

// config.json of a folder, its quantization_config checked.
Result<ModelConfig> ReadModelConfig(const std::string& folder);

// Checks the tensors of a checkpoint against the config's manifest and binds them.
Result<LoadedModel> BindModel(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint,
                              const LoadOptions& options);

// Both, from a folder.
Result<LoadedModel> LoadModel(const std::string& folder, const LoadOptions& options = {});

}  // namespace minimo
