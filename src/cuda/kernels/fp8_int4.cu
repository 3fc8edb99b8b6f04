// y = W x with 4-bit weights as the first operand, expanded in registers, tokens as the second (e4m3, one scale for
// 1,024 columns, a chunk). A group of 64 columns has its scale a row, so products are promoted to float32 registers
// every 64 columns: one FMA with the row's scale. At a chunk's end the sums take on the next one's scale of the tokens.
// With scales for every 128 columns promotion would be half as much again.
//
// A code q (0..15) is, as an e4m3 byte, q * 2^-9 exactly. W x = s (q - 8) x = 512 (s (q * 2^-9) x + s o), o = -8 / 512
// sum(x): the 512 is in the tokens' scales, the last term a small product of the scales with the activations' offsets
// (mma m16n8k16 over four units: 8 groups, the offsets in two parts of bf16), once a chunk. Sums in halves would halve
// the promotion, but the offsets' part of them is large where activations have a mean: up to 2 % off.
//
// The lane that wgmma wants a weight in is not the one that weight_tiles.h gives it: a lane's columns of a unit lie in
// one group, a step of wgmma must stay within one. So lanes read each other's 16 bytes: for half h of a unit lane (g,
// t) reads the words 4 (t / 2) .. + 3 of lane (g, 2 h + t % 2). No product runs across the loop's end: the compiler
// would serialise them. See fp8_int4_stages.cuh, fp8_epilogue.cuh.
#include "cuda/kernels/fp8_epilogue.cuh"
#include "cuda/kernels/fp8_int4_stages.cuh"

namespace minimo::cuda {
namespace {

using C = Int4Config;
constexpr int kMultiprocessors = 132;

struct Position {
  int stage = 0, chunk = 0;
  uint32_t phase = 0, chunk_phase = 0;
};

struct Int4Lane {
  int lane, g, t, warp;
  __device__ Int4Lane() : lane(threadIdx.x % 32), g(lane / 4), t(lane % 4), warp(threadIdx.x / 32) {}
  // Of the block's tiles, that of this warp's m-th product.
  __device__ __forceinline__ int tile(int m) const { return (warp / 4 * C::kProducts + m) * 4 + warp % 4; }
};

template <int kN>
__device__ __forceinline__ void start_half(float (&d)[kN / 2], const uint32_t (&a)[2][4], uint64_t operand) {
  WgmmaE4m3<kN>::first(d, a[0], operand);
  WgmmaE4m3<kN>::next(d, a[1], operand + 2);
}

// A for one tile and unit: [half of 64 columns][step of 32][register].
__device__ __forceinline__ void load_codes(const Int4Lane& l, const uint8_t* tile, uint32_t (&a)[2][2][4]) {
  const uint8_t* from = tile + l.t / 2 * C::kHalf + (4 * l.g + l.t % 2) * 16;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint4 w = *reinterpret_cast<const uint4*>(from + h * 32);
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      a[h][j / 2][j % 2 * 2] = words[j] & 0x0f0f0f0f;
      a[h][j / 2][j % 2 * 2 + 1] = (words[j] >> 4) & 0x0f0f0f0f;
    }
  }
}

// sums += part * the rows' scales.
template <int kN>
__device__ __forceinline__ void promote(const float (&part)[kN / 2], uint32_t scales, float (&sums)[kN / 2]) {
  const float scale[2] = {__uint_as_float(scales << 16), __uint_as_float(scales & 0xffff0000)};
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) sums[i] = fmaf(part[i], scale[i / 2 % 2], sums[i]);
}

// A unit of both products: four groups of 64 columns, of which two are under way.
template <int kN>
__device__ __forceinline__ void multiply_unit(const Int4Lane& l, const uint8_t* stage, const uint8_t* unit_scales,
                                              int groups, float (&sums)[C::kProducts][kN / 2]) {
  const uint64_t operand = swizzled_operand(smem_address(stage));
  uint32_t a[C::kProducts][2][2][4], scales[C::kProducts][2];
  float part[2][kN / 2];
  const auto start = [&](int q) {
    start_half<kN>(part[q % 2], a[q / 2][q % 2], operand + q % 2 * 4);
    wgmma_commit();
  };
  load_codes(l, stage + C::kWeights + l.tile(0) * C::kTile, a[0]);
  wgmma_fence();
  start(0);
  start(1);
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(unit_scales + l.tile(m) * C::kTileScales);
    scales[m][0] = from[0], scales[m][1] = from[(groups - 1) * 8];
    if (m > 0) load_codes(l, stage + C::kWeights + l.tile(m) * C::kTile, a[m]);
  }
#pragma unroll
  for (int q = 0; q < 2 * C::kProducts; ++q) {
    if (q + 1 < 2 * C::kProducts) {
      wgmma_wait<1>(part[q % 2]);
    } else {
      wgmma_wait<0>(part[q % 2]);
    }
    promote<kN>(part[q % 2], scales[q / 2][q % 2], sums[q / 2]);
    if (q + 2 < 2 * C::kProducts) {
      wgmma_fence();
      start(q + 2);
    }
  }
}

