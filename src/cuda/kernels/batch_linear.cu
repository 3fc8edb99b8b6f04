// Matrix times 2 to 256 tokens, bf16 activations, mma with the weights as A and up to 64 tokens as B. A block has 64
// rows (bf16 weights: 32; 128 of matrices that leave every SM some, up to 32 tokens, as each block reads x) and all
// columns, or half of them: then two blocks of a cluster share the rows and add up.
// Its warps are teams of two, half of the rows each; a team takes every fourth unit of 128 columns through a ring of
// its own that holds the unit's weights and x, so teams meet only at the end, where the sums are added in a fixed
// order.
// - The first weights are requested before wait_previous_kernel.
// - A lane reads the shares of other lanes (experts_multiply.cuh), so that one of its reads of x is 16 bytes next to
//   its neighbours'. Copies place both so that reads hit all banks.
// - Scales of FP8 blocks multiply the float32 sums of a unit, so weights stay exact.
// - More than 64 tokens: a block for each 64, side by side, so that the weights come from L2.
// Shared memory: 4 teams * stages * (8 or 16 KB of weights + 256 bytes a token): 160 to 194 KB.
#include <cooperative_groups.h>

#include "cuda/kernels/batch_linear.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/linear_rows.cuh"
#include "cuda/kernels/stream_x.cuh"

namespace minimo::cuda {
namespace {

constexpr int kTeams = 4;
constexpr int kHalves = 2;  // warps of a team
constexpr int kWarps = kTeams * kHalves;
constexpr int kThreads = kWarps * 32;
constexpr int kXRow = 2 * kUnitCols;  // bytes of a token's unit

// kT: tiles of a warp; kN: eights of tokens.
template <TileFormat kF, int kT, int kN>
struct Config {
  static constexpr int kTiles = kT;
  static constexpr int kWeightBytes = kHalves * kTiles * UnitBytes(kF);
  static constexpr int kScaleBytes = kF == TileFormat::kFp8 ? kHalves * kTiles * 8 : 0;
  static constexpr int kStageBytes = kWeightBytes + 8 * kN * kXRow + (kScaleBytes > 0 ? 128 : 0);
  static constexpr int kStages = kN == 8 ? 2 : kT == 4 ? (kN == 1 ? 3 : 2) : kN == 4 ? 3 : 4;
  static constexpr int kSharedBytes = kTeams * kStages * kStageBytes;
  static constexpr int kRowRegisters = (kN + 3) / 4;  // of 32 lanes, a token each
  static constexpr int kFragments = kHalves * kTiles * kN;  // of 16 rows x 8 tokens
  static_assert(kTeams * kFragments * 512 <= kSharedBytes);
};

// Where a warp stands.
struct Place {
  int team, half, tile0, first, count;  // tile0: of this warp; tokens [first, first + count)
};

template <TileFormat kF, int kT, int kN>
__device__ __forceinline__ void request_weights(const LinearParams& p, const Place& at, uint8_t* stage, int unit,
                                                uint64_t policy) {
  using C = Config<kF, kT, kN>;
  const int lane = threadIdx.x % 32, units = p.shape.units;
#pragma unroll
  for (int m = 0; m < C::kTiles; ++m) {
    if (at.tile0 + m >= p.shape.tiles) break;
    const int64_t block = int64_t{at.tile0 + m} * units + unit;
    uint8_t* to = stage + (at.half * C::kTiles + m) * UnitBytes(kF);
#pragma unroll
    for (int c = 0; c < UnitBytes(kF) / 512; ++c) {
      const int swizzled = lane ^ (kF == TileFormat::kFp8 ? c % 2 * 2 : c / 2);
      copy_weights16(to + c * 512 + swizzled * 16, p.weights + block * UnitBytes(kF) + c * 512 + lane * 16, policy);
    }
    if constexpr (kF == TileFormat::kFp8) {
      uint8_t* scale = stage + C::kWeightBytes + 8 * kN * kXRow + (at.half * C::kTiles + m) * 8;
      if (lane < 2) copy_async4(scale + 4 * lane, p.scales + block * 8 + 4 * lane);
    }
  }
}

// This warp's half of the unit's x: 16 pieces of 16 bytes a token, odd tokens' turned by four.
template <TileFormat kF, int kT, int kN>
__device__ __forceinline__ void request_x(const LinearParams& p, const Place& at, uint8_t* stage, int unit,
                                          const int (&row)[Config<kF, kT, kN>::kRowRegisters]) {
  using C = Config<kF, kT, kN>;
  const int lane = threadIdx.x % 32, piece = lane % 16;
  uint8_t* x = stage + C::kWeightBytes;
  const uint8_t* from = static_cast<const uint8_t*>(p.x) + int64_t{unit} * kXRow + piece * 16;
#pragma unroll
  for (int i = 0; i < 2 * kN; ++i) {
    const int token = 4 * i + 2 * at.half + lane / 16;
    const int64_t source = __shfl_sync(0xffffffffu, row[i / 8], token % 32);
    uint8_t* to = x + token * kXRow + (piece ^ (token % 2 * 4)) * 16;
    if (token < at.count) copy_async16(to, from + source * p.x_stride * 2);
  }
}

// Adds one unit.
template <TileFormat kF, int kT, int kN>
__device__ __forceinline__ void multiply(const Place& at, const uint8_t* stage,
                                         float (&sums)[Config<kF, kT, kN>::kTiles][kN][4]) {
  using C = Config<kF, kT, kN>;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t weights = smem_address(stage) + at.half * C::kTiles * UnitBytes(kF);
  const uint32_t x = smem_address(stage) + C::kWeightBytes + g * kXRow;
  float part[C::kTiles][kN][4] = {};
#pragma unroll
  for (int phase = 0; phase < 4; ++phase) {  // 32 columns
    uint4 b[kN];
#pragma unroll
    for (int n = 0; n < kN; ++n) b[n] = load_shared(x + 8 * n * kXRow + ((4 * phase + t) ^ (g % 2 * 4)) * 16);
    const uint32_t share = weights + (kF == TileFormat::kFp8 ? fp8_run(phase) : ((4 * g + phase) ^ t) * 16);
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m) {
      uint32_t a[2][4];
      if constexpr (kF == TileFormat::kFp8) {
        const uint2 top = load_shared_pair(share + m * UnitBytes(kF));
        const uint2 bottom = load_shared_pair(share + m * UnitBytes(kF) + 1024);
        expand_fp8(top.x, bottom.x, a[0]);
        expand_fp8(top.y, bottom.y, a[1]);
      } else {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const uint4 w = load_shared(share + m * UnitBytes(kF) + (2 * t + s) * 512);
          a[s][0] = w.x, a[s][1] = w.y, a[s][2] = w.z, a[s][3] = w.w;
        }
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        mma_bf16(part[m][n], a[0], b[n].x, b[n].y);
        mma_bf16(part[m][n], a[1], b[n].z, b[n].w);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < C::kTiles; ++m) {
    float2 scale = {1, 1};
    if constexpr (kF == TileFormat::kFp8) {
      const uint32_t scales = smem_address(stage) + C::kWeightBytes + 8 * kN * kXRow;
      scale = load_shared_float2(scales + (at.half * C::kTiles + m) * 8);
    }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] += (i < 2 ? scale.x : scale.y) * part[m][n][i];
    }
  }
}

