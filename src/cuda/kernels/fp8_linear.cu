// y = W x with weights as the first operand: few tokens an expert then cost little padding, N follows them in steps of
// 16. Blocks are persistent; while one warpgroup's product runs, others expand weights or promote theirs to float32
// registers with the scales, every 128 of K. No product runs across the loop's end: the compiler would serialise them.
// See fp8_stages.cuh, fp8_products.cuh, fp8_epilogue.cuh; 4 bits: fp8_int4.cu.
#include "cuda/kernels/fp8_epilogue.cuh"
#include "cuda/kernels/fp8_products.cuh"

namespace minimo::cuda {
namespace {

constexpr int kMultiprocessors = 132;

// FP8 experts: four warpgroups of 64 rows, whose latencies hide each other. bf16: two of 128 rows and wider tiles, for
// fewer bytes from L2. Dense FP8, and FP8 experts of many tokens: fp8_wide.cu.
using Fp8Experts = Fp8Config<TileFormat::kFp8, 4, 1, 96, 5>;
using Bf16Wide = Fp8Config<TileFormat::kBf16, 2, 2, 128, 4>;
constexpr int kManyTokens = 160;  // of an expert, on average
constexpr int kWideTokens = 128;

// Where a consumer stands in the rings.
struct Position {
  int stage = 0;
  uint32_t phase = 0;
};

template <typename C, Epilogue kE, int kN, int kPart>
__device__ __forceinline__ void run_tile(const Fp8LinearParams& p, const Fp8Where& where, const Fp8Lane<C>& l,
                                         const uint8_t* stages, Fp8Barriers& barriers, Position& at) {
  float sums[C::kProducts][kN / 2] = {};
#pragma unroll 1
  for (int u = 0; u < p.shape.units * C::kHalves; ++u) {
    barrier_wait(&barriers.full[at.stage], at.phase);
    __syncwarp();
    const uint8_t* stage = stages + at.stage * C::kStage;
    if constexpr (C::kBf16) {
      multiply_bf16<C, kN>(l, stage, sums);
    } else {
#pragma unroll
      for (int m = 0; m < C::kProducts; ++m) {
        const int tile = l.tile(m);
        multiply_unit<C, kN, kPart, kE != Epilogue::kSwiGlu>(l, stage, stage + C::kWeights + tile * C::kTile,
                                                             stage + C::kTileScales + tile * 8, sums[m]);
      }
    }
    __syncwarp();
    if (l.lane == 0) barrier_arrive(&barriers.empty[at.stage]);
    if (++at.stage == C::kStages) at.stage = 0, at.phase ^= 1;
  }
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) {
    emit<kE, kN>(p, where, where.row_block * C::kTiles + l.tile(m), sums[m]);
  }
}

template <typename C, Epilogue kE>
__global__ void __launch_bounds__(C::kThreads, 1)
    fp8_linear(const __grid_constant__ Fp8LinearParams p, int dense_width) {
  extern __shared__ uint8_t smem[];
  __shared__ Fp8Barriers barriers;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  if (threadIdx.x == 0) init_barriers<C>(barriers);
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  if (threadIdx.x >= C::kWarps * 32) {
    give_registers<C::kCopyRegisters>();
    const Fp8Schedule schedule(p, C::kTiles, dense_width);
    copy_stages<C, kE == Epilogue::kResidual>(p, schedule, stages, barriers);
  } else {
    take_registers<C::kMultiplyRegisters>();
    const Fp8Schedule schedule(p, C::kTiles, dense_width);
    const Fp8Lane<C> l;
    Position at;
    for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
      const Fp8Where t = schedule.at(i);
      const int columns = fp8_columns<C>(t);
      if constexpr (C::kMostN > 96) {
        switch (columns / 8) {
          case 4: run_tile<C, kE, 32, 32>(p, t, l, stages, barriers, at); break;
          case 8: run_tile<C, kE, 64, 32>(p, t, l, stages, barriers, at); break;
          case 12: run_tile<C, kE, 96, 48>(p, t, l, stages, barriers, at); break;
          case 15: run_tile<C, kE, 120, 40>(p, t, l, stages, barriers, at); break;
          default: run_tile<C, kE, 128, 64>(p, t, l, stages, barriers, at); break;
        }
      } else {
        switch (columns / 8) {
          case 2: run_tile<C, kE, 16, 16>(p, t, l, stages, barriers, at); break;
          case 3: run_tile<C, kE, 24, 24>(p, t, l, stages, barriers, at); break;
          case 4: run_tile<C, kE, 32, 32>(p, t, l, stages, barriers, at); break;
          case 5: run_tile<C, kE, 40, 40>(p, t, l, stages, barriers, at); break;
          case 6: run_tile<C, kE, 48, 24>(p, t, l, stages, barriers, at); break;
          case 7: run_tile<C, kE, 56, 56>(p, t, l, stages, barriers, at); break;
          case 8: run_tile<C, kE, 64, 32>(p, t, l, stages, barriers, at); break;
          case 9: run_tile<C, kE, 72, 24>(p, t, l, stages, barriers, at); break;
          case 10: run_tile<C, kE, 80, 40>(p, t, l, stages, barriers, at); break;
          default: run_tile<C, kE, 96, 24>(p, t, l, stages, barriers, at); break;
        }
      }
    }
  }
}

