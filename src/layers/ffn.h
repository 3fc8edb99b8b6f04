// Feed-forward blocks: dense SwiGLU and the mixture of experts.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/step_context.h"
#include "layers/weight.h"
#include "ops/linear/linear.h"
#include "spec/model_spec.h"
#include "tensor/buffer.h"

namespace minimo {

struct FfnScratch {
  Buffer<float> gate, up;          // [slots, intermediate]
  Buffer<float> slots;             // [rows * top_k, hidden]: each expert's answer to each of its tokens
  Buffer<float> router_logits;     // [rows, experts]
  std::vector<int32_t> experts;    // [rows, top_k]
  std::vector<float> weights;      // [rows, top_k]
  std::vector<int32_t> first_slot; // [experts + 1]: slots of this rank's experts, sorted by expert
  std::vector<int32_t> next_slot;  // [experts], while sorting
  std::vector<int32_t> slot_token; // [slots]: row of x
  std::vector<int32_t> slot_place; // [slots]: row of `slots`, token * top_k + k
  std::vector<LinearTask> in, out; // of the chosen experts
};

// x += down(silu(gate(h)) * up(h)) on `rows` rows; h [rows, hidden] is normalised x.
void DenseFfn(const FfnWeights& weights, ThreadTeam& team, const float* h, int64_t rows, int64_t hidden,
              FfnScratch* scratch, float* x);

// x += sum over the chosen experts of weight * expert(h). Every chosen expert's weights are read once for all its
// tokens; a token's experts are added in the router's order, so the sum does not depend on the batch. `experts`
// [spec.experts] are those of one phase; a rank adds only what is present on it.
// `load` [experts] counts the tokens sent to each expert.
void MoeFfn(const MoeSpec& spec, const LayerWeights& weights, const std::vector<FfnWeights>& experts, ThreadTeam& team,
            const float* h, int64_t rows, int64_t hidden, FfnScratch* scratch, int64_t* load, float* x);

}  // namespace minimo
