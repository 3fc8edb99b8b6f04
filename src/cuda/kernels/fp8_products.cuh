// fp8_linear's inner products: 64 rows of weights, expanded in registers from the tiles of weight_tiles.h, are wgmma's
// A operand; tokens are B in shared memory.
//
// FP8: step c of half h has the columns 64 h + 32 e + 16 c .. + 15 of e = 0, 1, and lane (g, t) reads the t-th word of
// both pieces.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/wgmma_bf16.cuh"

namespace minimo::cuda {

// A for one tile and unit: [half of 64 columns][step of 32][register].
template <typename C>
__device__ __forceinline__ void load_weights(const Fp8Lane<C>& l, const uint8_t* tile, uint32_t (&a)[2][2][4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint8_t* from = tile + fp8_piece(l.g, 2 * h + r / 2) + r % 2 * C::kHalf + l.t * 4;
#pragma unroll
      for (int c = 0; c < 2; ++c) a[h][c][r] = *reinterpret_cast<const uint32_t*>(from + c * 512);
    }
  }
}

template <int kN>
__device__ __forceinline__ void start_half(float (&d)[kN / 2], const uint32_t (&a)[2][4], uint64_t operand, bool add) {
  if (add) {
    WgmmaE4m3<kN>::next(d, a[0], operand);
  } else {
    WgmmaE4m3<kN>::first(d, a[0], operand);
  }
  WgmmaE4m3<kN>::next(d, a[1], operand + 2);
}

// Scales of kN tokens, from this lane's first: loaded all at once.
template <int kN>
struct HeldScales {
  float2 of[kN / 8];
  __device__ __forceinline__ void load(const uint8_t* scales) {
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) of[j] = *reinterpret_cast<const float2*>(scales + 32 * j);
  }
  __device__ __forceinline__ float2 operator[](int j) const { return of[j]; }
};

// sums += part * scale of the rows * scale of the token. kOneScale: both rows of a lane have the same.
template <int kN, bool kOneScale>
__device__ __forceinline__ void promote(const float (&part)[kN / 2], const HeldScales<kN>& tokens, float2 scale,
                                        float* sums) {
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float2 x = tokens[j];
    if constexpr (kOneScale) {
      const float2 both = {x.x * scale.x, x.y * scale.x};
      sums[4 * j] = fmaf(part[4 * j], both.x, sums[4 * j]);
      sums[4 * j + 1] = fmaf(part[4 * j + 1], both.y, sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(part[4 * j + 2], both.x, sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(part[4 * j + 3], both.y, sums[4 * j + 3]);
    } else {
      sums[4 * j] = fmaf(part[4 * j] * x.x, scale.x, sums[4 * j]);
      sums[4 * j + 1] = fmaf(part[4 * j + 1] * x.y, scale.x, sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(part[4 * j + 2] * x.x, scale.y, sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(part[4 * j + 3] * x.y, scale.y, sums[4 * j + 3]);
    }
  }
}

// bf16: half a unit of all products. A lane's weights stand as wgmma wants them.
template <typename C, int kN>
__device__ __forceinline__ void multiply_bf16(const Fp8Lane<C>& l, const uint8_t* stage,
                                              float (&sums)[C::kProducts][kN / 2]) {
  constexpr int kSteps = C::kPieces;
  const uint64_t operand = swizzled_operand(smem_address(stage));
  uint4 w[C::kProducts][kSteps];
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) {
    const uint8_t* tile = stage + C::kWeights + l.tile(m) * C::kTile + l.lane * 16;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      w[m][j] = *reinterpret_cast<const uint4*>(tile + j % (kSteps / 2) * 512 + j / (kSteps / 2) * C::kHalf);
    }
  }
  wgmma_fence();
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      wgmma_bf16<kN>(sums[m], {w[m][j].x, w[m][j].y, w[m][j].z, w[m][j].w}, operand + 2 * j, true);
    }
  }
  wgmma_commit();
#pragma unroll
  for (int m = 0; m < C::kProducts; ++m) wgmma_wait<0>(sums[m]);
}

// A unit of one product, in parts of kPart tokens, of which two are in flight.
template <typename C, int kN, int kPart, bool kOneScale>
__device__ __forceinline__ void multiply_unit(const Fp8Lane<C>& l, const uint8_t* stage, const uint8_t* tile,
                                              const uint8_t* tile_scales, float (&sums)[kN / 2]) {
  uint32_t a[2][2][4];
  load_weights<C>(l, tile, a);
  const uint64_t operand = swizzled_operand(smem_address(stage));
  const uint8_t* scales = stage + C::kScales + l.t * 8;
  const float2 scale = *reinterpret_cast<const float2*>(tile_scales);
  constexpr int kParts = kN / kPart;
  float part[2][kPart / 2];
  HeldScales<kPart> tokens;
  const auto start = [&](int c) {
    start_half<kPart>(part[c % 2], a[0], operand + c * kPart * 8, false);
    start_half<kPart>(part[c % 2], a[1], operand + c * kPart * 8 + 4, true);
    wgmma_commit();
  };
  wgmma_fence();
  start(0);
  if (kParts > 1) start(1);
#pragma unroll
  for (int c = 0; c < kParts; ++c) {
    if (c + 1 < kParts) {
      wgmma_wait<1>(part[c % 2]);
    } else {
      wgmma_wait<0>(part[c % 2]);
    }
    tokens.load(scales + c * kPart * 4);
    promote<kPart, kOneScale>(part[c % 2], tokens, scale, sums + c * kPart / 2);
    if (c + 2 < kParts) {
      wgmma_fence();
      start(c + 2);
    }
  }
}

}  // namespace minimo::cuda
