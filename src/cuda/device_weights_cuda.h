// A model's weights on one device, in the layout of weight_tiles.h. Planned first (what is where, how many bytes),
// then allocated at once and filled: from mapped files through page-locked staging, or with random values.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/weight_tiles.h"
#include "layers/rank_share.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo {
class ThreadTeam;
}

namespace minimo::cuda {

// One matrix, or one for each expert at a constant distance. Offsets into the weights' memory.
struct DeviceMatrix {
  TileShape shape;
  int rows = 0;  // outputs that exist (of the interleaved pair: of one of the two)
  int cols = 0;
  int64_t weights = 0, scales = 0;
  int64_t expert_weight_bytes = 0, expert_scale_bytes = 0;
};

struct DeviceVector {
  int64_t offset = -1;  // float32; < 0: absent
};

struct DeviceLayer {
  DeviceMatrix qkv;
  int k_row = 0, v_row = 0, qkv_rows = 0;  // where k and v begin in the product; padded to 16
  DeviceMatrix o, gate_up, down;           // of the experts, or dense
  DeviceVector input_norm, post_norm, q_norm, k_norm, sinks, router, router_bias;
  int64_t split_router = -1;  // of LaunchSplitRouter; < 0: absent
};

struct WeightOptions {
  bool f32 = false;        // float32 activations: every weight exact
  bool random = false;     // no files: random values of the spec's shapes
  int random_int4_group = 0;  // random: experts in 4 bits with groups of 32, 64 or 128; 0: FP8 as released
  bool random_fp8_head = false;
  bool split_router = false;  // the router's weights also as prompts with FP8 activations take them
};

class DeviceWeights {
 public:
  // Decides every format and place. `weights` may be null only if options.random. `share`: null, or this rank's, whose
  // spec and weights the others then are; the embedding is whole on every rank (one exchange a step less).
  // `decode_experts`: null, or the rank's experts of decode steps, which then lie here beside those of prefill.
  static Result<DeviceWeights> Plan(const ModelSpec& spec, const DecoderWeights* weights, const WeightOptions& options,
                                    const RankShare* share = nullptr, const MoeShare* decode_experts = nullptr);

  bool hybrid() const { return !decode_layers_.empty(); }
  // The same weights as decode steps see them: with decode's experts. Of one memory; made before or after Fill.
  DeviceWeights ForDecode() const;

  int64_t bytes() const { return bytes_; }
  // Bytes read by one decode step of one token (all layers; head apart), for floors.
  int64_t BytesPerToken() const;
  int64_t HeadBytes() const { return head_.shape.WeightBytes() + head_.shape.ScaleBytes(); }

  // True if fp8_linear takes every layer's QKV and feed-forward weights.
  bool FitsFp8Prefill() const;

  Status Fill(const DecoderWeights* weights, ThreadTeam* team, cudaStream_t stream);

  const DeviceLayer& layer(int i) const { return layers_[i]; }
  const DeviceMatrix& head() const { return head_; }
  int experts_here() const { return static_cast<int>(experts_.count); }  // of a MoE layer's
  int first_expert() const { return static_cast<int>(experts_.begin); }
  DeviceVector final_norm() const { return final_norm_; }
  const void* embedding() const { return memory_->As<uint8_t>(embedding_); }
  bool embedding_f32() const { return embedding_f32_; }

  const uint8_t* At(int64_t offset) const { return memory_->As<uint8_t>(offset); }
  const float* Floats(DeviceVector v) const { return v.offset < 0 ? nullptr : memory_->As<const float>(v.offset); }

 private:
  int64_t Take(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  void Place(DeviceMatrix* m, int64_t copies);
  // The feed-forward matrices of a layer, of the experts in `experts` or dense.
  void PlaceFfn(const LayerSpec& layer, int intermediate, const Range& experts, const LayerWeights* weights,
                bool of_decode, DeviceLayer* d);
  Status SplitRouters(cudaStream_t stream);
  Status FillRandom(cudaStream_t stream);
  Status FillFromFiles(const DecoderWeights& weights, ThreadTeam& team, cudaStream_t stream);

  ModelSpec spec_;
  WeightOptions options_;
  Range experts_, decode_experts_;  // of the MoE layers, that lie here
  std::vector<DeviceLayer> layers_, decode_layers_;  // decode_layers_: empty if decode has the same experts
  DeviceMatrix head_;
  DeviceVector final_norm_;
  int64_t embedding_ = 0;
  bool embedding_f32_ = false;
  int64_t bytes_ = 0;
  std::shared_ptr<DeviceMemory> memory_ = std::make_shared<DeviceMemory>();
};

}  // namespace minimo::cuda
