// What fp8_linear's blocks walk through, and how it gets into shared memory.
//
// A block has `kGroups` warpgroups that multiply, each with `kProducts` products of 64 rows, and one that copies. A
// stage of the ring holds one unit (128 columns): the tokens' e4m3 values as wgmma's B operand, their scales, the
// weights' tiles and scales. Everything is copied past L1: what an earlier tenant of the memory left there is never
// seen.
#pragma once

#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {

constexpr int kPrefetchUnits = 12;  // before a tile's end

template <TileFormat kFormat, int kGroups_, int kProducts_, int kMostN_, int kStages_>
struct Fp8Config {
  static constexpr TileFormat kF = kFormat;
  static constexpr bool kBf16 = kFormat == TileFormat::kBf16, kFp8 = kFormat == TileFormat::kFp8;
  static constexpr int kGroups = kGroups_, kProducts = kProducts_, kMostN = kMostN_, kStages = kStages_;
  static constexpr int kWarps = 4 * kGroups;  // that multiply
  static constexpr int kThreads = kWarps * 32 + 128;
  static constexpr int kTiles = kWarps * kProducts;  // of 16 rows
  // bf16: a stage holds half a unit, in as many bytes as one of FP8.
  static constexpr int kHalves = kBf16 ? 2 : 1;
  static constexpr int kUnitBytes = UnitBytes(kFormat) / kHalves;
  // A tile of weights; where the banks want it, the second half of its 512-byte pieces lies 32 bytes further.
  static constexpr int kPieces = kUnitBytes / 512, kGap = kFp8 ? 0 : 32;
  static constexpr int kHalf = kPieces / 2 * 512 + kGap;
  static constexpr int kTile = kUnitBytes + kGap;
  static constexpr int kTileScale = kFp8 ? 8 : 0;
  static constexpr int kScales = kMostN * 128, kWeights = kScales + kMostN * 4, kTileScales = kWeights + kTiles * kTile;
  static constexpr int kStage = (kTileScales + kTiles * kTileScale + 1023) / 1024 * 1024;
  static constexpr int kShared = kStages * kStage + 1024;
  static constexpr int kCopyRegisters = kGroups == 4 ? 32 : 40;
  static constexpr int kMultiplyRegisters = kGroups == 4 ? 112 : 232;
};

// Where a thread that multiplies stands. With few registers to a thread it is computed once, unseen by the compiler,
// which would do it anew in every round.
template <typename C>
struct Fp8Lane {
  int lane, g, t, warp;
  __device__ Fp8Lane() {
    int thread = threadIdx.x;
    if constexpr (C::kGroups > 2) asm volatile("" : "+r"(thread));
    lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  }
  // Of the block's tiles, that of this warp's m-th product.
  __device__ __forceinline__ int tile(int m) const { return (warp / 4 * C::kProducts + m) * 4 + warp % 4; }
};

struct Fp8Barriers {
  uint64_t full[8], empty[8];
};

struct Fp8Where {
  int row_block, expert, first, begin, end;
};

// The list of (row block, token tile), row blocks fastest: concurrent blocks share tokens.
struct Fp8Schedule {
  const Fp8LinearParams& p;
  int row_blocks, width, count;

  __device__ Fp8Schedule(const Fp8LinearParams& params, int tiles_a_block, int dense_width)
      : p(params), width(dense_width) {
    row_blocks = (p.shape.tiles + tiles_a_block - 1) / tiles_a_block;
    const int token_tiles = p.tiles != nullptr ? load_l2(p.num_tiles) : (p.tokens + width - 1) / width;
    count = row_blocks * token_tiles;
  }
  __device__ Fp8Where at(int i) const {
    const int q = i / row_blocks, row_block = i % row_blocks;
    if (p.tiles == nullptr) return {row_block, 0, q * width, q * width, min((q + 1) * width, p.tokens)};
    const int4 t = __ldcg(reinterpret_cast<const int4*>(p.tiles) + q);
    return {row_block, t.x, t.y, t.z, t.w};
  }
};

// Columns of wgmma for so many tokens: a multiple of 32 or 120 where tiles are up to 128 wide, else of 8 from 16 to 80,
// or 96.
template <typename C>
__device__ __forceinline__ int fp8_columns(const Fp8Where& t) {
  const int tokens = t.end - t.first;
  if constexpr (C::kMostN > 96) return tokens > 96 && tokens <= 120 ? 120 : (tokens + 31) / 32 * 32;
  return tokens > 80 ? 96 : max((tokens + 7) / 8 * 8, 16);
}

