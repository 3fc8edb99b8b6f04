// Many tokens a sequence: a block takes 128 rows (token, head of the group) of one KV head of one sequence, 64 a
// warpgroup, and walks the keys they may see in tiles of 64. A third warpgroup gathers K and V through the block table
// into a ring; those of an FP8 cache it widens to bf16 on the way, exactly. Queries and probabilities are wgmma's A
// operand in registers; K (rows of 128 bytes, swizzled) and V (the same, read along its columns) come from shared
// memory. While one tile's values are summed the next one's scores are made and softened. A block stays, and takes the
// next 128 rows when it is done: the keys of these are gathered while it still sums those before. What the gathering
// warpgroup does is in attention_gather.cuh.
#include <algorithm>

#include "cuda/kernels/attention_gather.cuh"
#include "cuda/kernels/attention_store.cuh"
#include "cuda/kernels/attention_wgmma.cuh"

namespace minimo::cuda {
namespace {

using namespace prompt_attention;

template <int kKeyDim>
struct Attend {
  uint32_t q[kKeyDim / 16][4];
  float out[64];
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  __device__ __forceinline__ void start_scores(float (&scores)[32], const uint8_t* keys) const {
    const uint64_t operand = swizzled_operand(smem_address(keys));
#pragma unroll
    for (int s = 0; s < kKeyDim / 16; ++s) {
      wgmma_scores(scores, q[s], operand + s / 4 * (kPanel / 16) + s % 4 * 2, s > 0);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void start_values(const uint32_t (&probabilities)[16], const uint8_t* values) {
    const uint64_t operand = columns_operand(smem_address(values), kPanel);
#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      const uint32_t a[4] = {probabilities[4 * s], probabilities[4 * s + 1], probabilities[4 * s + 2],
                             probabilities[4 * s + 3]};
      wgmma_values(out, a, operand + s * (16 * 128 / 16));
    }
    wgmma_commit();
  }
  // Scores to powers of two under the new maxima; what becomes of the sums so far is returned.
  __device__ __forceinline__ float2 soften(float (&scores)[32], float factor) {
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m = -INFINITY;
#pragma unroll
      for (int n = 0; n < 8; ++n) m = fmaxf(m, fmaxf(scores[4 * n + 2 * r], scores[4 * n + 2 * r + 1]));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
      m = fmaxf(m * factor, most[r]);
      const float base = m == -INFINITY ? 0.0f : m;
      keep[r] = exp2f(most[r] - base);
      most[r] = m;
      float added = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = scores[4 * n + 2 * r + i];
          asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(fmaf(x, factor, -base)));
          added += x;
        }
      }
      sum[r] = sum[r] * keep[r] + added;
    }
    return {keep[0], keep[1]};
  }
};

template <int kKeyDim>
__device__ void attend(const AttentionParams& p, const Block& b, const uint8_t* stages, Barriers& barriers,
                       Place<kStages>& place) {
  constexpr int kValueDim = 128;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first_row = b.tile.first_row + warp / 4 * kRows;
  Attend<kKeyDim> a;
  int position[2], first_key[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + warp % 4 * 16 + g + 8 * r;
    const bool live = row < b.rows;
    const int token = row / b.group, head = b.kv_head * b.group + row % b.group;
    position[r] = live ? b.tile.past + token : -1;
    first_key[r] = p.window > 0 ? position[r] - p.window + 1 : 0;
    const int64_t at = (int64_t{b.tile.first_token + token} * p.heads + head) * kKeyDim;
    const uint32_t* q = reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(p.q) + at);
#pragma unroll
    for (int s = 0; s < kKeyDim / 16; ++s) {
      a.q[s][r] = live ? __ldcg(q + s * 8 + t) : 0;
      a.q[s][r + 2] = live ? __ldcg(q + s * 8 + 4 + t) : 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) a.out[i] = 0;
  // Tiles that no border of this warpgroup's rows crosses need no mask.
  const int lowest = b.tile.past + first_row / b.group;
  const int highest = b.tile.past + (min(first_row + kRows, b.rows) - 1) / b.group;
  const auto mask = [&](float (&scores)[32], int first) {
    if (first + kKeys - 1 <= lowest && first >= highest - (p.window > 0 ? p.window - 1 : highest)) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int at = first + i / 4 * 8 + 2 * t + i % 2;
      if (at > position[i % 4 / 2] || at < first_key[i % 4 / 2]) scores[i] = -INFINITY;
    }
  };
  const auto pack = [&](const float (&scores)[32], uint32_t (&to)[16]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) to[i] = pack_bf16(scores[2 * i], scores[2 * i + 1]);
  };
  const float factor = p.scale * kLog2E;
  const int tiles = (b.end - b.begin + kKeys - 1) / kKeys;
  float scores[32];
  uint32_t probabilities[16];
  barrier_wait(&barriers.full[place.at], place.phase);
  wgmma_fence();
  a.start_scores(scores, stages + place.at * Stage<kKeyDim>::kBytes);
  wgmma_wait<0>(scores);
  mask(scores, b.begin);
  a.soften(scores, factor);
  pack(scores, probabilities);
