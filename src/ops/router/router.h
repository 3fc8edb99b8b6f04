// The MoE router's choice: from logits to experts and weights, as both references do it.
//   score = sigmoid(logit); choice = score + bias (float32 bias, never rounded)
//   groups: only the top_groups groups with the largest sum of their two best choices take part
//   experts: the top_k largest choices, best first, lower index first on ties
//   weight = score of the chosen (without bias), / (sum + epsilon) if renormalise, * scale
#pragma once

#include <cstdint>

#include "spec/model_spec.h"

namespace minimo {

class ThreadTeam;

struct RouterArgs {
  const float* logits = nullptr;  // [tokens, experts]
  const float* bias = nullptr;    // [experts]
  int64_t tokens = 0;
  MoeSpec moe;
  int32_t* experts = nullptr;  // [tokens, top_k]
  float* weights = nullptr;    // [tokens, top_k]
};

void RouterRef(const RouterArgs& args);
void RouterCpu(const RouterArgs& args, ThreadTeam& team);

}  // namespace minimo