// A chunk's end: sums += the rows' scales times the tokens' offsets over its units; then times the tokens' scales.
template <int kN>
__device__ __forceinline__ void end_chunk(const Int4Lane& l, const uint8_t* chunk, int units, int groups,
                                            float (&sums)[C::kProducts][kN / 2]) {
  uint32_t a[C::kProducts][2][4];
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) {
    const uint32_t* scales = reinterpret_cast<const uint32_t*>(chunk + l.tile(m) * C::kTileScales) + l.g;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int u = 4 * s + l.t;
      const bool live = u < units;
      const uint32_t first = live ? scales[u * groups * 8] : 0;
      const uint32_t second = live ? scales[(u * groups + groups - 1) * 8] : 0;
      a[m][s][0] = a[m][s][2] = __byte_perm(first, second, 0x5410);
      a[m][s][1] = a[m][s][3] = __byte_perm(first, second, 0x7632);
    }
  }
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const uint4 offsets = *reinterpret_cast<const uint4*>(chunk + C::kOffsets + (8 * j + l.g) * 64 + l.t * 16);
    const float2 x = *reinterpret_cast<const float2*>(chunk + C::kScales + (8 * j + 2 * l.t) * 4);
#pragma unroll
    for (int m = 0; m < C::kProducts; ++m) {
      float(&v)[4] = *reinterpret_cast<float(*)[4]>(&sums[m][4 * j]);
      mma_bf16(v, a[m][0], offsets.x, offsets.y);
      mma_bf16(v, a[m][1], offsets.z, offsets.w);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] *= i % 2 == 0 ? x.x : x.y;
    }
  }
}

template <Epilogue kE, int kN>
__device__ __forceinline__ void run_tile(const Fp8LinearParams& p, const Fp8Where& where, const Int4Lane& l,
                                         const uint8_t* stages, Int4Barriers& barriers, Position& at) {
  const int groups = kUnitCols / p.shape.group_cols;
  float sums[C::kProducts][kN / 2] = {};
#pragma unroll 1
  for (int from = 0; from < p.shape.units; from += kChunkUnits) {
    const uint8_t* chunk = stages + C::kStages * C::kStage + at.chunk * C::kChunk;
    barrier_wait(&barriers.chunk_full[at.chunk], at.chunk_phase);
    const int units = min(kChunkUnits, p.shape.units - from);
#pragma unroll 1
    for (int u = 0; u < units; ++u) {
      barrier_wait(&barriers.full[at.stage], at.phase);
      __syncwarp();
      multiply_unit<kN>(l, stages + at.stage * C::kStage, chunk + u * groups * 32 + l.g * 4, groups, sums);
      __syncwarp();
      if (l.lane == 0) barrier_arrive(&barriers.empty[at.stage]);
      if (++at.stage == C::kStages) at.stage = 0, at.phase ^= 1;
    }
    end_chunk<kN>(l, chunk, units, groups, sums);
    __syncwarp();
    if (l.lane == 0) barrier_arrive(&barriers.chunk_empty[at.chunk]);
    at.chunk ^= 1;
    if (at.chunk == 0) at.chunk_phase ^= 1;
  }
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) emit<kE, kN>(p, where, where.row_block * C::kTiles + l.tile(m), sums[m]);
}

template <Epilogue kE>
__global__ void __launch_bounds__(C::kThreads, 1) fp8_int4(const __grid_constant__ Fp8LinearParams p) {
  extern __shared__ uint8_t smem[];
  __shared__ Int4Barriers barriers;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  if (threadIdx.x == 0) init_barriers(barriers);
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  const Fp8Schedule schedule(p, C::kTiles, C::kMostN);
  if (threadIdx.x >= C::kWarps * 32) {
    give_registers<C::kCopyRegisters>();
    if (threadIdx.x < (C::kWarps + C::kCopyWarps) * 32) {
      copy_units(p, schedule, stages, barriers);
    } else if (threadIdx.x < (C::kWarps + C::kCopyWarps + 1) * 32) {
      copy_chunks(p, schedule, stages + C::kStages * C::kStage, barriers);
    }
  } else {
    take_registers<C::kMultiplyRegisters>();
    const Int4Lane l;
    Position at;
    for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
      const Fp8Where t = schedule.at(i);
      switch (int4_columns(t) / 8) {
        case 2: run_tile<kE, 16>(p, t, l, stages, barriers, at); break;
        case 3: run_tile<kE, 24>(p, t, l, stages, barriers, at); break;
        case 4: run_tile<kE, 32>(p, t, l, stages, barriers, at); break;
        case 5: run_tile<kE, 40>(p, t, l, stages, barriers, at); break;
        case 6: run_tile<kE, 48>(p, t, l, stages, barriers, at); break;
        case 7: run_tile<kE, 56>(p, t, l, stages, barriers, at); break;
        case 8: run_tile<kE, 64>(p, t, l, stages, barriers, at); break;
        case 9: run_tile<kE, 72>(p, t, l, stages, barriers, at); break;
        default: run_tile<kE, 80>(p, t, l, stages, barriers, at); break;
      }
    }
  }
}

template <Epilogue kE>
cudaError_t LaunchOne(const Fp8LinearParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(fp8_int4<kE>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kShared);
  if (configured != cudaSuccess) return configured;
  return Launch(fp8_int4<kE>, dim3(kMultiprocessors), dim3(C::kThreads), C::kShared, stream, p);
}

}  // namespace

cudaError_t LaunchFp8Int4(const Fp8LinearParams& p, cudaStream_t stream) {
  return p.epilogue == Epilogue::kSwiGlu ? LaunchOne<Epilogue::kSwiGlu>(p, stream)
                                         : LaunchOne<Epilogue::kSlot>(p, stream);
}

}  // namespace minimo::cuda
