// Matrix times up to 256 tokens, FP8 weights, bf16 activations in two e4m3 parts (split_rows.cuh), on wgmma with both
// operands in shared memory: weights go from memory to the tensor cores as they lie. A block has 128 rows, up to 128
// tokens and, as one of a cluster, a run of the columns, so that x is read for 128 rows at once.
// - One warp copies weights, one x, each through a ring of its own; weights do not wait for the kernel before.
// - Two warpgroups multiply 64 rows each; both parts of x go into one sum, which scales multiply unit by unit, while
//   the next unit's product is on its way.
// - Sums pass shared memory by tokens; the cluster adds them up in a fixed order, each block a part of the tokens.
// - Little code: most of it runs a dozen times or once, and its fetch is what it costs.
#include <cooperative_groups.h>

#include "cuda/kernels/batch_linear.cuh"
#include "cuda/kernels/cluster.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_x.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 8;                // that multiply, a tile each
constexpr int kThreads = kWarps * 32 + 128;  // two warps copy: setmaxnreg goes by warpgroups
constexpr int kRows = kWarps * kTileRows;
constexpr int kTileBytes = UnitBytes(TileFormat::kFp8);
constexpr int kWeights = kWarps * kTileBytes;  // of a unit
constexpr int kPitch = kRows + 4;  // floats of a token's sums: what a warp stores at once falls into distinct banks
constexpr int kMostBlocks = 4;     // of a cluster
constexpr int kHeld = 2;           // tokens a warp adds up at once

template <int kN>
struct Config {
  static constexpr int kX = PadTo(kN * kSplitTokenBytes, 1024);  // of a unit
  static constexpr int kXStages = kN <= 32 ? 8 : kN <= 96 ? 4 : 3;
  static constexpr int kWeightStages = (220 * 1024 - kXStages * kX) / kWeights;
  static constexpr int kShared = kXStages * kX + kWeightStages * kWeights + 1024;
  static_assert(kN * kPitch * 4 + 1024 <= kShared);
};

// A place of a ring, in turn.
template <int kStages>
struct Turn {
  int slot = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++slot == kStages) slot = 0, phase ^= 1;
  }
};

template <int kStages>
struct Ring {
  uint64_t full[kStages], empty[kStages];
  __device__ __forceinline__ void init() {
    for (int i = 0; i < kStages; ++i) barrier_init(&full[i], 1), barrier_init(&empty[i], kWarps);
  }
};

template <int kN>
struct Shared {
  Ring<Config<kN>::kWeightStages> weights;
  Ring<Config<kN>::kXStages> x;
  float norm[kN];
};

// A block's tokens [first, first + count) in `rows` rows, tiles from tile0, units [begin, begin + steps).
struct Place {
  int first, count, rows, tile0, begin, steps;
};

template <int kN>
__device__ __forceinline__ void copy_weights(const LinearParams& p, const Place& at, uint8_t* to, Shared<kN>& shared) {
  const int lane = threadIdx.x % 32;
  const int64_t tile = min(at.tile0 + lane, p.shape.tiles - 1);
  const uint8_t* from = p.weights + (tile * p.shape.units + at.begin) * kTileBytes;
  Turn<Config<kN>::kWeightStages> turn;
#pragma unroll 1
  for (int i = 0; i < at.steps; ++i) {
    if (i >= Config<kN>::kWeightStages) barrier_wait(&shared.weights.empty[turn.slot], turn.phase ^ 1);
    uint64_t* full = &shared.weights.full[turn.slot];
    if (lane == 0) barrier_expect(full, kWeights);
    __syncwarp();
    if (lane < kWarps) {
      bulk_copy(to + turn.slot * kWeights + lane * kTileBytes, from + int64_t{i} * kTileBytes, kTileBytes, full);
    }
    turn.next();
  }
}

