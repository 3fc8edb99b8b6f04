// The stack that both models are: embedding, layers of attention and feed-forward with pre-norm residuals, final norm,
// head. What differs between them is in the spec and the weights.
//
// Thread rule: one step at a time. Lifetime: the weights outlive the decoder.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/attention_layer.h"
#include "layers/ffn.h"
#include "layers/step_context.h"
#include "layers/weight.h"
#include "spec/model_spec.h"

namespace minimo {

class Decoder {
 public:
  Decoder(const ModelSpec& spec, const DecoderWeights& weights, ThreadTeam& team);

  // One step, cache copies included. logits: [step.NumLogits(), vocab] float32. capture may be null.
  void Forward(const StepRecord& step, KvStorage& kv, float* logits, ForwardCapture* capture);

  // Tokens routed to each expert since start, [layers][experts]; dense layers stay 0.
  const std::vector<std::vector<int64_t>>& expert_load() const { return expert_load_; }

 private:
  struct RopeBase {
    double theta;
    int rotary_dim;
    RopeTable table;
  };
  const RopeTable& RopeOf(const AttentionSpec& a) const;
  void Capture(const StepContext& context, int layer, int64_t rows, ForwardCapture* capture) const;

  const ModelSpec& spec_;
  const DecoderWeights& weights_;
  ThreadTeam& team_;
  std::vector<AttentionLayer> attention_;
  std::vector<RopeBase> rope_;
  std::vector<std::vector<int64_t>> expert_load_;
  Buffer<float> x_, h_, block_out_;
  AttentionScratch attention_scratch_;
  FfnScratch ffn_scratch_;
};

}  // namespace minimo
