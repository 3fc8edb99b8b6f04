// Scores in float32 throughout: near ties must fall as in the reference.
// One to eight tokens: 1 block for 2 experts reads its rows before waiting; the last block to finish chooses. Up to
// 256: router_batch.cu. More, with FP8 activations: router_many.cu; else a product split over the columns into
// kRouterSplits partial sums (router_logits.cu), one warp a token to choose, one block an expert to sort.
#include "cuda/kernels/choice_lists.cuh"
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {
namespace {

constexpr int kFewTokens = 8;
constexpr int kThreads = 256;

// One warp: scores of `token`, its experts and weights; lane k returns the k-th.
__device__ __forceinline__ void choose_experts(const RouterParams& p, int token, int splits, int& my_expert,
                                               float& my_weight) {
  const int lane = threadIdx.x % 32;
  float logit[kMostExpertsLane] = {};
  for (int s = 0; s < splits; ++s) {
#pragma unroll
    for (int i = 0; i < kMostExpertsLane; ++i) {
      const int e = lane + 32 * i;
      if (e < p.experts) logit[i] += load_l2(p.logits + (int64_t{s} * p.tokens + token) * p.experts + e);
    }
  }
  choose_token(p, token, logit, my_expert, my_weight);
}

__device__ void list_one_token(const RouterParams& p, int my_expert, float my_weight) {  // one warp
  const int lane = threadIdx.x % 32;
  if (lane < p.top_k) {
    p.active[lane] = my_expert;
    p.offsets[lane] = lane;
    p.slot_token[lane] = 0;
    p.slot_of[lane] = lane;
    p.slot_weight[lane] = my_weight;
    if (p.expert_load != nullptr) p.expert_load[my_expert] += 1;
  }
  if (lane == 0) p.offsets[p.top_k] = p.top_k, *p.num_active = p.top_k;
}

__global__ void __launch_bounds__(kThreads) router_few(const RouterParams p) {
  constexpr int kExperts = 2, kHeld = 4;  // float4 a thread and expert, read before the wait: 4096 columns
  __shared__ ListScratch<kMostListTokens> scratch;
  __shared__ float partial[kThreads / 32][kFewTokens][kExperts];
  __shared__ bool last;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_expert = blockIdx.x * kExperts, columns = p.hidden / 4;
  const float4* weights = reinterpret_cast<const float4*>(p.weights) + int64_t{first_expert} * columns;
  float4 held[kExperts][kHeld], norm[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = threadIdx.x + i * kThreads;
    const bool inside = c < columns;
    norm[i] = inside ? reinterpret_cast<const float4*>(p.norm_weight)[c] : float4{0, 0, 0, 0};
#pragma unroll
    for (int e = 0; e < kExperts; ++e) {
      const bool here = inside && first_expert + e < p.experts;
      held[e][i] = here ? __ldcs(weights + int64_t{e} * columns + c) : float4{0, 0, 0, 0};
    }
  }
  allow_next_kernel();
  wait_previous_kernel();
  float sums[kFewTokens][kExperts];
#pragma unroll
  for (int token = 0; token < kFewTokens; ++token) {
    if (token >= p.tokens) break;
    const float4* x = reinterpret_cast<const float4*>(p.residual) + int64_t{token} * columns;
    float a[kExperts] = {};
    const auto add = [&](float4 v, float4 n, const float4 (&w)[kExperts]) {
#pragma unroll
      for (int e = 0; e < kExperts; ++e) {
        a[e] += v.x * n.x * w[e].x + v.y * n.y * w[e].y + v.z * n.z * w[e].z + v.w * n.w * w[e].w;
      }
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int c = threadIdx.x + i * kThreads;
      if (c < columns) add(load_l2(x + c), norm[i], {held[0][i], held[1][i]});
    }
    for (int c = threadIdx.x + kHeld * kThreads; c < columns; c += kThreads) {
      const float4 second = first_expert + 1 < p.experts ? weights[columns + c] : float4{0, 0, 0, 0};
      add(load_l2(x + c), reinterpret_cast<const float4*>(p.norm_weight)[c], {weights[c], second});
    }
#pragma unroll
    for (int e = 0; e < kExperts; ++e) sums[token][e] = warp_sum(a[e]);
  }
#pragma unroll
  for (int token = 0; token < kFewTokens; ++token) {
    if (lane == 0 && token < p.tokens) {
      for (int e = 0; e < kExperts; ++e) partial[warp][token][e] = sums[token][e];
    }
  }
  __syncthreads();
  if (threadIdx.x < p.tokens * kExperts) {
    const int token = threadIdx.x / kExperts, e = threadIdx.x % kExperts;
    float sum = 0;
    for (int w = 0; w < kThreads / 32; ++w) sum += partial[w][token][e];
    if (first_expert + e < p.experts) p.logits[int64_t{token} * p.experts + first_expert + e] = sum;
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.counter, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) *p.counter = 0;
  int my_expert = 0;
  float my_weight = 0;
  if (warp < p.tokens) choose_experts(p, warp, 1, my_expert, my_weight);
  if (p.tokens == 1) {
    if (warp == 0) list_one_token(p, my_expert, my_weight);
    return;
  }
  __syncthreads();
  __threadfence();
  list_choices(p, scratch);
}

__global__ void __launch_bounds__(kThreads) router_choose(const RouterParams p) {
  wait_previous_kernel();
  allow_next_kernel();
  const int token = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  int my_expert;
  float my_weight;
  if (token < p.tokens) choose_experts(p, token, kRouterSplits, my_expert, my_weight);
}

// Sorts the choices of many tokens by expert, stably: a block an expert. Each counts the choices before its own.
__global__ void __launch_bounds__(kThreads) router_sort(const RouterParams p) {
  __shared__ unsigned used[kRouterExperts / 32];
  __shared__ int before[kThreads / 32], mine[kThreads / 32];
  for (int i = threadIdx.x; i < kRouterExperts / 32; i += kThreads) used[i] = 0;
  __syncthreads();
  wait_previous_kernel();
  allow_next_kernel();
  const int expert = blockIdx.x, entries = p.tokens * p.top_k, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int each = ((entries + kThreads - 1) / kThreads + 3) / 4 * 4;  // a thread's run of choices
  const int begin = min(static_cast<int>(threadIdx.x) * each, entries), end = min(begin + each, entries);
  int lower = 0, equal = 0;
  for (int i = begin; i < end; i += 4) {
    const int4 four = __ldcg(reinterpret_cast<const int4*>(p.chosen + i));
    const int e[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (i + k >= end) break;
      lower += e[k] < expert, equal += e[k] == expert;
      if ((used[e[k] / 32] >> (e[k] % 32) & 1) == 0) atomicOr(&used[e[k] / 32], 1u << (e[k] % 32));
    }
  }
  int rank = equal;  // inclusive over the warp
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int other = __shfl_up_sync(0xffffffffu, rank, offset);
    if (lane >= offset) rank += other;
  }
  lower = __reduce_add_sync(0xffffffffu, lower);
  if (lane == 31) before[warp] = lower, mine[warp] = rank;
  __syncthreads();
  int start = 0, slot = rank - equal, total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    start += before[w], total += mine[w];
    if (w < warp) slot += mine[w];
  }
  slot += start;
  if (threadIdx.x == 0) {
    int at = 0;
    for (int i = 0; i < expert / 32; ++i) at += __popc(used[i]);
    at += __popc(used[expert / 32] & ((1u << (expert % 32)) - 1));
    if (total > 0) p.active[at] = expert, p.offsets[at] = start;
    if (p.expert_load != nullptr) p.expert_load[expert] += total;
    if (expert == p.experts - 1) *p.num_active = at + (total > 0), p.offsets[at + (total > 0)] = entries;
  }
  if (equal == 0) return;
  for (int i = begin; i < end; ++i) {
    if (load_l2(p.chosen + i) != expert) continue;
    p.slot_of[i] = slot;
    p.slot_token[slot] = i / p.top_k;
    p.slot_weight[slot] = load_l2(p.chosen_weight + i);
    ++slot;
  }
}

}  // namespace

cudaError_t LaunchRouter(const RouterParams& p, cudaStream_t stream) {
  if ((p.tokens > kFewTokens || p.rows != nullptr) && CanRouteBatch(p)) return LaunchRouterBatch(p, stream);
  if (p.tokens <= kFewTokens) {
    return Launch(router_few, dim3((p.experts + 1) / 2), dim3(kThreads), 0, stream, p);
  }
  if (p.split_weights != nullptr) return LaunchRouterMany(p, stream);
  if (cudaError_t e = LaunchRouterLogits(p, stream)) return e;
  if (cudaError_t e = Launch(router_choose, dim3((p.tokens + 7) / 8), dim3(kThreads), 0, stream, p)) return e;
  return Launch(router_sort, dim3(p.experts), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
