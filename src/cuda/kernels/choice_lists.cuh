// From the choices of up to 256 tokens to the lists that the expert kernels walk, by one block of kRouterExperts
// threads.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {

inline constexpr int kMostListTokens = 256;

struct ListScratch {
  // Bit t % 32 of word t / 32: token t goes to the expert. Rows of 9 words fall into other banks.
  unsigned tokens[kRouterExperts][kMostListTokens / 32 + 1];
  int start[kRouterExperts];
  int warp_slots[kRouterExperts / 32], warp_active[kRouterExperts / 32];
};

// The inclusive sum of x over the lanes up to this one.
__device__ __forceinline__ int lanes_before(int x) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int other = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += other;
  }
  return x;
}

// Reads p.chosen and p.chosen_weight; a thread an expert. Slots come in the order of experts, then tokens.
__device__ __forceinline__ void list_choices(const RouterParams& p, ListScratch& s) {
  constexpr int kWords = kMostListTokens / 32;
  const int entries = p.tokens * p.top_k, expert = threadIdx.x, warp = expert / 32, lane = expert % 32;
#pragma unroll
  for (int w = 0; w < kWords; ++w) s.tokens[expert][w] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < entries; i += kRouterExperts) {
    const int token = i / p.top_k;
    atomicOr(&s.tokens[load_l2(p.chosen + i)][token / 32], 1u << token % 32);
  }
  __syncthreads();
  int mine = 0;
#pragma unroll
  for (int w = 0; w < kWords; ++w) mine += __popc(s.tokens[expert][w]);
  const int slots = lanes_before(mine), active = lanes_before(mine > 0);
  if (lane == 31) s.warp_slots[warp] = slots, s.warp_active[warp] = active;
  __syncthreads();
  int slots_before = slots - mine, active_before = active - (mine > 0);
  for (int w = 0; w < warp; ++w) slots_before += s.warp_slots[w], active_before += s.warp_active[w];
  s.start[expert] = slots_before;
  if (mine > 0) p.active[active_before] = expert, p.offsets[active_before] = slots_before;
  if (expert == kRouterExperts - 1) {
    *p.num_active = active_before + (mine > 0);
    p.offsets[active_before + (mine > 0)] = slots_before + mine;
  }
  if (p.expert_load != nullptr && mine > 0) p.expert_load[expert] += mine;
  __syncthreads();
  for (int i = threadIdx.x; i < entries; i += kRouterExperts) {
    const int token = i / p.top_k, e = load_l2(p.chosen + i);
    int slot = s.start[e] + __popc(s.tokens[e][token / 32] & ((1u << token % 32) - 1));
    for (int w = 0; w < token / 32; ++w) slot += __popc(s.tokens[e][w]);
    p.slot_of[i] = slot;
    p.slot_token[slot] = token;
    p.slot_weight[slot] = load_l2(p.chosen_weight + i);
  }
}

}  // namespace minimo::cuda
