// Which experts a token goes to, from its router logits: the device functions that router.cu and the kernels for one
// token share. Everything in float32: near ties must fall as in the reference.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {

constexpr int kMostExpertsLane = kRouterExperts / 32;

// Floats as unsigned numbers in the same order.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits ^ (static_cast<int>(bits) < 0 ? 0xffffffffu : 0x80000000u);
}

// The largest key of the warp in [from, to) and its expert; the lowest of equals. All -infinity: expert `to`.
__device__ __forceinline__ void find_best(const float (&key)[kMostExpertsLane], int from, int to, float& best,
                                          int& best_expert) {
  const int lane = threadIdx.x % 32;
  float value[kMostExpertsLane];
  int expert[kMostExpertsLane];
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) {
    const int e = lane + 32 * i;
    const bool inside = e >= from && e < to && key[i] > -INFINITY;  // NaN: never
    value[i] = inside ? key[i] : -INFINITY;
    expert[i] = inside ? e : to;
  }
#pragma unroll
  for (int step = 1; step < kMostExpertsLane; step *= 2) {  // a tree: short chains
#pragma unroll
    for (int i = 0; i + step < kMostExpertsLane; i += 2 * step) {
      if (value[i + step] > value[i]) value[i] = value[i + step], expert[i] = expert[i + step];
    }
  }
  const float mine = value[0];
  const unsigned most = __reduce_max_sync(0xffffffffu, ordered(mine));
  best_expert = static_cast<int>(__reduce_min_sync(0xffffffffu, ordered(mine) == most ? expert[0] : to));
  best = __uint_as_float(most ^ (most & 0x80000000u ? 0x80000000u : 0xffffffffu));
}

// Leaves the keys of the best groups, -infinity elsewhere.
template <typename Params>
__device__ void mask_groups(const Params& p, float (&key)[kMostExpertsLane]) {
  const int lane = threadIdx.x % 32, size = p.experts / p.groups;
  float mine = -INFINITY;  // lane g: the value of group g
  for (int g = 0; g < p.groups; ++g) {
    float rest[kMostExpertsLane], best, second = 0;
    int expert;
#pragma unroll
    for (int i = 0; i < kMostExpertsLane; ++i) rest[i] = key[i];
    find_best(rest, g * size, (g + 1) * size, best, expert);
#pragma unroll
    for (int i = 0; i < kMostExpertsLane; ++i) {
      if (lane + 32 * i == expert) rest[i] = -INFINITY;
    }
    if (size > 1) find_best(rest, g * size, (g + 1) * size, second, expert);
    if (lane == g) mine = best + second;
  }
  unsigned kept = 0;
  for (int n = 0; n < p.top_groups; ++n) {
    const float best = warp_max(mine);
    const int g = __ffs(__ballot_sync(0xffffffffu, mine == best)) - 1;
    if (g < 0) break;
    kept |= 1u << g;
    if (lane == g) mine = -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) {
    const int e = lane + 32 * i;
    if (e < p.experts && (kept >> (e / size) & 1) == 0) key[i] = -INFINITY;
  }
}

// One warp: lane k returns the k-th best expert and its weight. logit[i] is that of expert lane + 32 * i, already
// scaled by the token's norm. bias: [experts], or null. Params: experts, top_k, groups, top_groups, renormalise,
// renormalise_epsilon, scale.
template <typename Params>
__device__ __forceinline__ void choose_from(const Params& p, const float* bias, const float (&logit)[kMostExpertsLane],
                                            int& my_expert, float& my_weight) {
  const int lane = threadIdx.x % 32;
  float score[kMostExpertsLane], key[kMostExpertsLane];
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) {
    const int e = lane + 32 * i;
    const bool inside = e < p.experts;
    score[i] = 1.0f / (1.0f + expf(-logit[i]));
    key[i] = inside ? score[i] + (bias != nullptr ? __ldg(bias + e) : 0.0f) : -INFINITY;
  }
  float mine = 0, total = 0;
  my_expert = 0;
  if (p.groups > p.top_groups) mask_groups(p, key);
  for (int k = 0; k < p.top_k; ++k) {
    float best;
    int best_expert;
    find_best(key, 0, p.experts, best, best_expert);
    float chosen = 0;
#pragma unroll
    for (int i = 0; i < kMostExpertsLane; ++i) {
      if (lane + 32 * i == best_expert) chosen = score[i], key[i] = -INFINITY;
    }
    chosen = __shfl_sync(0xffffffffu, chosen, best_expert % 32);
    if (best_expert >= p.experts) best_expert = k, chosen = 0;  // NaN scores: stay in range
    total += chosen;
    if (lane == k) mine = chosen, my_expert = best_expert;
  }
  my_weight = (p.renormalise ? mine / (total + p.renormalise_epsilon) : mine) * p.scale;
}

