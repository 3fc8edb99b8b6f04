// Matrix times 65 to 256 tokens, FP8 weights, bf16 activations, on wgmma: weights, expanded in registers, are A, up to
// 128 tokens in shared memory are B. What is short here is L2: each block reads all of x for its rows. So a block has
// 128 rows, and where that leaves SMs idle two or four blocks of a cluster share the columns, not the rows, and add up
// their sums, each a part of them, in a fixed order.
// - Two warpgroups multiply, 64 rows each; one copies units of 128 columns into a ring. The first weights are requested
//   before wait_previous_kernel.
// - x lies as wgmma reads it: two panels of 64 columns, a token a row of 128 bytes, swizzled.
// - Weights: for step s a lane takes two pairs of bytes of a row's piece, so that A has the columns in x's order.
// - Scales of FP8 blocks multiply the float32 sums of a unit, so weights stay exact.
#include <cooperative_groups.h>

#include "cuda/kernels/batch_linear.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/linear_rows.cuh"
#include "cuda/kernels/wgmma_bf16.cuh"

namespace minimo::cuda {
namespace {

constexpr int kGroups = 2;
constexpr int kWarps = 4 * kGroups;  // that multiply, a tile each
constexpr int kThreads = kWarps * 32 + 128;
constexpr int kTileBytes = UnitBytes(TileFormat::kFp8);
constexpr int kMultiprocessors = 132;
constexpr int kHeld = 2;         // fragments of 16 rows x 8 tokens a warp adds up at once
constexpr int kMostFours = 28;  // clusters of four that are sure to run at once

template <int kN>
struct Config {
  static constexpr int kPanel = kN * 128;
  static constexpr int kWeights = 2 * kPanel;
  static constexpr int kStage = kWeights + kWarps * kTileBytes;
  static constexpr int kStages = 196608 / kStage;
  static constexpr int kLag = kStages - 2;  // units whose copies are still under way when the next one's begin
  static constexpr int kShared = kStages * kStage + 1024;
  static_assert(kWarps * 16 * kN * 4 <= kStages * kStage);
};

template <int kN>
struct Shared {
  uint64_t full[Config<kN>::kStages], empty[Config<kN>::kStages];
  float2 scales[Config<kN>::kStages][kWarps];
  float norm[kN];
};

// A block's tokens [first, first + count), tiles from tile0, units [begin, begin + steps).
struct Place {
  int first, count, tile0, begin, steps;
};

template <int kN>
__device__ void copy_units(const LinearParams& p, const Place& at, uint8_t* stages, Shared<kN>& shared) {
  using C = Config<kN>;
  const int thread = threadIdx.x % 128, units = p.shape.units;
  const auto weights = [&](int i) {
    uint8_t* to = stages + i % C::kStages * C::kStage + C::kWeights;
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      const int64_t tile = min(at.tile0 + k, p.shape.tiles - 1);
      const uint8_t* from = p.weights + (tile * units + at.begin + i) * kTileBytes;
      copy_async16(to + k * kTileBytes + thread * 16, from + thread * 16);
    }
    if (thread < 2 * kWarps) {
      const int64_t tile = min(at.tile0 + thread / 2, p.shape.tiles - 1);
      copy_async4(reinterpret_cast<float*>(shared.scales[i % C::kStages]) + thread,
                  p.scales + (tile * units + at.begin + i) * 8 + thread % 2 * 4);
    }
  };
#pragma unroll 1
  for (int i = 0; i < min(at.steps, C::kStages); ++i) weights(i);
  wait_previous_kernel();
  const int row = thread / 16, piece = thread % 16;  // of eight tokens, of 16 bytes
  uint32_t from[kN / 8];
#pragma unroll
  for (int n = 0; n < kN / 8; ++n) {
    const int token = 8 * n + row;
    const int source = token >= at.count          ? 0
                       : p.slot_token == nullptr ? at.first + token
                                                 : load_l2(p.slot_token + at.first + token);
    from[n] = static_cast<uint32_t>(source) * static_cast<uint32_t>(p.x_stride) * 2 + piece * 16;
  }
  const auto x = [&](int i) {
    uint8_t* to = stages + i % C::kStages * C::kStage + piece / 8 * C::kPanel + row * 128 + (piece % 8 ^ row) * 16;
    const uint8_t* source = static_cast<const uint8_t*>(p.x) + int64_t{at.begin + i} * (2 * kUnitCols);
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
      if (8 * n + row < at.count) copy_async16(to + n * 1024, source + from[n]);
    }
  };
#pragma unroll 1
  for (int i = 0; i < at.steps + C::kLag; ++i) {
    if (i < at.steps) {
      if (i >= C::kStages) {
        barrier_wait(&shared.empty[i % C::kStages], (i / C::kStages - 1) % 2);
        weights(i);
      }
      x(i);
    }
    copy_commit();  // the first with all of the first weights
    if (i < C::kLag) continue;
    copy_wait<C::kLag>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    barrier_arrive(&shared.full[(i - C::kLag) % C::kStages]);
  }
}

