// A model is data: what a config says, checked and resolved per layer, so that layers and engines never ask for a
// model's name. Written by models/, read by everyone else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace minimo {

struct AttentionSpec {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;    // of queries and keys
  int v_head_dim = 0;  // of values
  int window = 0;      // 0: all earlier tokens; w: keys j with i - w < j <= i, the token itself counted
  int rotary_dim = 0;  // the first rotary_dim of head_dim are rotated (rotate_half)
  double rope_theta = 0;
  bool sink = false;         // one learned logit a query head joins the softmax and is dropped after it
  bool qk_norm = false;      // RMSNorm over the flat [heads * head_dim] query and [kv_heads * head_dim] key
  float value_scale = 1.0f;  // values are multiplied by it right after the projection

  int q_size() const { return heads * head_dim; }
  int k_size() const { return kv_heads * head_dim; }
  int v_size() const { return kv_heads * v_head_dim; }
  int o_size() const { return heads * v_head_dim; }
};

struct LayerSpec {
  AttentionSpec attention;
  bool moe = true;
  int intermediate = 0;  // of the dense feed-forward if !moe
};

// Sigmoid router: choose top_k by sigmoid(logit) + bias within the best groups, weigh by sigmoid(logit) alone.
struct MoeSpec {
  int experts = 0;
  int top_k = 0;
  int intermediate = 0;
  int groups = 1;      // experts are cut into groups of equal size ...
  int top_groups = 1;  // ... and only the best top_groups (by the sum of their two best) take part
  bool renormalise = true;
  double renormalise_epsilon = 0;  // added to the sum of the chosen weights
  double scale = 1.0;              // multiplies the weights after renormalisation
};

struct ModelSpec {
  std::string model_type;  // as config.json names it: "minimax_m2", "mimo_v2_flash"
  int hidden = 0;
  int vocab = 0;
  double norm_eps = 0;
  int max_positions = 0;
  bool tied_embeddings = false;
  std::vector<LayerSpec> layers;
  MoeSpec moe;
  int mtp_layers = 0;  // multi-token-prediction layers found in the checkpoint
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;

  int num_layers() const { return static_cast<int>(layers.size()); }
};

}  // namespace minimo
