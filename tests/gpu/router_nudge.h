// A router that stands at a tie sends a rounded run to other experts than an exact one, and from there on the two
// compute different functions. To see what rounding does to one function, the biases of the experts concerned are moved,
// by about as much as rounding moves scores, until both runs route alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "minimo/result.h"
#include "models/loader.h"

namespace minimo::testing {

struct Traced {
  std::vector<float> logits;
  std::vector<std::vector<int64_t>> routed;  // of each step: tokens of [moe layers * experts]
};

struct Nudged {
  Traced exact, first, last;       // `first` and `last`: the rounded run before and after
  int rounds = 0;
  int64_t flipped = 0, left = 0;   // tokens that went elsewhere, before and after
  double moved = 0;                // the largest change of a bias
};

// run(f32) makes an executor of *model and runs it. Counts hide tokens that change places within a step: what they
// leave is seen in the error.
template <typename Run>
Result<Nudged> NudgeRouters(LoadedModel* model, float step, int most_rounds, Run run) {
  std::vector<size_t> moe;
  for (int i = 0; i < model->spec.num_layers(); ++i) {
    if (model->spec.layers[i].moe) moe.push_back(static_cast<size_t>(i));
  }
  const auto experts = static_cast<size_t>(model->spec.moe.experts);
  std::vector<double> moved(moe.size() * experts);
  Nudged n;
  for (;; ++n.rounds) {
    MINIMO_ASSIGN(n.exact, run(true));
    MINIMO_ASSIGN(n.last, run(false));
    n.left = 0;
    std::vector<int64_t> push(moved.size());
    for (size_t call = 0; call < n.exact.routed.size(); ++call) {
      for (size_t i = 0; i < push.size(); ++i) {
        const int64_t missing = n.exact.routed[call][i] - n.last.routed[call][i];
        n.left += std::max<int64_t>(missing, 0);
        push[i] += (missing > 0) - (missing < 0);
      }
    }
    if (n.rounds == 0) n.flipped = n.left, n.first = n.last;
    if (n.left == 0 || n.rounds == most_rounds) return n;
    // The earliest layer alone: what follows it is a consequence.
    for (size_t layer = 0; layer < moe.size(); ++layer) {
      bool any = false;
      for (size_t e = 0; e < experts; ++e) {
        const size_t i = layer * experts + e;
        if (push[i] == 0) continue;
        any = true;
        const float by = push[i] > 0 ? step : -step;
        model->weights.layers[moe[layer]].router_bias[e] += by;
        n.moved = std::max(n.moved, std::fabs(moved[i] += by));
      }
      if (any) break;
    }
  }
}

}  // namespace minimo::testing
