// From the choices of tokens to the lists that the expert kernels walk, by blocks of kRouterExperts threads, one for up
// to kMostListTokens tokens.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {

inline constexpr int kMostListTokens = 256;

template <int kTokens>
struct ListScratch {
  // Bit t % 32 of word t / 32: the block's token t goes to the expert. Rows of an odd number of words fall into other
  // banks.
  unsigned tokens[kRouterExperts][kTokens / 32 + 1];
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

// Of the tokens [first, first + count), a thread an expert: how many go to it. Ends with a barrier.
template <int kTokens>
__device__ __forceinline__ int mark_choices(const RouterParams& p, int first, int count, ListScratch<kTokens>& s) {
  const int end = (first + count) * p.top_k, expert = threadIdx.x;
#pragma unroll
  for (int w = 0; w < kTokens / 32; ++w) s.tokens[expert][w] = 0;
  __syncthreads();
  for (int i = first * p.top_k + threadIdx.x; i < end; i += kRouterExperts) {
    const int token = i / p.top_k - first;
    atomicOr(&s.tokens[load_l2(p.chosen + i)][token / 32], 1u << token % 32);
  }
  __syncthreads();
  int mine = 0;
#pragma unroll
  for (int w = 0; w < kTokens / 32; ++w) mine += __popc(s.tokens[expert][w]);
  return mine;
}

// `total` tokens go to this thread's expert, `before` of them in earlier blocks. `writes`: this block writes the
// lists of experts. Ends with a barrier.
template <int kTokens>
__device__ __forceinline__ void start_lists(const RouterParams& p, int total, int before, bool writes,
                                            ListScratch<kTokens>& s) {
  const int expert = threadIdx.x, warp = expert / 32, lane = expert % 32;
  const int slots = lanes_before(total), active = lanes_before(total > 0);
  if (lane == 31) s.warp_slots[warp] = slots, s.warp_active[warp] = active;
  __syncthreads();
  int slots_before = slots - total, active_before = active - (total > 0);
  for (int w = 0; w < warp; ++w) slots_before += s.warp_slots[w], active_before += s.warp_active[w];
  s.start[expert] = slots_before + before;
  if (writes) {
    if (total > 0) p.active[active_before] = expert, p.offsets[active_before] = slots_before;
    if (expert == kRouterExperts - 1) {
      *p.num_active = active_before + (total > 0);
      p.offsets[active_before + (total > 0)] = slots_before + total;
    }
    if (p.expert_load != nullptr && total > 0) p.expert_load[expert] += total;
  }
  __syncthreads();
}

template <int kTokens>
__device__ __forceinline__ void place_choices(const RouterParams& p, int first, int count,
                                              const ListScratch<kTokens>& s) {
  for (int i = first * p.top_k + threadIdx.x; i < (first + count) * p.top_k; i += kRouterExperts) {
    const int token = i / p.top_k, mine = token - first, e = load_l2(p.chosen + i);
    int slot = s.start[e] + __popc(s.tokens[e][mine / 32] & ((1u << mine % 32) - 1));
    for (int w = 0; w < mine / 32; ++w) slot += __popc(s.tokens[e][w]);
    p.slot_of[i] = slot;
    p.slot_token[slot] = token;
    p.slot_weight[slot] = load_l2(p.chosen_weight + i);
  }
}

// Reads p.chosen and p.chosen_weight of all tokens. Slots come in the order of experts, then tokens.
__device__ __forceinline__ void list_choices(const RouterParams& p, ListScratch<kMostListTokens>& s) {
  const int mine = mark_choices(p, 0, p.tokens, s);
  start_lists(p, mine, 0, true, s);
  place_choices(p, 0, p.tokens, s);
}

}  // namespace minimo::cuda