// One warp: the choice of `token`, whose logits lack the norm's factor, to p.chosen and p.chosen_weight. Lane k returns
// the k-th.
__device__ __forceinline__ void choose_token(const RouterParams& p, int token, float (&logit)[kMostExpertsLane],
                                             int& my_expert, float& my_weight) {
  const int lane = threadIdx.x % 32;
  float sum = 0;
#pragma unroll 8
  for (int i = lane; i < p.square_sum_count; i += 32) {
    sum += load_l2(p.square_sums + int64_t{token} * p.square_sum_count + i);
  }
  sum = warp_sum(sum);
  const float norm = rsqrtf(sum / static_cast<float>(p.hidden) + p.norm_eps);
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) logit[i] *= norm;
  if (lane == 0) p.token_squares[token] = sum;
  const float* bias = p.bias != nullptr ? p.bias + int64_t{token} * p.bias_stride : nullptr;
  choose_from(p, bias, logit, my_expert, my_weight);
  if (lane < p.top_k) {
    const int64_t at = int64_t{token} * p.top_k + lane;
    p.chosen[at] = my_expert;
    p.chosen_weight[at] = my_weight;
  }
}

// One token's choice in shared memory.
inline constexpr int kChoiceWarps = kRouterExperts / 32;
inline constexpr int kMostFast = 8;  // choices of the fast way
struct Choice {
  int expert[32];
  float weight[32];  // before weight_of()
  alignas(16) unsigned key[kRouterExperts];
  unsigned best[kChoiceWarps * kMostFast];  // the keys of each warp's best, in order
  int best_expert[kChoiceWarps * kMostFast];
  float best_score[kChoiceWarps * kMostFast];
};

// The general way, one warp.
template <typename Chosen>
__device__ __noinline__ void choose_slowly(const ChoiceParams& p, Chosen& c) {
  const int lane = threadIdx.x % 32;
  float logit[kMostExpertsLane];
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) {
    logit[i] = lane + 32 * i < p.experts ? load_l2(p.logits + lane + 32 * i) : 0.0f;
  }
  choose_from(p, p.bias, logit, c.expert[lane], c.weight[lane]);
}

// The same choice as choose_from's by the first kThreads threads of a block, a thread an expert, without rounds: each
// counts the better ones among its warp's, the first top_k of a warp are candidates, kParts threads a candidate count
// the better ones of those. The lowest expert of equals: candidates stand in that order. `logit`, `bias`: of expert
// threadIdx.x. Ends with a barrier of those threads (barrier 1).
template <int kThreads>
__device__ __forceinline__ void choose_one(const ChoiceParams& p, float logit, float bias, Choice& c) {
  static_assert(kThreads == kRouterExperts);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = threadIdx.x;
  const auto barrier = [] { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); };
  if (p.groups > p.top_groups || p.top_k > kMostFast) {
    if (warp == 0) choose_slowly(p, c);
    barrier();
    return;
  }
  if (warp < kChoiceWarps) {
    const float score = 1.0f / (1.0f + expf(-logit)), biased = score + bias;
    const unsigned key = e < p.experts && biased > -INFINITY ? ordered(biased) : 0u;  // NaN and what is not there: last
    c.key[e] = key;
    if (warp == 0) c.expert[lane] = lane < p.top_k ? lane : 0, c.weight[lane] = 0;  // no number left: stay in range
    __syncwarp();
    int rank = __popc(__match_any_sync(0xffffffffu, key) & ((1u << lane) - 1));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint4 other = *reinterpret_cast<const uint4*>(c.key + warp * 32 + 4 * i);
      rank += (other.x > key) + (other.y > key) + (other.z > key) + (other.w > key);
    }
    if (rank < p.top_k) {
      const int at = warp * p.top_k + rank;
      c.best[at] = key, c.best_expert[at] = e, c.best_score[at] = score;
    }
  }
  barrier();
  constexpr int kParts = kThreads / (kChoiceWarps * kMostFast), kEach = kChoiceWarps / kParts;  // of top_k
  const int candidate = e / kParts, part = e % kParts;
  const bool live = candidate < kChoiceWarps * p.top_k;
  const unsigned mine = live ? c.best[candidate] : 0u;
  int rank = 0;
