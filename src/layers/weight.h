// Owned weights: a view and what keeps its bytes alive.
#pragma once

#include <memory>
#include <vector>

#include "tensor/weight_view.h"

namespace minimo {

struct Weight {
  WeightView view;
  std::vector<std::shared_ptr<const void>> owners;  // mapped files, expanded scales
};

using Vector = std::vector<float>;  // norm weights, biases, sinks: small, held in float32

struct FfnWeights {
  Weight gate, up;  // [intermediate, hidden]
  Weight down;      // [hidden, intermediate]

  bool present() const { return gate.view.rows > 0; }  // an expert of other ranks has no rows here
};

struct LayerWeights {
  Vector input_norm;           // [hidden]
  Vector post_attention_norm;  // [hidden]
  Weight q, k, v;              // [q_size | k_size | v_size, hidden]
  Weight o;                    // [hidden, o_size]
  Vector q_norm, k_norm;       // [q_size], [k_size] if qk_norm
  Vector sinks;                // [heads] if sink
  FfnWeights dense;            // if !moe
  Weight router;               // [experts, hidden]
  Vector router_bias;          // [experts], float32 always: rounding it flips near ties
  std::vector<FfnWeights> experts;
  std::vector<FfnWeights> decode_experts;  // where decode steps share the experts otherwise; empty: as `experts`
};

struct DecoderWeights {
  Weight embedding;  // [vocab, hidden]
  Weight lm_head;    // [vocab, hidden]
  Vector final_norm; // [hidden]
  std::vector<LayerWeights> layers;
};

}  // namespace minimo
