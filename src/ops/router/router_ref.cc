#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/thread_team.h"
#include "ops/router/router.h"

namespace minimo {
namespace {

// Scratch of one token; kept between tokens.
struct Scratch {
  std::vector<float> scores, choices;
  std::vector<int32_t> order;
};

// Sets the choices of all but the best groups to -infinity.
void MaskGroups(const MoeSpec& moe, std::vector<float>* choices) {
  const int size = moe.experts / moe.groups;
  std::vector<std::pair<float, int>> groups;
  for (int g = 0; g < moe.groups; ++g) {
    float best = -std::numeric_limits<float>::infinity(), second = best;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const float c = (*choices)[e];
      if (c > best) {
        second = best;
        best = c;
      } else if (c > second) {
        second = c;
      }
    }
    groups.emplace_back(size > 1 ? best + second : best, g);
  }
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (size_t i = moe.top_groups; i < groups.size(); ++i) {
    const int g = groups[i].second;
    std::fill_n(choices->begin() + g * size, size, -std::numeric_limits<float>::infinity());
  }
}

void RouteToken(const RouterArgs& a, int64_t token, Scratch* s) {
  const MoeSpec& moe = a.moe;
  const float* logits = a.logits + token * moe.experts;
  s->scores.resize(moe.experts);
  s->choices.resize(moe.experts);
  s->order.resize(moe.experts);
  for (int e = 0; e < moe.experts; ++e) {
    s->scores[e] = static_cast<float>(1.0 / (1.0 + std::exp(-double{logits[e]})));
    s->choices[e] = s->scores[e] + a.bias[e];
  }
  if (moe.groups > moe.top_groups) MaskGroups(moe, &s->choices);
  std::iota(s->order.begin(), s->order.end(), 0);
  std::partial_sort(s->order.begin(), s->order.begin() + moe.top_k, s->order.end(), [&](int32_t x, int32_t y) {
    return s->choices[x] != s->choices[y] ? s->choices[x] > s->choices[y] : x < y;
  });
  double sum = 0;
  for (int k = 0; k < moe.top_k; ++k) sum += s->scores[s->order[k]];
  const double factor = moe.renormalise ? moe.scale / (sum + moe.renormalise_epsilon) : moe.scale;
  for (int k = 0; k < moe.top_k; ++k) {
    a.experts[token * moe.top_k + k] = s->order[k];
    a.weights[token * moe.top_k + k] = static_cast<float>(s->scores[s->order[k]] * factor);
  }
}

}  // namespace

void RouterRef(const RouterArgs& a) {
  Scratch scratch;
  for (int64_t t = 0; t < a.tokens; ++t) RouteToken(a, t, &scratch);
}

void RouterCpu(const RouterArgs& a, ThreadTeam& team) {
  team.ParallelFor(a.tokens, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t t = begin; t < end; ++t) RouteToken(a, t, &scratch);
  });
}

}  // namespace minimo
