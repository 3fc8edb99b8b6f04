// What fp8_wide's blocks walk through, and how it gets into shared memory.
//
// A block computes up to 128 tokens x kRows rows of W. Two warpgroups multiply, each kRows / 2 of the rows, in one or
// two products of 64 tokens; one warp copies. A stage of the ring holds one unit (128 columns): the tokens' e4m3 values
// as wgmma's A (rows of 128 bytes, swizzled), the weights' tiles as they lie in memory, one after the other, as its B
// (weight_tiles.h), the scales of both. Step c of half h (32 columns) is bytes 64 h + 32 c of the tokens' rows and
// bytes 32 h of blocks c and 2 + c of the tiles.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"

namespace minimo::cuda {

template <int kRows_, int kStages_>
struct WideConfig {
  static constexpr int kRows = kRows_, kStages = kStages_, kTokens = 128, kTiles = kRows / kTileRows;
  static constexpr int kPart = kRows / 2;  // rows of a warpgroup: columns of a product
  static constexpr int kMultiply = 256, kThreads = kMultiply + 128;
  static constexpr int kWeights = kTokens * 128, kScales = kWeights + kRows * 128, kTileScales = kScales + kTokens * 4;
  static constexpr int kStage = (kTileScales + kTiles * 8 + 1023) / 1024 * 1024;
  static constexpr int kShared = kStages * kStage + 1024;
  // What the warpgroups have in the end must not be more than the block started with: 168 a thread.
  static constexpr int kCopyRegisters = 40, kMultiplyRegisters = 232;
};

struct WideBarriers {
  uint64_t full[8], empty[8];
};

template <typename C>
__device__ __forceinline__ void init_barriers(WideBarriers& b) {
  for (int i = 0; i < C::kStages; ++i) {
    barrier_init(&b.full[i], 32);
    barrier_init(&b.empty[i], C::kMultiply / 32);
  }
  fence_async_reads();
}

// One warp brings every tile's units in turn, lane k the k-th tile of weights.
template <typename C, bool kPrefetch>
__device__ __forceinline__ void copy_wide(const Fp8LinearParams& p, const Fp8Schedule& schedule, uint8_t* stages,
                                          WideBarriers& barriers) {
  constexpr int kUnitBytes = UnitBytes(TileFormat::kFp8);
  const int lane = threadIdx.x % 32, units = p.shape.units;
  const bool has_tile = lane < C::kTiles;
  int stage = 0;
  uint32_t phase = 1;
  for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
    const Fp8Where t = schedule.at(i);
    const int tokens = (t.end - t.first + 7) / 8 * 8;
    const int64_t at = int64_t{min(t.row_block * C::kTiles + lane, p.shape.tiles - 1)} * units;
    const uint8_t* weights = p.weights + t.expert * p.expert_weight_bytes + at * kUnitBytes;
    const float2* scales = reinterpret_cast<const float2*>(p.scales + t.expert * p.expert_scale_bytes) + at;
    float2 scale = has_tile ? __ldcg(scales) : float2{0, 0};
    for (int u = 0; u < units; ++u) {
      if (kPrefetch && u == max(0, units - kPrefetchUnits)) prefetch_residual<C>(p, t, lane, 32);
      barrier_wait(&barriers.empty[stage], phase);
      uint8_t* to = stages + stage * C::kStage;
      uint64_t* full = &barriers.full[stage];
      if (has_tile) *reinterpret_cast<float2*>(to + C::kTileScales + lane * 8) = scale;
      if (lane == 0) {
        barrier_expect(full, tokens * 132 + C::kTiles * kUnitBytes);
      } else {
        barrier_arrive(full);
      }
      __syncwarp();
      if (has_tile) {
        bulk_copy(to + C::kWeights + lane * kUnitBytes, weights + int64_t{u} * kUnitBytes, kUnitBytes, full);
      }
      if (lane == 0) {
        const int64_t row = int64_t{u} * p.x.rows + t.first;
        bulk_copy(to, p.x.values + row * 128, tokens * 128, full);
        bulk_copy(to + C::kScales, p.x.scales + row, tokens * 4, full);
      }
      if (has_tile && u + 1 < units) scale = __ldcg(scales + u + 1);
      if (++stage == C::kStages) stage = 0, phase ^= 1;
    }
  }
}

}  // namespace minimo::cuda
