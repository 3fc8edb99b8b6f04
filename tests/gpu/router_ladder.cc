// The router of many tokens (LaunchRouter with split weights): its choices beside a product in double, its lists beside
// a stable sort.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "cuda/kernels/router.cuh"
#include "tests/gpu/ladder.h"

namespace minimo::cuda {
namespace {

struct Router {
  int tokens, experts, hidden, top_k;
  std::vector<float> x, norm, weights, bias;
  Device<float> residual, norm_weight, device_weights, device_bias, squares, logits, token_squares, chosen_weight,
      slot_weight;
  Device<uint8_t> split;
  Device<int> counts, chosen, num_active, active, offsets, slot_token, slot_of;
  static std::vector<float> Random(int64_t n, float mean, float deviation, int seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> v(static_cast<size_t>(n));
    for (float& f : v) f = normal(random);
    return v;
  }
  Router(int t, int e, int h, int k)
      : tokens(t), experts(e), hidden(h), top_k(k), x(Random(int64_t{t} * h, 0.1f, 1, 1)), norm(Random(h, 1, 0.1f, 2)),
        weights(Random(int64_t{e} * h, 0, 1 / std::sqrt(float(h)), 3)), bias(Random(e, 0, 0.02f, 4)), residual(x),
        norm_weight(norm), device_weights(weights), device_bias(bias), squares(std::vector<float>(size_t(t), float(h))),
        logits(int64_t{kRouterSplits} * t * e), token_squares(t), chosen_weight(t * k), slot_weight(t * k),
        split(SplitRouterBytes(h)), counts(RouterCounts(t)), chosen(t * k), num_active(1), active(e + t * k),
        offsets(e + t * k + 1), slot_token(t * k), slot_of(t * k) {
    MUST(LaunchSplitRouter(device_weights.data, norm_weight.data, e, h, split.data, nullptr));
    MUST(cudaDeviceSynchronize());
  }
  RouterParams Params(bool with_split) const {
    RouterParams p;
    p.tokens = tokens, p.experts = experts, p.hidden = hidden, p.top_k = top_k;
    p.residual = residual.data, p.norm_weight = norm_weight.data, p.square_sums = squares.data, p.square_sum_count = 1;
    p.weights = device_weights.data, p.bias = device_bias.data, p.logits = logits.data, p.counts = counts.data;
    if (with_split) p.split_weights = split.data;
    p.token_squares = token_squares.data, p.chosen = chosen.data, p.chosen_weight = chosen_weight.data;
    p.num_active = num_active.data, p.active = active.data, p.offsets = offsets.data;
    p.slot_token = slot_token.data, p.slot_weight = slot_weight.data, p.slot_of = slot_of.data;
    return p;
  }
};

bool ListsAgree(const Router& r) {
  const auto chosen = r.chosen.Get(), slot_of = r.slot_of.Get(), slot_token = r.slot_token.Get();
  const auto active = r.active.Get(), offsets = r.offsets.Get();
  const auto weight = r.chosen_weight.Get(), slot_weight = r.slot_weight.Get();
  std::vector<int> order(chosen.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return chosen[size_t(a)] < chosen[size_t(b)]; });
  size_t at = 0;
  bool ok = true;
  for (size_t slot = 0; slot < order.size(); ++slot) {
    const size_t choice = static_cast<size_t>(order[slot]);
    ok &= slot_of[choice] == static_cast<int>(slot) && slot_token[slot] == static_cast<int>(choice) / r.top_k;
    ok &= slot_weight[slot] == weight[choice];
    if (slot > 0 && chosen[choice] == chosen[size_t(order[slot - 1])]) continue;
    ok &= active[at] == chosen[choice] && offsets[at] == static_cast<int>(slot);
    ++at;
  }
  return ok && r.num_active.Get()[0] == static_cast<int>(at) && offsets[at] == static_cast<int>(order.size());
}

void Check(int tokens, int experts, int hidden, int top_k) {
  const Router r(tokens, experts, hidden, top_k);
  MUST(LaunchRouter(r.Params(true), nullptr));
  MUST(cudaDeviceSynchronize());
  const auto chosen = r.chosen.Get();
  const auto weight = r.chosen_weight.Get();
  Error error;
  double regret = 0;  // how far a chosen expert's score is below the best that was left
  for (int n = 0; n < 60; ++n) {
    const int token = n < 20 ? (n % 2 ? tokens - 1 - n / 2 : n / 2) : static_cast<int>(int64_t{n} * 7919 % tokens);
    std::vector<double> score(static_cast<size_t>(experts));
    double squares = hidden, total = 0, left = -1e9, worst = 1e9;
    for (int e = 0; e < experts; ++e) {
      double sum = 0;
      for (int c = 0; c < hidden; ++c) {
        sum += double(r.x[size_t(token) * hidden + c]) * r.norm[size_t(c)] * r.weights[size_t(e) * hidden + c];
      }
      score[size_t(e)] = 1 / (1 + std::exp(-sum / std::sqrt(squares / hidden)));
    }
    std::vector<bool> taken(static_cast<size_t>(experts));
    for (int k = 0; k < top_k; ++k) {
      const size_t e = static_cast<size_t>(chosen[size_t(token) * top_k + k]);
      if (e >= taken.size() || taken[e]) {
        error.nan = true;
        continue;
      }
      taken[e] = true, total += score[e], worst = std::min(worst, score[e] + r.bias[e]);
    }
    for (size_t e = 0; e < taken.size(); ++e) {
      if (!taken[e]) left = std::max(left, score[e] + r.bias[e]);
    }
    regret = std::max(regret, left - worst);
    for (int k = 0; k < top_k && !error.nan; ++k) {
      error.Add(weight[size_t(token) * top_k + k], score[size_t(chosen[size_t(token) * top_k + k])] / total);
    }
  }
  const bool lists = ListsAgree(r);
  const std::vector<int> before = r.slot_of.Get();
  MUST(LaunchRouter(r.Params(true), nullptr));
  MUST(cudaDeviceSynchronize());
  const bool again = before == r.slot_of.Get() && weight == r.chosen_weight.Get();
  const bool ok = error.Value() < 1e-4 && regret < 1e-4 && lists && again;
  if (!ok) ++g_failures;
  std::printf("{\"check\": \"router of many tokens\", \"tokens\": %d, \"experts\": %d, \"hidden\": %d, "
              "\"relative_error\": %.2e, \"worst_choice_below_best_left\": %.2e, \"bound\": 1e-4, \"lists\": %s, "
              "\"same_bits_again\": %s, \"ok\": %s}\n",
              tokens, experts, hidden, error.Value(), regret, lists ? "true" : "false", again ? "true" : "false",
              ok ? "true" : "false");
  std::fflush(stdout);
}

}  // namespace

void CheckRouter() {
  for (const int tokens : {257, 900, 2100, 4100, 8600}) Check(tokens, 256, 3072, 8);
  Check(300, 12, 200, 3);
}

void TimeRouter(const std::vector<int>& token_counts) {
  for (const int tokens : token_counts) {
    for (const int hidden : {3072, 4096}) {
      const Router r(tokens, 256, hidden, 8);
      for (const bool split : {true, false}) {
        const double seconds = Time([&] { MUST(LaunchRouter(r.Params(split), nullptr)); });
        std::printf("{\"bench\": \"prefill op\", \"op\": \"router\", \"kernel\": \"%s\", \"hidden\": %d, "
                    "\"tokens\": %d, \"us\": %.1f}\n",
                    split ? "router_many, router_order" : "router_logits, router_choose, router_sort", hidden, tokens,
                    seconds * 1e6);
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace minimo::cuda