// Grid: blocks of a cluster, runs of 8 kN tokens, runs of rows.
template <TileFormat kF, int kT, int kN>
__global__ void __launch_bounds__(kThreads, 1) batch_linear(const __grid_constant__ LinearParams p) {
  using C = Config<kF, kT, kN>;
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ float norm[8 * kN];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, units = p.shape.units;
  const int blocks = gridDim.x, rank = blockIdx.x;
  Place at;
  at.team = warp / kHalves, at.half = warp % kHalves;
  at.tile0 = (blockIdx.z * kHalves + at.half) * C::kTiles;
  at.first = blockIdx.y * 8 * kN, at.count = min(p.tokens - at.first, 8 * kN);
  // The team's units, from one on that differs from block to block: all blocks read the same x, at other times.
  const int begin = units * rank / blocks + at.team, end = units * (rank + 1) / blocks;
  const int steps = max(0, (end - begin + kTeams - 1) / kTeams), turn = steps > 0 ? blockIdx.z % steps : 0;
  const auto unit_of = [&](int step) { return begin + kTeams * (step + turn - (step + turn < steps ? 0 : steps)); };
  uint8_t* ring = smem + at.team * C::kStages * C::kStageBytes;
  const uint64_t policy = weights_policy();
#pragma unroll 1
  for (int i = 0; i < C::kStages; ++i) {
    if (i < steps) request_weights<kF, kT, kN>(p, at, ring + i * C::kStageBytes, unit_of(i), policy);
  }
  wait_previous_kernel();
  const auto row_of = [&](int token) {
    if (token >= at.count) return 0;
    return p.slot_token == nullptr ? at.first + token : load_l2(p.slot_token + at.first + token);
  };
  int row[C::kRowRegisters];
#pragma unroll
  for (int i = 0; i < C::kRowRegisters; ++i) row[i] = row_of(32 * i + lane);
#pragma unroll 1
  for (int i = 0; i < C::kStages; ++i) {
    if (i < steps) request_x<kF, kT, kN>(p, at, ring + i * C::kStageBytes, unit_of(i), row);
    copy_commit();  // the first with all of the first weights
  }
  allow_next_kernel();
  norm_factors<8 * kN, kWarps>(p, at.first, at.count, norm);
  const auto team_barrier = [&] { asm volatile("bar.sync %0, 64;" ::"r"(at.team + 1) : "memory"); };
  float sums[C::kTiles][kN][4] = {};
  int stage = 0;
  for (int step = 0; step < steps; ++step) {
    copy_wait<C::kStages - 1>();
    team_barrier();
    uint8_t* from = ring + stage * C::kStageBytes;
    multiply<kF, kT, kN>(at, from, sums);
    team_barrier();
    if (step + C::kStages < steps) {
      const int next = unit_of(step + C::kStages);
      request_weights<kF, kT, kN>(p, at, from, next, policy);
      request_x<kF, kT, kN>(p, at, from, next, row);
    }
    copy_commit();
    stage = stage + 1 == C::kStages ? 0 : stage + 1;
  }

  __syncthreads();  // the rings become the place of the sums
  float4* red = reinterpret_cast<float4*>(smem);  // [teams][fragments][32]
#pragma unroll
  for (int m = 0; m < C::kTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float(&v)[4] = sums[m][n];
      red[(at.team * C::kFragments + (at.half * C::kTiles + m) * kN + n) * 32 + lane] = {v[0], v[1], v[2], v[3]};
    }
  }
  const auto cluster = cooperative_groups::this_cluster();
  if (blocks > 1) {
    cluster.sync();
  } else {
    __syncthreads();
  }
  for (int f = warp * blocks + rank; f < C::kFragments; f += kWarps * blocks) {
    const int tile = blockIdx.z * kHalves * C::kTiles + f / kN;
    if (tile >= p.shape.tiles) break;
    float4 sum = {0, 0, 0, 0};
    for (int r = 0; r < blocks; ++r) {
      const float4* from = blocks > 1 ? cluster.map_shared_rank(red, r) : red;
#pragma unroll
      for (int team = 0; team < kTeams; ++team) {
        const float4 v = from[(team * C::kFragments + f) * 32 + lane];
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
    }
    write_fragment(p, tile, at.first, f % kN * 8, at.count, norm, sum);
  }
  if (blocks > 1) cluster.sync();  // the other block reads this one's sums
}

