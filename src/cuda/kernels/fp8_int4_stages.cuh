// What fp8_int4's blocks walk through, and how it gets into shared memory.
//
// A block computes 256 rows of W x up to 80 tokens. Two warpgroups multiply, each two products of 64 rows; two warps
// copy weights and tokens, one the scales. A stage of the ring holds one unit (128 columns): the tokens' e4m3 values as
// wgmma's B operand, the weights' tiles. Two buffers hold what belongs to a chunk of 8 units: the weights' scales, the
// tokens' offsets and scales.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"

namespace minimo::cuda {

struct Int4Config {
  static constexpr int kGroups = 2, kProducts = 2, kMostN = kInt4TileTokens, kStages = 7;
  static constexpr int kWarps = 4 * kGroups, kThreads = kWarps * 32 + 128, kTiles = kWarps * kProducts;
  // A tile of weights, its second half 32 bytes further for the banks' sake.
  static constexpr int kUnitBytes = UnitBytes(TileFormat::kInt4), kHalf = kUnitBytes / 2 + 32, kTile = kUnitBytes + 32;
  static constexpr int kWeights = kMostN * 128;
  static constexpr int kStage = (kWeights + kTiles * kTile + 1023) / 1024 * 1024;
  // A chunk: scales as they lie in memory, [tile][unit][groups][8][2] bf16; [token] offsets; [token] scales.
  static constexpr int kTileScales = kChunkUnits * 64, kOffsets = kTiles * kTileScales;
  static constexpr int kScales = kOffsets + kMostN * 64, kChunk = (kScales + kMostN * 4 + 127) / 128 * 128;
  static constexpr int kShared = kStages * kStage + 2 * kChunk + 1024;
  static constexpr int kCopyWarps = 2, kCopyRegisters = 40, kMultiplyRegisters = 232;
};

struct Int4Barriers {
  uint64_t full[8], empty[8], chunk_full[2], chunk_empty[2];
};

__device__ __forceinline__ void init_barriers(Int4Barriers& b) {
  for (int i = 0; i < Int4Config::kStages; ++i) {
    barrier_init(&b.full[i], Int4Config::kCopyWarps * 32 + 1);
    barrier_init(&b.empty[i], Int4Config::kWarps);
  }
  for (int i = 0; i < 2; ++i) {
    barrier_init(&b.chunk_full[i], 1);
    barrier_init(&b.chunk_empty[i], Int4Config::kWarps);
  }
  fence_async_reads();
}

__device__ __forceinline__ int int4_columns(const Fp8Where& t) { return max((t.end - t.first + 7) / 8 * 8, 16); }

// Two warps copy the weights and tokens of every tile's units in turn.
__device__ __forceinline__ void copy_units(const Fp8LinearParams& p, const Fp8Schedule& schedule, uint8_t* stages,
                                           Int4Barriers& barriers) {
  using C = Int4Config;
  constexpr int kTilesWarp = C::kTiles / C::kCopyWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, units = p.shape.units;
  int stage = 0;
  uint32_t phase = 1;
  for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
    const Fp8Where t = schedule.at(i);
    const int columns = int4_columns(t);
    const uint8_t* weights = p.weights + t.expert * p.expert_weight_bytes + lane * 16;
    uint32_t tile_at[kTilesWarp];  // a matrix is smaller than 4 GB
#pragma unroll
    for (int k = 0; k < kTilesWarp; ++k) {
      const int tile = min(t.row_block * C::kTiles + C::kCopyWarps * k + warp, p.shape.tiles - 1);
      tile_at[k] = static_cast<uint32_t>(tile) * static_cast<uint32_t>(units * C::kUnitBytes);
    }
    for (int u = 0; u < units; ++u) {
      barrier_wait(&barriers.empty[stage], phase);
      uint8_t* to = stages + stage * C::kStage;
      uint64_t* full = &barriers.full[stage];
#pragma unroll
      for (int k = 0; k < kTilesWarp; ++k) {
        const uint8_t* from = weights + tile_at[k];
        uint8_t* there = to + C::kWeights + (C::kCopyWarps * k + warp) * C::kTile + lane * 16;
        copy_async16(there, from);
        copy_async16(there + C::kHalf, from + C::kUnitBytes / 2);
      }
      weights += C::kUnitBytes;
      arrive_after_copies(full);
      if (warp == 0 && lane == 0) {
        barrier_expect(full, columns * 128);
        bulk_copy(to, p.x.values + (int64_t{u} * p.x.rows + t.first) * 128, columns * 128, full);
      }
      if (++stage == C::kStages) stage = 0, phase ^= 1;
    }
  }
}

// Another brings what belongs to the chunks.
__device__ __forceinline__ void copy_chunks(const Fp8LinearParams& p, const Fp8Schedule& schedule, uint8_t* chunks,
                                            Int4Barriers& barriers) {
  using C = Int4Config;
  const int lane = threadIdx.x % 32, unit_bytes = UnitScaleBytes(TileFormat::kInt4, p.shape.group_cols);
  int chunk = 0;
  uint32_t phase = 1;
  for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
    const Fp8Where t = schedule.at(i);
    const int columns = int4_columns(t);
    const int64_t tile = min(t.row_block * C::kTiles + lane, p.shape.tiles - 1);
    const uint8_t* scales = p.scales + t.expert * p.expert_scale_bytes + tile * p.shape.units * unit_bytes;
    for (int u = 0; u < p.shape.units; u += kChunkUnits) {
      const int bytes = min(kChunkUnits, p.shape.units - u) * unit_bytes;
      uint8_t* to = chunks + chunk * C::kChunk;
      uint64_t* full = &barriers.chunk_full[chunk];
      barrier_wait(&barriers.chunk_empty[chunk], phase);
      if (lane == 0) barrier_expect(full, C::kTiles * bytes + columns * 68);
      __syncwarp();
      if (lane < C::kTiles) bulk_copy(to + lane * C::kTileScales, scales + u * unit_bytes, bytes, full);
      if (lane == C::kTiles) {
        const int64_t row = int64_t{u / kChunkUnits} * p.x.rows + t.first;
        bulk_copy(to + C::kOffsets, p.x.offsets + row * kChunkUnits, columns * 64, full);
        bulk_copy(to + C::kScales, p.x.scales + row, columns * 4, full);
      }
      chunk ^= 1;
      if (chunk == 0) phase ^= 1;
    }
  }
}

}  // namespace minimo::cuda