// One thread.
template <int kN>
__device__ __forceinline__ void copy_x(const LinearParams& p, const Place& at, uint8_t* to, Shared<kN>& shared) {
  const int bytes = at.rows * kSplitTokenBytes;
  const uint8_t* from = p.split.data + int64_t{at.first} * p.shape.units * kSplitTokenBytes + int64_t{at.begin} * bytes;
  Turn<Config<kN>::kXStages> turn;
#pragma unroll 1
  for (int i = 0; i < at.steps; ++i) {
    if (i >= Config<kN>::kXStages) barrier_wait(&shared.x.empty[turn.slot], turn.phase ^ 1);
    barrier_expect(&shared.x.full[turn.slot], bytes);
    bulk_copy(to + turn.slot * Config<kN>::kX, from + int64_t{i} * bytes, bytes, &shared.x.full[turn.slot]);
    turn.next();
  }
}

// A unit's product on its way: what is needed when it is done.
template <int kN>
struct Product {
  float part[kN / 2];
  uint32_t powers;
  int weights_slot, x_slot;
};

template <int kN>
__device__ __forceinline__ void multiply(const LinearParams& p, const Place& at, const uint8_t* smem,
                                         Shared<kN>& shared, float (&sums)[kN / 2]) {
  using C = Config<kN>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const int64_t tile = min(at.tile0 + warp, p.shape.tiles - 1);
  const float2* tile_scales = reinterpret_cast<const float2*>(p.scales) + tile * p.shape.units + at.begin;
  const uint32_t x_ring = smem_address(smem);
  const uint32_t weights_ring = x_ring + C::kXStages * C::kX + warp / 4 * 4 * kTileBytes;
  Turn<C::kWeightStages> weights_turn;
  Turn<C::kXStages> x_turn;
  const auto begin = [&](Product<kN>& d) {
    const uint32_t x = x_ring + x_turn.slot * C::kX;
    const uint64_t first = swizzled_operand(x), second = swizzled_operand(x + at.rows * 128);
    const uint64_t weights = weights_operand(weights_ring + weights_turn.slot * kWeights);
    barrier_wait(&shared.weights.full[weights_turn.slot], weights_turn.phase);
    barrier_wait(&shared.x.full[x_turn.slot], x_turn.phase);
    __syncwarp();
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const uint64_t a = weights + s / 2 * (512 / 16) + s % 2 * 2;
      wgmma_e4m3<kN>(d.part, a, first + 2 * s, s > 0);
      wgmma_e4m3<kN>(d.part, a, second + 2 * s, true);
    }
    wgmma_commit();
    d.powers = x + at.rows * 256 + 8 * t, d.weights_slot = weights_turn.slot, d.x_slot = x_turn.slot;
    weights_turn.next(), x_turn.next();
  };
  float2 scales;  // of step 32 k + lane
  const auto end = [&](int i, Product<kN>& d) {
    if (i % 32 == 0) scales = __ldg(tile_scales + min(i + lane, at.steps - 1));
    const float top = __shfl_sync(0xffffffffu, scales.x, i % 32), bottom = __shfl_sync(0xffffffffu, scales.y, i % 32);
    if (lane == 0) barrier_arrive(&shared.weights.empty[d.weights_slot]);
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const float2 power = load_shared_float2(d.powers + 32 * j);
      sums[4 * j] = fmaf(top * power.x, d.part[4 * j], sums[4 * j]);
      sums[4 * j + 1] = fmaf(top * power.y, d.part[4 * j + 1], sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(bottom * power.x, d.part[4 * j + 2], sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(bottom * power.y, d.part[4 * j + 3], sums[4 * j + 3]);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.x.empty[d.x_slot]);
  };
  Product<kN> even, odd;
  begin(even);
  const int pairs = (at.steps - 1) / 2;
#pragma unroll 1
  for (int i = 0; i < pairs; ++i) {
    begin(odd);
    wgmma_wait<1>(even.part);
    end(2 * i, even);
    begin(even);
    wgmma_wait<1>(odd.part);
    end(2 * i + 1, odd);
  }
  if (at.steps % 2 == 0) {
    begin(odd);
    wgmma_wait<1>(even.part);
    end(at.steps - 2, even);
    wgmma_wait<0>(odd.part);
    end(at.steps - 1, odd);
  } else {
    wgmma_wait<0>(even.part);
    end(at.steps - 1, even);
  }
}

__device__ __forceinline__ uint2 four_bf16(const float4& v) { return {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)}; }