#pragma unroll 1
  for (int i = 0; i + 1 < tiles; ++i) {
    const uint8_t* values = stages + place.at * Stage<kKeyDim>::kBytes + Stage<kKeyDim>::kValues;
    uint64_t* empty = &barriers.empty[place.at];
    place.step();
    barrier_wait(&barriers.full[place.at], place.phase);
    wgmma_fence();
    a.start_scores(scores, stages + place.at * Stage<kKeyDim>::kBytes);
    a.start_values(probabilities, values);
    wgmma_wait<1>(scores);
    mask(scores, b.begin + (i + 1) * kKeys);
    const float2 keep = a.soften(scores, factor);
    wgmma_wait<0>(a.out);
    __syncwarp();
    if (lane == 0) barrier_arrive(empty);
#pragma unroll
    for (int n = 0; n < 64; ++n) a.out[n] *= n % 4 < 2 ? keep.x : keep.y;
    pack(scores, probabilities);
  }
  wgmma_fence();
  a.start_values(probabilities, stages + place.at * Stage<kKeyDim>::kBytes + Stage<kKeyDim>::kValues);
  wgmma_wait<0>(a.out);
  __syncwarp();
  if (lane == 0) barrier_arrive(&barriers.empty[place.at]);
  place.step();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = a.sum[r];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int row = first_row + warp % 4 * 16 + g + 8 * r;
    float2 v[kValueDim / 8];
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) v[i] = {a.out[4 * i + 2 * r], a.out[4 * i + 2 * r + 1]};
    store_attended(p, b.tile.first_token + row / b.group, b.kv_head * b.group + row % b.group, row < b.rows, a.most[r],
                   sum, v);
  }
}

// The first item of a block is its own number; the others are given out by p.work[0], one ahead of need. The block that
// is done last leaves both counters zero.
template <int kKeyDim, typename Kv>
__device__ void gather_items(const AttentionParams& p, uint8_t* stages, Barriers& barriers) {
  const int count = item_count(p);
  const bool leads = threadIdx.x % 128 == 0;
  Place<kItems> item_place;
  Place<kStages> place;
  int item = blockIdx.x;
  while (true) {
    int next = count;
    if (leads) {
      if (item < count) next = static_cast<int>(gridDim.x) + atomicAdd(p.work, 1);
      barrier_wait(&barriers.item_empty[item_place.at], item_place.phase ^ 1);
      barriers.items[item_place.at] = item;
      barrier_arrive(&barriers.item_full[item_place.at]);
    }
    barrier_wait(&barriers.item_full[item_place.at], item_place.phase);
    item = barriers.items[item_place.at];
    if (item >= count) break;
    gather<kKeyDim>(p, block_of(p, item), stages, barriers, place, Kv());
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&barriers.item_empty[item_place.at]);
    item_place.step();
    item = next;
  }
  if (leads && atomicAdd(p.work + 1, 1) == static_cast<int>(gridDim.x) - 1) p.work[0] = 0, p.work[1] = 0;
}

template <int kKeyDim>
__device__ void attend_items(const AttentionParams& p, const uint8_t* stages, Barriers& barriers) {
  Place<kItems> item_place;
  Place<kStages> place;
  while (true) {
    barrier_wait(&barriers.item_full[item_place.at], item_place.phase);
    const int item = barriers.items[item_place.at];
    if (item >= item_count(p)) return;
    attend<kKeyDim>(p, block_of(p, item), stages, barriers, place);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&barriers.item_empty[item_place.at]);
    item_place.step();
  }
}

template <int kKeyDim, typename Kv>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma(const __grid_constant__ AttentionParams p) {
  extern __shared__ uint8_t smem[];
  __shared__ Barriers barriers;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&barriers.full[i], 128);
      barrier_init(&barriers.empty[i], kGroups * 4);
    }
    for (int i = 0; i < kItems; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], kGroups * 4 + 4);
    }
    fence_async_reads();
  }
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  if (threadIdx.x >= kGroups * 128) {
    give_registers<88>();
    gather_items<kKeyDim, Kv>(p, stages, barriers);
  } else {
    take_registers<208>();
    attend_items<kKeyDim>(p, stages, barriers);
  }
}

template <int kKeyDim, typename Kv>
cudaError_t LaunchOne(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kShared = Stage<kKeyDim>::SharedBytes(sizeof(Kv) == 1);
  const auto kernel = attention_wgmma<kKeyDim, Kv>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (configured != cudaSuccess) return configured;
  const int blocks = std::min(p.num_tiles * p.kv_heads, kMultiprocessors);
  return Launch(kernel, dim3(blocks), dim3(kThreads), kShared, stream, p);
}

}  // namespace

cudaError_t LaunchAttentionPrefill(const AttentionParams& p, cudaStream_t stream) {
  if (p.k.element_bytes == 1) {
    return p.head_dim == 128 ? LaunchOne<128, e4m3>(p, stream) : LaunchOne<192, e4m3>(p, stream);
  }
  return p.head_dim == 128 ? LaunchOne<128, bf16>(p, stream) : LaunchOne<192, bf16>(p, stream);
}

}  // namespace minimo::cuda
