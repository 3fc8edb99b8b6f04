// What every layer of one step shares.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/step.h"
#include "layers/kv_storage.h"
#include "layers/rank_share.h"
#include "ops/rope/rope.h"

namespace minimo {

class ThreadTeam;

struct StepContext {
  const StepRecord& step;
  KvStorage& kv;
  ThreadTeam& team;
  const RankShare& share;
  int64_t tokens = 0;              // all new tokens of the step
  std::span<const int32_t> positions;   // [tokens]
  std::span<const int32_t> logit_rows;  // rows of the step that give logits, in order
};

// Results inside the model, for `minimo logits --hidden` and the golden tests. Rows are those that give logits.
struct ForwardCapture {
  struct Layer {
    std::vector<float> hidden;           // [rows, hidden] after the layer
    std::vector<int32_t> router_index;   // [rows, top_k], empty for a dense layer
    std::vector<float> router_weight;    // [rows, top_k]
  };
  std::vector<Layer> layers;
};

}  // namespace minimo