// Arrives when the copies that this thread has asked for are there; the barrier counts every such thread.
__device__ __forceinline__ void arrive_after_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(barrier)) : "memory");
}

template <typename C>
__device__ __forceinline__ void init_barriers(Fp8Barriers& b) {
  for (int i = 0; i < C::kStages; ++i) {
    barrier_init(&b.full[i], 128 + 1);
    barrier_init(&b.empty[i], C::kWarps);
  }
  fence_async_reads();
}

// The residual that a tile's results will be added to, into L2: its reads at the end would all wait for memory at once.
template <typename C>
__device__ __forceinline__ void prefetch_residual(const Fp8LinearParams& p, const Fp8Where& t, int thread,
                                                  int threads) {
  const int first = t.row_block * C::kTiles * kTileRows, rows = min(C::kTiles * kTileRows, p.out_rows - first);
  if (rows % 4 != 0) return;
  for (int token = t.first + thread; token < t.end; token += threads) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p.residual + int64_t{token} * p.out_rows + first),
                 "r"(rows * 4)
                 : "memory");
  }
}

// Four warps copy every tile's units in turn.
template <typename C, bool kPrefetch>
__device__ __forceinline__ void copy_stages(const Fp8LinearParams& p, const Fp8Schedule& schedule, uint8_t* stages,
                                            Fp8Barriers& barriers) {
  constexpr int kTilesWarp = C::kTiles / 4;  // warp w: tiles w, w + 4 ..
  const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
  int stage = 0;
  uint32_t stage_phase = 1;
  for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
    const Fp8Where t = schedule.at(i);
    const int columns = fp8_columns<C>(t), units = p.shape.units * C::kHalves;
    const int last = p.shape.tiles - 1, first = t.row_block * C::kTiles;
    const uint8_t* weights = p.weights + t.expert * p.expert_weight_bytes + lane * 16;
    uint32_t tile_at[kTilesWarp];  // a matrix is smaller than 4 GB
#pragma unroll
    for (int k = 0; k < kTilesWarp; ++k) {
      const int tile = min(first + 4 * k + warp, last);
      tile_at[k] = static_cast<uint32_t>(tile) * static_cast<uint32_t>(units * C::kUnitBytes);
    }
    const float2* tile_scale = nullptr;
    float2 next_scale = {0, 0};
    if constexpr (C::kFp8) {
      if (warp == 0 && lane < C::kTiles) {
        tile_scale = reinterpret_cast<const float2*>(p.scales + t.expert * p.expert_scale_bytes) +
                     int64_t{min(first + lane, last)} * units;
        next_scale = __ldcg(tile_scale);
      }
    }
    for (int u = 0; u < units; ++u) {
      if (kPrefetch && u == max(0, units - kPrefetchUnits)) {
        prefetch_residual<C>(p, t, thread, 128);
      }
      barrier_wait(&barriers.empty[stage], stage_phase);
      uint8_t* to = stages + stage * C::kStage;
      uint64_t* full = &barriers.full[stage];
#pragma unroll
      for (int k = 0; k < kTilesWarp; ++k) {
        const uint8_t* from = weights + tile_at[k];
        uint8_t* there = to + C::kWeights + (4 * k + warp) * C::kTile + lane * 16;
#pragma unroll
        for (int c = 0; c < C::kPieces; ++c) {
          copy_async16(there + c * 512 + (c >= C::kPieces / 2 ? C::kGap : 0), from + c * 512);
        }
      }
      weights += C::kUnitBytes;
      if constexpr (C::kFp8) {
        if (warp == 0 && lane < C::kTiles) {
          *reinterpret_cast<float2*>(to + C::kTileScales + lane * 8) = next_scale;
          if (u + 1 < units) next_scale = __ldcg(tile_scale + u + 1);
        }
        __syncwarp();  // lane 0's arrival below is all lanes'
      }
      arrive_after_copies(full);
      if (warp == 0) {
        if (lane == 0) {
          const int64_t row = int64_t{u} * p.x.rows + t.first;
          barrier_expect(full, columns * (C::kBf16 ? 128 : 132));
          bulk_copy(to, p.x.values + row * 128, columns * 128, full);
          if (!C::kBf16) bulk_copy(to + C::kScales, p.x.scales + row, columns * 4, full);
        }
      }
      if (++stage == C::kStages) stage = 0, stage_phase ^= 1;
    }
  }
}

}  // namespace minimo::cuda
