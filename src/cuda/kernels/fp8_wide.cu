// y = W x of FP8 weights and many tokens with the tokens as the first operand: a lane's sums are of two tokens, so what
// promotes a product to float32 is one FMA a value with two scales, where fp8_linear (tokens in columns) reads and
// multiplies a scale for every column; and weights go from memory to the tensor cores without passing a register. What
// it costs is padding to 64 tokens: fp8_linear keeps the experts of few. See fp8_wide.cuh, fp8_wide_epilogue.cuh.
#include "cuda/kernels/fp8_wide.cuh"
#include "cuda/kernels/fp8_wide_epilogue.cuh"

namespace minimo::cuda {
namespace {

constexpr int kMultiprocessors = 132;

// Scales of a warpgroup's rows for one unit: of a tile's rows 0..7 and 8..15. Where tiles share them, as a matrix whose
// parts end at multiples of 128 rows has it, they are multiplied once for kGroup tiles.
template <int kPart>
struct PartScales {
  static constexpr int kTiles = kPart / kTileRows, kGroup = kTiles % 8 == 0 ? 8 : 2;
  const float2* of_tile;
  bool shared;

  __device__ __forceinline__ explicit PartScales(const uint8_t* scales)
      : of_tile(reinterpret_cast<const float2*>(scales)) {
    const int tile = threadIdx.x % 32 % kTiles;
    const float2 first = of_tile[tile / kGroup * kGroup], mine = of_tile[tile];
    shared = __all_sync(0xffffffffu, mine.x == first.x && mine.y == first.y) != 0;
  }
};

// sums += part * scale of the token * scale of the rows, kGroup tiles with the same scales at a time.
template <int kPart, int kGroup>
__device__ __forceinline__ void promote_tiles(const float (&part)[kPart / 2], const float (&x)[2],
                                              const float2* scales, float (&sums)[kPart / 2]) {
#pragma unroll
  for (int first = 0; first < kPart / 2; first += 8 * kGroup) {
    const float2 rows = scales[first / 8];
    const float scale[2][2] = {{x[0] * rows.x, x[1] * rows.x}, {x[0] * rows.y, x[1] * rows.y}};
#pragma unroll
    for (int i = first; i < first + 8 * kGroup; ++i) sums[i] = fmaf(part[i], scale[i / 4 % 2][i / 2 % 2], sums[i]);
  }
}

template <int kPart>
__device__ __forceinline__ void promote(const float (&part)[kPart / 2], const float* token_scales,
                                        const PartScales<kPart>& s, float (&sums)[kPart / 2]) {
  const float x[2] = {token_scales[0], token_scales[8]};
  if (s.shared) {
    promote_tiles<kPart, PartScales<kPart>::kGroup>(part, x, s.of_tile, sums);
  } else {
    promote_tiles<kPart, 1>(part, x, s.of_tile, sums);
  }
}

struct Position {
  int stage = 0;
  uint32_t phase = 0;
};

// A tile of kProducts x 64 tokens.
template <typename C, Epilogue kE, int kProducts>
__device__ __forceinline__ void run_tile(const Fp8LinearParams& p, const Fp8Where& where, const uint8_t* stages,
                                         WideBarriers& barriers, Position& at) {
  constexpr int kPart = C::kPart;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128;
  const int token = warp * 16 + lane / 4;
  float sums[kProducts][kPart / 2] = {};
#pragma unroll 1
  for (int u = 0; u < p.shape.units; ++u) {
    barrier_wait(&barriers.full[at.stage], at.phase);
    __syncwarp();
    const uint8_t* stage = stages + at.stage * C::kStage;
    const uint64_t a = swizzled_operand(smem_address(stage));
    const uint64_t b = weights_operand(smem_address(stage + C::kWeights + group * kPart * 128));
    const float* token_scales = reinterpret_cast<const float*>(stage + C::kScales) + token;
    const PartScales<kPart> scales(stage + C::kTileScales + group * (kPart / kTileRows) * 8);
#pragma unroll
    for (int m = 0; m < kProducts; ++m) {
      float part[kPart / 2];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_e4m3<kPart>(part, a + m * 512 + 2 * k, b + k / 2 * 2 + k % 2 * 32, k > 0);
      wgmma_commit();
      wgmma_wait<0>(part);
      promote<kPart>(part, token_scales + 64 * m, scales, sums[m]);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&barriers.empty[at.stage]);
    if (++at.stage == C::kStages) at.stage = 0, at.phase ^= 1;
  }
#pragma unroll
  for (int m = 0; m < kProducts; ++m) {
    WideLane l = {where.first + 64 * m + token, where.row_block * C::kRows + group * kPart, {}};
    for (int k = 0; k < 2; ++k) l.live[k] = l.token + 8 * k >= where.begin && l.token + 8 * k < where.end;
    emit_wide<kE, kPart>(p, l, sums[m]);
  }
}

template <typename C, Epilogue kE>
__global__ void __launch_bounds__(C::kThreads, 1) fp8_wide(const __grid_constant__ Fp8LinearParams p) {
  extern __shared__ uint8_t smem[];
  __shared__ WideBarriers barriers;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  if (threadIdx.x == 0) init_barriers<C>(barriers);
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  if (threadIdx.x >= C::kMultiply) {
    give_registers<C::kCopyRegisters>();
    const Fp8Schedule schedule(p, C::kTiles, C::kTokens);
    if (threadIdx.x < C::kMultiply + 32) copy_wide<C, kE == Epilogue::kResidual>(p, schedule, stages, barriers);
  } else {
    take_registers<C::kMultiplyRegisters>();
    const Fp8Schedule schedule(p, C::kTiles, C::kTokens);
    Position at;
    for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
      const Fp8Where t = schedule.at(i);
      if (t.end - t.first > 64) {
        run_tile<C, kE, 2>(p, t, stages, barriers, at);
      } else {
        run_tile<C, kE, 1>(p, t, stages, barriers, at);
      }
    }
  }
}

template <typename C, Epilogue kE>
cudaError_t LaunchOne(const Fp8LinearParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(fp8_wide<C, kE>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kShared);
  if (configured != cudaSuccess) return configured;
  return Launch(fp8_wide<C, kE>, dim3(kMultiprocessors), dim3(C::kThreads), C::kShared, stream, p);
}

// Fewest rounds of the device, each as long as its blocks have rows.
template <Epilogue kE>
cudaError_t LaunchRows(const Fp8LinearParams& p, cudaStream_t stream) {
  using C256 = WideConfig<256, 4>;
  using C192 = WideConfig<192, 5>;
  const auto cost = [&](int tiles) {
    const int64_t token_tiles = (p.tokens + C256::kTokens - 1) / C256::kTokens;
    const int64_t blocks = token_tiles * ((p.shape.tiles + tiles - 1) / tiles);
    return (blocks + kMultiprocessors - 1) / kMultiprocessors * (tiles + 1);
  };
  if constexpr (kE != Epilogue::kSlot) {
    if (p.tiles == nullptr && cost(C192::kTiles) < cost(C256::kTiles)) return LaunchOne<C192, kE>(p, stream);
  }
  return LaunchOne<C256, kE>(p, stream);
}

}  // namespace

cudaError_t LaunchFp8Wide(const Fp8LinearParams& p, cudaStream_t stream) {
  switch (p.epilogue) {
    case Epilogue::kStore: return LaunchRows<Epilogue::kStore>(p, stream);
    case Epilogue::kStoreBf16: return LaunchRows<Epilogue::kStoreBf16>(p, stream);
    case Epilogue::kResidual: return LaunchRows<Epilogue::kResidual>(p, stream);
    case Epilogue::kSwiGlu: return LaunchRows<Epilogue::kSwiGlu>(p, stream);
    default: return LaunchRows<Epilogue::kSlot>(p, stream);
  }
}

}  // namespace minimo::cuda