// Tokens a tile of a dense product: fewest rounds of the device, each as long as its tile is wide.
int DenseWidth(int tokens, int row_blocks, int most, int step) {
  int best = most;
  int64_t least = INT64_MAX;
  for (int width = most; width >= 32; width -= step) {
    const int64_t tiles = int64_t{row_blocks} * ((tokens + width - 1) / width);
    const int64_t cost = (tiles + kMultiprocessors - 1) / kMultiprocessors * (width + 24);
    if (cost < least) least = cost, best = width;
  }
  return best;
}

template <typename C, Epilogue kE>
cudaError_t LaunchOne(const Fp8LinearParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(fp8_linear<C, kE>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kShared);
  if (configured != cudaSuccess) return configured;
  const int row_blocks = (p.shape.tiles + C::kTiles - 1) / C::kTiles;
  const int width = DenseWidth(p.tokens, row_blocks, C::kMostN, C::kMostN > 96 ? 32 : 16);
  return Launch(fp8_linear<C, kE>, dim3(kMultiprocessors), dim3(C::kThreads), C::kShared, stream, p, width);
}

template <Epilogue kE>
cudaError_t LaunchExperts(const Fp8LinearParams& p, cudaStream_t stream) {
  if (p.shape.format == TileFormat::kInt4) return LaunchFp8Int4(p, stream);
  const bool wide = p.tiles != nullptr ? p.tile_tokens == kWideTokens : p.tokens >= kManyTokens;
  return wide ? LaunchFp8Wide(p, stream) : LaunchOne<Fp8Experts, kE>(p, stream);
}

}  // namespace

int Fp8TileTokens(TileFormat format, int64_t slots, int experts) {
  if (format == TileFormat::kInt4) return kInt4TileTokens;
  return slots >= int64_t{experts} * kManyTokens ? kWideTokens : Fp8Experts::kMostN;
}

cudaError_t LaunchFp8Linear(const Fp8LinearParams& p, cudaStream_t stream) {
  if (p.shape.format == TileFormat::kBf16) {
    return p.epilogue == Epilogue::kStore ? LaunchOne<Bf16Wide, Epilogue::kStore>(p, stream)
                                          : LaunchOne<Bf16Wide, Epilogue::kResidual>(p, stream);
  }
  switch (p.epilogue) {
    case Epilogue::kSwiGlu: return LaunchExperts<Epilogue::kSwiGlu>(p, stream);
    case Epilogue::kSlot: return LaunchExperts<Epilogue::kSlot>(p, stream);
    default: return LaunchFp8Wide(p, stream);
  }
}

}  // namespace minimo::cuda
