// Many tokens a sequence: a block takes 128 rows (token, head of the group) of one KV head of one sequence, 64 a
// warpgroup, and walks the keys they may see in tiles of 64. A third warpgroup gathers K and V through the block table
// into a ring; those of an FP8 cache it widens to bf16 on the way, exactly. Queries and probabilities are wgmma's A
// operand in registers; K (rows of 128 bytes, swizzled) and V (the same, read along its columns) come from shared
// memory. While one tile's values are summed the next one's scores are made and softened.
//
// A stage: K as panels of 64 columns, 8 KB each, then V's two. 32 or 40 KB, four stages.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/attention_store.cuh"
#include "cuda/kernels/attention_wgmma.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {
namespace {

constexpr int kKeys = 64;
constexpr int kRows = 64;  // a warpgroup
constexpr int kGroups = 2;
constexpr int kThreads = kGroups * 128 + 128;
constexpr int kPanel = kKeys * 128;
constexpr int kStages = 4;
constexpr int kLag = 2;  // tiles whose copies are still under way when the next one's begin

template <int kKeyDim>
struct Stage {
  static constexpr int kValues = kKeyDim / 64 * kPanel;  // V's panels follow K's
  static constexpr int kBytes = kValues + 2 * kPanel;
  static constexpr int kShared = kStages * kBytes + 1024;
};

struct Barriers {
  uint64_t full[kStages], empty[kStages];
};

// The block's rows, and the keys [begin, end) that they see.
struct Block {
  PrefillTile tile;
  int kv_head, group, rows, begin, end;
};

__device__ __forceinline__ Block block_of(const AttentionParams& p) {
  const int4 raw = __ldcg(reinterpret_cast<const int4*>(p.tiles) + (gridDim.x - 1 - blockIdx.x));  // longest first
  Block b;
  b.tile = {raw.x, raw.y, raw.z, raw.w};
  b.kv_head = blockIdx.y;
  b.group = p.heads / p.kv_heads;
  b.rows = b.tile.num_tokens * b.group;
  const int lowest = b.tile.past + b.tile.first_row / b.group;
  b.begin = p.window > 0 ? max(0, lowest - p.window + 1) : 0;
  b.end = b.tile.past + (min(b.tile.first_row + kGroups * kRows, b.rows) - 1) / b.group + 1;
  return b;
}

// Copies of the tile before the last kLag are there: they become the tensor cores' to read.
template <int kPending>
__device__ __forceinline__ void hand_over(uint64_t* full) {
  copy_wait<kPending>();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  barrier_arrive(full);
}

// Four warps gather, 16 keys each: lane i finds the row of key i % 16 (K: lanes 0..15, V: 16..31).
template <typename Kv>
struct Finder {
  const AttentionParams& p;
  const Block& b;
  int table, ring;
  KvView view;
  const Kv* fresh;

  __device__ Finder(const AttentionParams& params, const Block& block)
      : p(params),
        b(block),
        table(p.k.ring ? 0 : load_l2(p.meta.block_table + b.tile.first_token)),
        ring(p.k.ring ? load_l2(p.meta.ring + b.tile.first_token) : 0),
        view(threadIdx.x % 32 < 16 ? p.k : p.v),
        fresh(static_cast<const Kv*>(threadIdx.x % 32 < 16 ? p.fresh_k : p.fresh_v)) {}
  __device__ const Kv* at(int first) const {
    const int key = min(first + static_cast<int>(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16), b.end - 1);
    return fresh != nullptr && key >= b.tile.past
               ? fresh + (int64_t{b.tile.first_token + key - b.tile.past} * p.kv_heads + b.kv_head) * view.dim
               : static_cast<const Kv*>(view.data) + cache_row(view, table, p.meta.block_tables, ring, key, b.kv_head);
  }
};
template <typename T>
__device__ __forceinline__ const T* of_lane(const T* pointer, int lane) {
  return reinterpret_cast<const T*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(pointer), lane));
}

// 8 lanes copy 128 bytes.
template <int kKeyDim>
__device__ void gather(const AttentionParams& p, const Block& b, uint8_t* stages, Barriers& barriers, bf16) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const Finder<bf16> find(p, b);
  const bf16* next = find.at(b.begin);
  int stage = 0, tiles = 0;
  uint32_t phase = 1;
  for (int first = b.begin; first < b.end; first += kKeys, ++tiles) {
    const bf16* row = next;
    if (first + kKeys < b.end) next = find.at(first + kKeys);
    barrier_wait(&barriers.empty[stage], phase);
    uint8_t* to = stages + stage * Stage<kKeyDim>::kBytes;
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // four keys, then their values
      const int r = warp * 16 + i % 4 * 4 + lane / 8, piece = lane % 8;
      const bf16* from = of_lane(row, i / 4 * 16 + i % 4 * 4 + lane / 8);
      uint8_t* there = to + (i / 4 == 0 ? 0 : Stage<kKeyDim>::kValues) + r * 128 + (piece ^ (r % 8)) * 16;
      const bool inside = first + r < b.end;
#pragma unroll
      for (int panel = 0; panel < (i / 4 == 0 ? kKeyDim / 64 : 2); ++panel) {
        copy_async16_or_zero(there + panel * kPanel, from + panel * 64 + piece * 8, inside);
      }
    }
    copy_commit();
    if (tiles >= kLag) hand_over<kLag>(&barriers.full[(tiles - kLag) % kStages]);
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  static_assert(kLag == 2);
  if (tiles >= 2) hand_over<1>(&barriers.full[(tiles - 2) % kStages]);
  hand_over<0>(&barriers.full[(tiles - 1) % kStages]);
}