// A token's values of the block's rows, four a lane. `before`: the residual's. All lanes together.
__device__ __forceinline__ void write_rows(const LinearParams& p, int tile0, int64_t token, float norm, float4 v,
                                           const float4& before) {
  const int lane = threadIdx.x % 32, row = tile0 * kTileRows + 4 * lane, tile = tile0 + lane / 4;
  v = {v.x * norm, v.y * norm, v.z * norm, v.w * norm};
  if (p.epilogue == Epilogue::kSwiGlu) {  // the other half of a tile has the up projection
    const float4 up = {__shfl_down_sync(0xffffffffu, v.x, 2), __shfl_down_sync(0xffffffffu, v.y, 2),
                       __shfl_down_sync(0xffffffffu, v.z, 2), __shfl_down_sync(0xffffffffu, v.w, 2)};
    const auto glu = [](float gate, float x) { return gate / (1.0f + __expf(-gate)) * x; };
    const int out_row = tile * 8 + lane % 4 * 4;
    if (lane % 4 >= 2 || out_row >= p.out_rows) return;
    *reinterpret_cast<uint2*>(static_cast<bf16*>(p.out_x) + token * p.out_x_stride + out_row) =
        four_bf16({glu(v.x, up.x), glu(v.y, up.y), glu(v.z, up.z), glu(v.w, up.w)});
    return;
  }
  const bool live = row < p.out_rows;
  if (p.epilogue == Epilogue::kStore) {
    if (live) *reinterpret_cast<float4*>(p.out + token * p.out_stride + row) = v;
  } else if (live) {
    v = {v.x + before.x, v.y + before.y, v.z + before.z, v.w + before.w};
    *reinterpret_cast<float4*>(p.residual + token * p.out_rows + row) = v;
    if (p.next_norm != nullptr) {
      const float4 w = __ldg(reinterpret_cast<const float4*>(p.next_norm + row));
      *reinterpret_cast<uint2*>(static_cast<bf16*>(p.next_x) + token * p.next_x_stride + row) =
          four_bf16({v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w});
    }
  }
  if (p.next_square_sums == nullptr) return;
  float square = live ? v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w : 0.0f;
  square += __shfl_xor_sync(0xffffffffu, square, 1);
  square += __shfl_xor_sync(0xffffffffu, square, 2);
  if (lane % 4 == 0 && tile < p.shape.tiles) p.next_square_sums[token * p.shape.tiles + tile] = square;
}

// The cluster's sums [tokens][kPitch], this block's share of the tokens.
__device__ __forceinline__ void write_out(const LinearParams& p, const Place& at, float* sums, const float* norm) {
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = gridDim.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = at.tile0 * kTileRows + 4 * lane;
  const bool adds = p.epilogue == Epilogue::kResidual && row < p.out_rows;
#pragma unroll 1
  for (int i = warp * blocks + static_cast<int>(blockIdx.x); i < at.count; i += kHeld * kWarps * blocks) {
    float4 sum[kHeld] = {}, before[kHeld] = {};
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int token = min(i + k * kWarps * blocks, at.count - 1);
      const float* residual = p.residual + int64_t{at.first + token} * p.out_rows + row;
      if (adds) before[k] = load_l2(reinterpret_cast<const float4*>(residual));
#pragma unroll
      for (int r = 0; r < kMostBlocks; ++r) {
        if (r >= blocks) break;
        const float* from = (blocks > 1 ? cluster.map_shared_rank(sums, r) : sums) + token * kPitch;
        const float4 v = reinterpret_cast<const float4*>(from)[lane];
        sum[k].x += v.x, sum[k].y += v.y, sum[k].z += v.z, sum[k].w += v.w;
      }
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int token = i + k * kWarps * blocks;
      if (token < at.count) write_rows(p, at.tile0, at.first + token, norm[token], sum[k], before[k]);
    }
  }
}