#pragma unroll
  for (int i = 0; i < kEach * kMostFast; ++i) {
    const int at = part * kEach * p.top_k + i;
    if (i < kEach * p.top_k) rank += c.best[at] > mine || (c.best[at] == mine && at < candidate);
  }
#pragma unroll
  for (int offset = 1; offset < kParts; offset <<= 1) rank += __shfl_xor_sync(0xffffffffu, rank, offset);
  if (live && part == 0 && mine != 0 && rank < p.top_k) {
    c.expert[rank] = c.best_expert[candidate], c.weight[rank] = c.best_score[candidate];
  }
  barrier();
}
// After choose_one, every warp: lane k returns the weight of choice k.
__device__ __forceinline__ float weight_of(const ChoiceParams& p, const Choice& c) {
  const int lane = threadIdx.x % 32;
  if (p.groups > p.top_groups || p.top_k > kMostFast) return c.weight[lane];
  const float used = lane < p.top_k ? c.weight[lane] : 0.0f, total = warp_sum(used);
  return (p.renormalise ? used / (total + p.renormalise_epsilon) : used) * p.scale;
}

// The choice in the kernels of one token, by one warp from the keys that router_one leaves: rounds in registers, each
// the largest of what is left. Equal keys fall in one round, and so does a key of no number: then more or fewer are
// found than wanted, and it is made the general way.
struct OneChoice {
  int expert[32];
  float weight[32];
};
__device__ __forceinline__ unsigned largest(const unsigned (&key)[kMostExpertsLane]) {
  unsigned most[kMostExpertsLane];
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) most[i] = key[i];
#pragma unroll
  for (int step = 1; step < kMostExpertsLane; step *= 2) {  // a tree: short chains
#pragma unroll
    for (int i = 0; i + step < kMostExpertsLane; i += 2 * step) most[i] = max(most[i], most[i + step]);
  }
  return most[0];
}
// `wanted`: the first so many are enough. kWeights: all are, and their weights.
template <bool kWeights>
__device__ __forceinline__ void choose_by_keys(const ChoiceParams& p, int wanted, OneChoice& c) {
  const int lane = threadIdx.x % 32;
  unsigned key[kMostExpertsLane], given[kMostExpertsLane];
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) {
    const int e = lane + 32 * i;
    key[i] = given[i] = e < p.experts ? __float_as_uint(load_l2(p.logits + 2 * p.experts + e)) : 0u;
  }
  uint32_t to = smem_address(c.expert);
  unsigned mine = largest(key);
#pragma unroll 1
  for (const uint32_t end = to + 4 * wanted; to != end; to += 4) {
    const unsigned most = __reduce_max_sync(0xffffffffu, mine);
#pragma unroll
    for (int i = 0; i < kMostExpertsLane; ++i) {
      if (key[i] == most) asm volatile("st.shared.s32 [%0], %1;" ::"r"(to), "r"(lane + 32 * i) : "memory");
      key[i] = key[i] == most ? 0u : key[i];
    }
    mine = largest(key);
  }
  int found = 0;
#pragma unroll
  for (int i = 0; i < kMostExpertsLane; ++i) found += key[i] != given[i];
  found = __reduce_add_sync(0xffffffffu, found);
  __syncwarp();
  if (found != wanted || p.groups > p.top_groups) return choose_slowly(p, c);
  if constexpr (kWeights) {
    const float used = lane < wanted ? load_l2(p.logits + p.experts + c.expert[lane]) : 0.0f, total = warp_sum(used);
    c.weight[lane] = (p.renormalise ? used / (total + p.renormalise_epsilon) : used) * p.scale;
  }
}

}  // namespace minimo::cuda