template <int kN>
__device__ __forceinline__ void multiply(const Place& at, const uint8_t* stages, Shared<kN>& shared,
                                         float (&sums)[kN / 2]) {
  using C = Config<kN>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int i = 0; i < at.steps; ++i) {
    const int slot = i % C::kStages;
    const uint8_t* stage = stages + slot * C::kStage;
    barrier_wait(&shared.full[slot], i / C::kStages % 2);
    __syncwarp();
    const uint8_t* weights = stage + C::kWeights + warp * kTileBytes + t / 2 * 4;
    const uint32_t pair = t % 2 == 0 ? kFirstPair : kSecondPair;
    uint32_t a[8][4];
#pragma unroll
    for (int s = 0; s < 8; ++s) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {  // row g + 8 (r % 2), columns 16 s + 8 (r / 2) + 2 t and the next
        const uint8_t* piece = weights + r % 2 * 1024 + s % 2 * 512 + fp8_piece(g, s / 2);
        a[s][r] = expand_fp8(*reinterpret_cast<const uint32_t*>(piece + r / 2 * 8), pair);
      }
    }
    const float2 scale = shared.scales[slot][warp];
    const uint64_t operand = swizzled_operand(smem_address(stage));
    float part[kN / 2];
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      wgmma_bf16<kN>(part, a[s], operand + s / 4 * (C::kPanel / 16) + s % 4 * 2, s > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(part);
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.empty[slot]);
#pragma unroll
    for (int k = 0; k < kN / 2; ++k) sums[k] = fmaf(k % 4 < 2 ? scale.x : scale.y, part[k], sums[k]);
  }
}

// Grid: blocks of a cluster, runs of kN tokens, runs of 128 rows.
template <int kN>
__global__ void __launch_bounds__(kThreads, 1) batch_wide(const __grid_constant__ LinearParams p) {
  using C = Config<kN>;
  extern __shared__ uint8_t smem[];
  __shared__ Shared<kN> shared;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  const int blocks = gridDim.x, rank = blockIdx.x, units = p.shape.units;
  const int begin = units * rank / blocks;
  const Place at = {static_cast<int>(blockIdx.y) * kN, min(p.tokens - static_cast<int>(blockIdx.y) * kN, kN),
                    static_cast<int>(blockIdx.z) * kWarps, begin, units * (rank + 1) / blocks - begin};
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&shared.full[i], 128);
      barrier_init(&shared.empty[i], kWarps);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  const auto cluster = cooperative_groups::this_cluster();
  if (threadIdx.x >= kWarps * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    copy_units<kN>(p, at, stages, shared);
    allow_next_kernel();
    if (blocks > 1) cluster.sync(), cluster.sync();
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_previous_kernel();
  allow_next_kernel();
  norm_factors<kN, kWarps>(p, at.first, at.count, shared.norm);
  float sums[kN / 2] = {};
  multiply<kN>(at, stages, shared, sums);
  // Through shared memory even without a cluster: a fragment's way out is long, and code that runs once costs its
  // fetch.
  const auto together = [] { asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory"); };
  together();  // the ring is free, the factors are there
  float4* red = reinterpret_cast<float4*>(stages);  // [warps][kN / 8][32]
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    red[(warp * (kN / 8) + j) * 32 + lane] = {sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]};
  }
  if (blocks > 1) {
    cluster.sync();
  } else {
    together();
  }
  const int tile = at.tile0 + warp;
#pragma unroll 1
  for (int j = rank; j < kN / 8 && tile < p.shape.tiles; j += kHeld * blocks) {
    float4 sum[kHeld] = {};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (r >= blocks) break;
      const float4* from = (blocks > 1 ? cluster.map_shared_rank(red, r) : red) + warp * (kN / 8) * 32 + lane;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (j + k * blocks >= kN / 8) break;
        const float4 v = from[(j + k * blocks) * 32];
        sum[k].x += v.x, sum[k].y += v.y, sum[k].z += v.z, sum[k].w += v.w;
      }
    }
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int token0 = 8 * (j + k * blocks);
      if (token0 < at.count) write_fragment(p, tile, at.first, token0, at.count, shared.norm, sum[k]);
    }
  }
  if (blocks > 1) cluster.sync();  // the others read this block's sums
}

template <int kN>
cudaError_t LaunchTokens(const LinearParams& p, cudaStream_t stream) {
  using C = Config<kN>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(batch_wide<kN>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kShared);
  if (configured != cudaSuccess) return configured;
  const int rows = (p.shape.tiles + kWarps - 1) / kWarps, runs = (p.tokens + kN - 1) / kN;
  int blocks = 1;
  if (p.shape.units >= 8 && rows * runs <= kMultiprocessors / 2) blocks = 2;
  if (p.shape.units >= 16 && rows * runs <= kMostFours) blocks = 4;
  return LaunchCluster(batch_wide<kN>, dim3(blocks, runs, rows), dim3(kThreads), blocks, C::kShared, stream, p);
}

}  // namespace

bool CanBatchWide(const LinearParams& p) {
  return CanBatchLinear(p) && p.shape.format == TileFormat::kFp8 && p.tokens > 16;
}

bool PrefersBatchWide(const LinearParams& p) { return CanBatchWide(p) && p.tokens > 64; }

cudaError_t LaunchBatchWide(const LinearParams& p, cudaStream_t stream) {
  if (p.tokens <= 32) return LaunchTokens<32>(p, stream);
  return p.tokens <= 64 ? LaunchTokens<64>(p, stream) : LaunchTokens<128>(p, stream);
}

}  // namespace minimo::cuda
