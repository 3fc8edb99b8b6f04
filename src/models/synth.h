// Checkpoints of real shapes with random but sane weights, for benches and tests: as files (`minimo synth`) or in
// memory (--load-format dummy). Weights are drawn so that activations stay near 1 through all layers and tokens choose
// different experts; scales vary from block to block, so that an index mistake shows.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "minimo/result.h"
#include "models/loader.h"
#include "models/manifest.h"

namespace minimo {

enum class SynthFormat : uint8_t { kFp8, kBf16, kW4 };  // kW4: 4-bit experts, FP8 attention and dense layers

struct SynthOptions {
  std::string like = "minimax-m2";  // minimax-m2 or mimo-v2-flash: the released config, cut to `layers`
  int layers = 0;                   // 0: all
  int vocab = 0;                    // 0: the released vocabulary
  SynthFormat format = SynthFormat::kFp8;
  uint64_t seed = 1;
  bool skewed_routing = false;      // experts chosen unevenly, about as in real text; else near uniform
  bool quantize_all = false;        // every matrix but embedding and router in `format`, also those that the released
                                    // files keep in bf16 and those that kW4 leaves in FP8
};

// config.json of the synthetic checkpoint.
Result<std::string> SynthConfig(const SynthOptions& options);

// The config of a folder (nothing else of it is read) or of a `like` name; the folder's quantization sets the format.
Result<ModelConfig> DummyConfig(const std::string& folder_or_like, SynthOptions* options);

// The tensors of one checkpoint and their bytes, made on demand and independent of each other.
class Synthesizer {
 public:
  Synthesizer(const ModelFamily& family, const ModelSpec& spec, const SynthOptions& options);

  const std::vector<TensorDeclaration>& tensors() const { return declarations_; }
  // Rows [begin, end) (elements for a vector) of tensor i. Thread-safe.
  void Fill(size_t i, int64_t begin, int64_t end, std::byte* out) const;

 private:
  enum class Kind : uint8_t { kOnes, kGaussian, kFp8Codes, kFp8Scales, kInt4Codes, kInt4Scales, kShape };
  struct Plan {
    Kind kind;
    float deviation;  // of the dequantised weight
    Shape matrix;     // of the weight, for kShape
  };
  void Add(const std::string& name, DType dtype, Shape shape, Kind kind, float deviation, Shape matrix = {});
  void AddMatrix(const TensorSpec& t, const SynthOptions& options, float deviation);

  uint64_t seed_;
  std::vector<TensorDeclaration> declarations_;
  std::vector<Plan> plans_;
  std::vector<float> gaussians_;   // kTable standard normal draws; rows are cut from it at random places
  std::vector<uint8_t> fp8_;       // the same, times 448 / kFp8Peak, as e4m3
  std::vector<uint8_t> int4_;      // pairs, times 7 / kInt4Peak, as nibbles + 8
};

// Writes a whole folder: config, shards of about 4 GB, index, and the shipped nano model's tokenizer and template.
// `progress` is told bytes done and in all; returning false stops with an error.
Status WriteSynthetic(const std::string& folder, const SynthOptions& options,
                      const std::function<bool(int64_t, int64_t)>& progress);

// The same in memory.
Result<LoadedModel> DummyModel(const std::string& folder_or_like, const SynthOptions& options, int threads);

}  // namespace minimo
