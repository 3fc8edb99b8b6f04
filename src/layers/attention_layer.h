// One attention block: projections, flat QK norm or value scale, RoPE, the cache, attention, output projection.
#pragma once

#include <cstddef>
#include <vector>

#include "layers/step_context.h"
#include "layers/weight.h"
#include "spec/model_spec.h"
#include "tensor/buffer.h"

namespace minimo {

// Working memory, shared by all layers and kept between steps.
struct AttentionScratch {
  Buffer<float> qkv;        // [tokens, q_size + k_size + v_size]
  Buffer<float> attended;   // [tokens, o_size]
  std::vector<float> norm_sums;  // [tokens, 2]: sums of squares of the whole query and key
  Buffer<std::byte> k, v;   // this step's keys and values in the cache's dtype, [kv_heads, num_tokens, dim] a sequence
  std::vector<AttentionSequence> sequences;
};

class AttentionLayer {
 public:
  AttentionLayer(int layer, const AttentionSpec& spec, double norm_eps, const LayerWeights& weights)
      : layer_(layer), spec_(spec), norm_eps_(norm_eps), weights_(weights) {}

  // out[r] = attention block of row r of x [tokens, hidden], for the rows that give logits if `last_rows_only` (the
  // others have done their part once their keys and values are stored), else for all. out [rows, hidden].
  // Fails only if a rank does.
  Status Forward(const StepContext& context, const RopeTable& rope, const float* x, int64_t hidden, bool last_rows_only,
                 AttentionScratch* scratch, float* out) const;

 private:
  Status Project(const StepContext& context, const RopeTable& rope, const float* x, int64_t hidden,
                 AttentionScratch* scratch) const;
  Status NormSlices(const StepContext& context, AttentionScratch* scratch) const;
  // Norms, value scale, RoPE and rounding to the cache's dtype of tokens [begin, end): one pass.
  void FinishTokens(const StepContext& context, const RopeTable& rope, int64_t begin, int64_t end,
                    AttentionScratch* scratch) const;
  void Stage(const StepContext& context, int64_t begin, int64_t end, AttentionScratch* scratch) const;
  void Attend(const StepContext& context, bool last_rows_only, AttentionScratch* scratch) const;

  int qkv_size() const { return spec_.q_size() + spec_.k_size() + spec_.v_size(); }

  int layer_;
  AttentionSpec spec_;
  double norm_eps_;
  const LayerWeights& weights_;
};

}  // namespace minimo