template <TileFormat kF, int kT, int kN>
cudaError_t LaunchTiles(const LinearParams& p, cudaStream_t stream) {
  using C = Config<kF, kT, kN>;
  static const cudaError_t configured = cudaFuncSetAttribute(
      batch_linear<kF, kT, kN>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  if (configured != cudaSuccess) return configured;
  constexpr int kBlockTiles = kHalves * C::kTiles;
  const int rows = (p.shape.tiles + kBlockTiles - 1) / kBlockTiles, runs = (p.tokens + 8 * kN - 1) / (8 * kN);
  const int blocks = rows * runs <= 66 && p.shape.units >= 4 * kTeams ? 2 : 1;
  return LaunchCluster(batch_linear<kF, kT, kN>, dim3(blocks, runs, rows), dim3(kThreads), blocks, C::kSharedBytes,
                       stream, p);
}

constexpr int kTallTiles = 800;  // so that blocks of 128 rows leave few SMs idle

template <TileFormat kF, int kN>
cudaError_t LaunchTokens(const LinearParams& p, cudaStream_t stream) {
  if constexpr (kF == TileFormat::kFp8 && kN <= 4) {
    if (p.shape.tiles >= kTallTiles) return LaunchTiles<kF, 4, kN>(p, stream);
  }
  return LaunchTiles<kF, kF == TileFormat::kFp8 ? 2 : 1, kN>(p, stream);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const LinearParams& p, cudaStream_t stream) {
  if (p.tokens <= 8) return LaunchTokens<kF, 1>(p, stream);
  if (p.tokens <= 16) return LaunchTokens<kF, 2>(p, stream);
  if (p.tokens <= 32) return LaunchTokens<kF, 4>(p, stream);
  return LaunchTokens<kF, 8>(p, stream);
}

}  // namespace

bool CanBatchLinear(const LinearParams& p) {
  const bool format = p.shape.format == TileFormat::kFp8 || p.shape.format == TileFormat::kBf16;
  return format && p.mode == LinearMode::kDense && p.tokens > 1 && p.tokens <= 256 && p.epilogue != Epilogue::kSlot;
}

cudaError_t LaunchBatchLinear(const LinearParams& p, cudaStream_t stream) {
  return p.shape.format == TileFormat::kFp8 ? LaunchFormat<TileFormat::kFp8>(p, stream)
                                            : LaunchFormat<TileFormat::kBf16>(p, stream);
}

}  // namespace minimo::cuda