// e4m3: 4 lanes read 64 values of a row, a tile ahead, and write them as 128 bytes of a panel.
template <int kKeyDim>
__device__ void gather(const AttentionParams& p, const Block& b, uint8_t* stages, Barriers& barriers, e4m3) {
  constexpr int kKeyPanels = kKeyDim / 64, kPanels = kKeyPanels + 2;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, key = warp * 16 + lane / 4;
  const Finder<e4m3> find(p, b);
  uint4 held[kPanels][2];  // of keys `key` and `key` + 8
  const auto load = [&](int panel, int k, const e4m3* row, int first) {
    const bool value = panel >= kKeyPanels;
    const e4m3* from = of_lane(row, value * 16 + k * 8 + lane / 4) + (panel - value * kKeyPanels) * 64 + lane % 4 * 16;
    held[panel][k] =
        first + key + 8 * k < b.end ? __ldcg(reinterpret_cast<const uint4*>(from)) : uint4{0, 0, 0, 0};
  };
  const e4m3* next = find.at(b.begin);
#pragma unroll
  for (int i = 0; i < 2 * kPanels; ++i) load(i / 2, i % 2, next, b.begin);
  next = find.at(b.begin + kKeys);
  int stage = 0;
  uint32_t phase = 1;
  for (int first = b.begin; first < b.end; first += kKeys) {
    barrier_wait(&barriers.empty[stage], phase);
    uint8_t* to = stages + stage * Stage<kKeyDim>::kBytes + key * 128;
#pragma unroll
    for (int i = 0; i < 2 * kPanels; ++i) {
      const uint4 v = held[i / 2][i % 2];
      uint8_t* there = to + i / 2 * kPanel + i % 2 * 8 * 128;
      *reinterpret_cast<uint4*>(there + ((lane % 4 * 2) ^ (lane / 4)) * 16) = widen_e4m3({v.x, v.y});
      *reinterpret_cast<uint4*>(there + ((lane % 4 * 2 + 1) ^ (lane / 4)) * 16) = widen_e4m3({v.z, v.w});
      if (first + kKeys < b.end) load(i / 2, i % 2, next, first + kKeys);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    barrier_arrive(&barriers.full[stage]);
    next = find.at(first + 2 * kKeys);
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
}

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
__device__ void attend(const AttentionParams& p, const Block& b, const uint8_t* stages, Barriers& barriers) {
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
  barrier_wait(&barriers.full[0], 0);
  wgmma_fence();
  a.start_scores(scores, stages);
  wgmma_wait<0>(scores);
  mask(scores, b.begin);
  a.soften(scores, factor);
  pack(scores, probabilities);
  int stage = 0;
  uint32_t phase = 0;
#pragma unroll 1
  for (int i = 0; i + 1 < tiles; ++i) {
    const uint8_t* values = stages + stage * Stage<kKeyDim>::kBytes + Stage<kKeyDim>::kValues;
    uint64_t* empty = &barriers.empty[stage];
    if (++stage == kStages) stage = 0, phase ^= 1;
    barrier_wait(&barriers.full[stage], phase);
    wgmma_fence();
    a.start_scores(scores, stages + stage * Stage<kKeyDim>::kBytes);
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
  a.start_values(probabilities, stages + stage * Stage<kKeyDim>::kBytes + Stage<kKeyDim>::kValues);
  wgmma_wait<0>(a.out);
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
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  const Block b = block_of(p);
  if (threadIdx.x >= kGroups * 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(sizeof(Kv) == 1 ? 88 : 56));
    gather<kKeyDim>(p, b, stages, barriers, Kv());
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(sizeof(Kv) == 1 ? 208 : 224));
    attend<kKeyDim>(p, b, stages, barriers);
  }
}

template <int kKeyDim, typename Kv>
cudaError_t LaunchOne(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kShared = Stage<kKeyDim>::kShared;
  const auto kernel = attention_wgmma<kKeyDim, Kv>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (configured != cudaSuccess) return configured;
  return Launch(kernel, dim3(p.num_tiles, p.kv_heads), dim3(kThreads), kShared, stream, p);
}

}  // namespace

cudaError_t LaunchAttentionPrefill(const AttentionParams& p, cudaStream_t stream) {
  if (p.k.element_bytes == 1) {
    return p.head_dim == 128 ? LaunchOne<128, e4m3>(p, stream) : LaunchOne<192, e4m3>(p, stream);
  }
  return p.head_dim == 128 ? LaunchOne<128, bf16>(p, stream) : LaunchOne<192, bf16>(p, stream);
}

}  // namespace minimo::cuda