// Grid: blocks of a cluster, runs of kSplitRun tokens, runs of 128 rows.
template <int kN>
__global__ void __launch_bounds__(kThreads, 1) batch_split(const __grid_constant__ LinearParams p) {
  using C = Config<kN>;
  extern __shared__ uint8_t dynamic[];
  __shared__ Shared<kN> shared;
  uint8_t* smem = swizzle_base(dynamic);  // x, weights; then sums
  const int blocks = gridDim.x, rank = blockIdx.x, units = p.shape.units;
  const int begin = units * rank / blocks, first = static_cast<int>(blockIdx.y) * kSplitRun;
  const int count = min(p.tokens - first, kN);
  const Place at = {first, count, (count + 7) / 8 * 8, static_cast<int>(blockIdx.z) * kWarps, begin,
                    units * (rank + 1) / blocks - begin};
  if (threadIdx.x == 0) {
    shared.weights.init(), shared.x.init();
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    fence_async_reads();
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  if (warp >= kWarps) {
    give_registers<56>();
    if (warp == kWarps) copy_weights<kN>(p, at, smem + C::kXStages * C::kX, shared);
    wait_previous_kernel();
    allow_next_kernel();
    if (threadIdx.x == (kWarps + 1) * 32) copy_x<kN>(p, at, smem, shared);
    __syncwarp();
    if (blocks > 1) cluster_sync(), cluster_sync_reads();
    return;
  }
  take_registers<224>();
  wait_previous_kernel();
  allow_next_kernel();
  if (threadIdx.x < kN) {
    const int token = first + min(static_cast<int>(threadIdx.x), count - 1);
    const int source = p.slot_token == nullptr ? token : load_l2(p.slot_token + token);
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < p.square_sum_count && p.square_sums != nullptr; ++i) {
      sum += load_l2(p.square_sums + int64_t{source} * p.square_sum_count + i);
    }
    const float norm = rsqrtf(sum / static_cast<float>(p.norm_cols) + p.norm_eps);
    shared.norm[threadIdx.x] = p.square_sums == nullptr ? 1.0f : norm;
  }
  float sums[kN / 2] = {};
  multiply<kN>(p, at, smem, shared, sums);
  const auto together = [] { asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory"); };
  together();  // the rings are free, the factors are there
  float* red = reinterpret_cast<float*>(smem);
  float* mine = red + 2 * t * kPitch + warp * kTileRows + g;
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) mine[(k / 4 * 8 + k % 2) * kPitch + k % 4 / 2 * 8] = sums[k];
  if (blocks > 1) {
    cluster_sync();
  } else {
    together();
  }
  write_out(p, at, red, shared.norm);
  if (blocks > 1) cluster_sync_reads();
}

template <int kN>
cudaError_t LaunchTokens(const LinearParams& p, cudaStream_t stream) {
  using C = Config<kN>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(batch_split<kN>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kShared);
  if (configured != cudaSuccess) return configured;
  if (!p.split_made) {
    const cudaError_t e = LaunchSplitRows(p.split, p.tokens, p.x, p.x_stride, p.slot_token, stream);
    if (e != cudaSuccess) return e;
  }
  // Clusters that run at once, H200: 66 of two, 30 of four.
  const int rows = (p.shape.tiles + kWarps - 1) / kWarps, runs = (p.tokens + kSplitRun - 1) / kSplitRun;
  int blocks = 1;
  if (p.shape.units >= 8 && rows * runs <= 66) blocks = 2;
  if (p.shape.units >= 16 && rows * runs <= 30) blocks = 4;
  return LaunchCluster(batch_split<kN>, dim3(blocks, runs, rows), dim3(kThreads), blocks, C::kShared, stream, p);
}

}  // namespace

bool CanBatchSplit(const LinearParams& p) {
  return CanBatchLinear(p) && p.shape.format == TileFormat::kFp8 && p.split.data != nullptr &&
         (p.out_rows | p.out_stride | p.next_x_stride | p.out_x_stride) % 4 == 0;
}

bool PrefersBatchSplit(const LinearParams& p) { return CanBatchSplit(p) && p.tokens >= 8; }

cudaError_t LaunchBatchSplit(const LinearParams& p, cudaStream_t stream) {
  if (p.tokens <= 16) return LaunchTokens<16>(p, stream);
  if (p.tokens <= 32) return LaunchTokens<32>(p, stream);
  if (p.tokens <= 64) return LaunchTokens<64>(p, stream);
  if (p.tokens <= 96) return LaunchTokens<96>(p, stream);
  return p.tokens <= 112 ? LaunchTokens<112>(p, stream) : LaunchTokens<128>(p, stream);
}

}  // namespace minimo::cuda
