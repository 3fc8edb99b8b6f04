// What a block of the batch's experts kernel (stream_experts.cu) knows of the step: which experts are active, which
// slots they have, in which rounds they are streamed. From the router's lists, or made here of the choices themselves:
// every block makes them, which costs less than a kernel that makes them for all.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/experts_walk.cuh"
#include "cuda/kernels/stream_experts.cuh"

namespace minimo::cuda::experts {

inline constexpr int kHeldChoices = 4;  // a thread
inline constexpr int kMostListTokens = 256;
inline constexpr int kMaskBytes = kMostExperts * (kMostListTokens / 32 + 1) * 4;

// In shared memory.
struct Lists {
  int active[kMostExperts], offsets[kMostExperts + 1];
  uint16_t rounds[kMostRounds];
  uint32_t slots[kMostSlots];    // from the block's first on: gate/up their tokens, down their weights as bits
  uint16_t start[kMostExperts];  // the first slot of each expert
  int sums[kMostExperts / 32];
  int num_active, num_rounds;
};

// The inclusive sum over the first kMostExperts threads, of x >= 0; all: over all of them. Whole warps; with a barrier.
__device__ __forceinline__ int sum_before(int x, int* sums, int& all) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int other = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += other;
  }
  if (warp < kMostExperts / 32 && lane == 31) sums[warp] = x;
  __syncthreads();
  all = 0;
#pragma unroll
  for (int w = 0; w < kMostExperts / 32; ++w) {
    if (w < warp) x += sums[w];
    all += sums[w];
  }
  return x;
}

// A thread's choices, chosen[threadIdx.x + k kThreads].
struct HeldChoices {
  int expert[kHeldChoices];
  float weight[kHeldChoices];

  __device__ __forceinline__ void load(const ExpertsParams& p) {
#pragma unroll
    for (int k = 0; k < kHeldChoices; ++k) {
      const int i = threadIdx.x + k * kThreads;
      const bool live = i < p.tokens * p.top_k;
      expert[k] = live ? load_l2(p.chosen + i) : -1;
      weight[k] = live && !p.gate_up ? load_l2(p.chosen_weight + i) : 0.0f;
    }
  }
};

// masks: kMaskBytes, bit t % 32 of word t / 32 of a row of an odd number of words: token t goes to the expert.
struct TokenMasks {
  uint32_t* words;
  int pitch;

  __device__ __forceinline__ TokenMasks(const ExpertsParams& p, uint8_t* masks)
      : words(reinterpret_cast<uint32_t*>(masks)), pitch((p.tokens + 31) / 32 | 1) {}
  __device__ __forceinline__ void clear() const {
    for (int i = threadIdx.x; i < kMostExperts * pitch; i += kThreads) words[i] = 0;
  }
  __device__ __forceinline__ void set(int expert, int token) const {
    atomicOr(words + expert * pitch + token / 32, 1u << token % 32);
  }
  __device__ __forceinline__ int count(int expert) const {
    int n = 0;
    for (int w = 0; w < pitch; ++w) n += __popc(words[expert * pitch + w]);
    return n;
  }
  __device__ __forceinline__ int count_before(int expert, int token) const {
    const uint32_t* row = words + expert * pitch;
    int n = __popc(row[token / 32] & ((1u << token % 32) - 1));
    for (int w = 0; w < token / 32; ++w) n += __popc(row[w]);
    return n;
  }
};

// Of the choices: all but `slots`. masks are clear. Ends with a barrier.
__device__ __forceinline__ void make_lists(const ExpertsParams& p, const HeldChoices& mine, const TokenMasks& masks,
                                           int most_tokens, Lists& lists) {
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kHeldChoices; ++k) {
    if (mine.expert[k] >= 0) masks.set(mine.expert[k], static_cast<int>(threadIdx.x + k * kThreads) / p.top_k);
  }
  __syncthreads();
  // Slots, active experts and rounds in one number: at most 2048, 256 and 512.
  const int expert = threadIdx.x, count = expert < kMostExperts ? masks.count(expert) : 0;
  const int passes = (count + most_tokens - 1) / most_tokens;
  static_assert(kHeldChoices * kThreads < 1 << 12 && kMostExperts < 1 << 9 && kMostRounds < 1 << 10);
  const int one = count | (count > 0) << 12 | passes << 21;
  int all;
  const int before = sum_before(one, lists.sums, all) - one;
  const int slot = before & 0xfff, entry = before >> 12 & 0x1ff, round = before >> 21;
  if (expert < kMostExperts) lists.start[expert] = static_cast<uint16_t>(slot);
  if (count > 0) lists.active[entry] = expert, lists.offsets[entry] = slot;
  for (int i = 0; i < passes; ++i) lists.rounds[round + i] = static_cast<uint16_t>(entry + 256 * i);
  if (threadIdx.x == 0) {
    lists.num_active = all >> 12 & 0x1ff, lists.num_rounds = all >> 21;
    lists.offsets[all >> 12 & 0x1ff] = all & 0xfff;
  }
  if (p.gate_up && blockIdx.x == 0 && count > 0 && p.expert_load != nullptr) p.expert_load[expert] += count;
  __syncthreads();
}

// Then: the block's slots from `first` on, and of gate/up's first block where each choice lies.
__device__ __forceinline__ void place_choices(const ExpertsParams& p, const HeldChoices& mine, const TokenMasks& masks,
                                              int first, Lists& lists) {
#pragma unroll
  for (int k = 0; k < kHeldChoices; ++k) {
    if (mine.expert[k] < 0) continue;
    const int i = threadIdx.x + k * kThreads, token = i / p.top_k;
    const int slot = lists.start[mine.expert[k]] + masks.count_before(mine.expert[k], token), at = slot - first;
    if (at >= 0 && at < kMostSlots) {
      lists.slots[at] = p.gate_up ? static_cast<uint32_t>(token) : __float_as_uint(mine.weight[k]);
    }
    if (p.gate_up && blockIdx.x == 0) p.slot_of[i] = slot;
  }
}

// From the router's lists: all but `slots`. Ends with a barrier.
__device__ __forceinline__ void read_lists(const ExpertsParams& p, int most_tokens, Lists& lists) {
  const int num_active = load_l2(p.num_active), entry = threadIdx.x;
  if (entry < p.experts) lists.active[entry] = load_l2(p.active + entry);  // beyond num_active: not used
  if (entry <= p.experts) lists.offsets[entry] = load_l2(p.offsets + entry);
  __syncthreads();
  int passes = 0, all;
  if (entry < num_active) {
    passes = max(1, (lists.offsets[entry + 1] - lists.offsets[entry] + most_tokens - 1) / most_tokens);
  }
  const int round = sum_before(passes, lists.sums, all) - passes;
  for (int i = 0; i < passes; ++i) lists.rounds[round + i] = static_cast<uint16_t>(entry + 256 * i);
  if (threadIdx.x == 0) lists.num_active = num_active, lists.num_rounds = all;
  __syncthreads();
}

__device__ __forceinline__ void read_slots(const ExpertsParams& p, int first, Lists& lists) {
  const int slot = first + threadIdx.x;
  if (threadIdx.x >= kMostSlots || slot >= lists.offsets[lists.num_active]) return;
  lists.slots[threadIdx.x] = p.gate_up ? load_l2(p.slot_token + slot) : __float_as_uint(load_l2(p.slot_weight + slot));
}

}  // namespace minimo::cuda::experts
