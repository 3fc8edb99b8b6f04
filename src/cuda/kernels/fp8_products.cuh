// fp8_linear's inner products: 64 rows of weights, expanded in registers from the tiles of weight_tiles.h, are wgmma's
// A operand; tokens are B in shared memory.
//
// 4 bits: a code q (0..15) is, as an e4m3 byte, q * 2^-9 exactly. W x = s (q - 8) x = 512 s (q * 2^-9) x - 8 s sum(x),
// the 512 being in the tokens' scales; the last term is a small product of the scales with the activations' offsets
// (mma m16n8k16 over four units: 8 groups, the offsets in two parts of bf16).
//
// The lane that wgmma wants a weight in is not the one that weight_tiles.h gives it: a lane's columns of a unit lie in
// one group, a step of wgmma must stay within one. So lanes read each other's 16 bytes. 4 bits: for half h of a unit
// lane (g, t) reads the words 4 (t / 2) .. + 3 of lane (g, 2 h + t % 2). FP8: step c of half h has the columns
// 64 h + 32 e + 16 c .. + 15 of e = 0, 1, and lane (g, t) reads the t-th word of both pieces.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/wgmma_bf16.cuh"

namespace minimo::cuda {

// A for one tile and unit: [half of 64 columns][step of 32][register].
template <typename C>
__device__ __forceinline__ void load_weights(const Fp8Lane<C>& l, const uint8_t* tile, uint32_t (&a)[2][2][4]) {
  if constexpr (C::kInt4) {
    const uint8_t* from = tile + l.t / 2 * C::kHalf + (4 * l.g + l.t % 2) * 16;
    uint4 w[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) w[h] = *reinterpret_cast<const uint4*>(from + h * 32);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t words[4] = {w[h].x, w[h].y, w[h].z, w[h].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[h][j / 2][j % 2 * 2] = words[j] & 0x0f0f0f0f;
        a[h][j / 2][j % 2 * 2 + 1] = (words[j] >> 4) & 0x0f0f0f0f;
      }
    }
  } else {
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

// Scales of kN tokens, from this lane's first: loaded all at once, for four warpgroups, or each where it is used, for
// two (the faster of both on either).
template <int kN>
struct HeldScales {
  float2 of[kN / 8];
  __device__ __forceinline__ void load(const uint8_t* scales) {
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) of[j] = *reinterpret_cast<const float2*>(scales + 32 * j);
  }
  __device__ __forceinline__ float2 operator[](int j) const { return of[j]; }
};
struct SharedScales {
  const uint8_t* scales;
  __device__ __forceinline__ void load(const uint8_t* from) { scales = from; }
  __device__ __forceinline__ float2 operator[](int j) const {
    return *reinterpret_cast<const float2*>(scales + 32 * j);
  }
};

// sums += part * scale of the rows * scale of the token. kOneScale: both rows of a lane have the same.
template <int kN, bool kOneScale, typename Scales>
__device__ __forceinline__ void promote(const float (&part)[kN / 2], const Scales& tokens, float2 scale, float* sums) {
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

// The same of two halves with scales of their own.
template <int kN>
__device__ __forceinline__ void promote_halves(const float (&first)[kN / 2], const float (&second)[kN / 2],
                                               const uint8_t* scales, const float2 (&scale)[2], float* sums) {
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(scales + 32 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * j + i;
      const float both =
          fmaf(second[at], i < 2 ? scale[1].x : scale[1].y, first[at] * (i < 2 ? scale[0].x : scale[0].y));
      sums[at] = fmaf(both, i % 2 == 0 ? x.x : x.y, sums[at]);
    }
  }
}

// 4 bits: sums += the rows' scales times the tokens' offsets over a chunk's units.
template <typename C, int kN>
__device__ __forceinline__ void add_offsets(const Fp8Lane<C>& l, const uint8_t* chunk, int units, int groups,
                                            float (&sums)[C::kProducts][kN / 2]) {
  const int g = l.g, t = l.t;
#pragma unroll 1
  for (int u = t; u < units + t; u += 4) {
    const bool live = u < units;
    uint32_t a[C::kProducts][4] = {};
#pragma unroll
    for (int m = 0; m < C::kProducts; ++m) {
      const uint32_t* scales = reinterpret_cast<const uint32_t*>(chunk + l.tile(m) * C::kChunkTile) + g;
      const uint32_t first = live ? scales[u * groups * 8] : 0;
      const uint32_t second = live ? scales[(u * groups + groups - 1) * 8] : 0;
      a[m][0] = a[m][2] = __byte_perm(first, second, 0x5410);
      a[m][1] = a[m][3] = __byte_perm(first, second, 0x7632);
    }
    const uint8_t* offsets = chunk + C::kOffsets + (live ? u : 0) * (kN * 8 + 32) + g * 8;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const uint2 loaded = *reinterpret_cast<const uint2*>(offsets + 64 * j);
      const uint2 b = live ? loaded : uint2{0, 0};
#pragma unroll
      for (int m = 0; m < C::kProducts; ++m) mma_bf16(*reinterpret_cast<float(*)[4]>(&sums[m][4 * j]), a[m], b.x, b.y);
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

// A unit of one product, in parts of kPart tokens, of which two are in flight for FP8. `groups`: 4 bits.
template <typename C, int kN, int kPart, bool kOneScale>
__device__ __forceinline__ void multiply_unit(const Fp8Lane<C>& l, const uint8_t* stage, const uint8_t* tile,
                                              const uint8_t* tile_scales, int groups, float (&sums)[kN / 2]) {
  uint32_t a[2][2][4];
  load_weights<C>(l, tile, a);
  const uint64_t operand = swizzled_operand(smem_address(stage));
  const uint8_t* scales = stage + C::kScales + l.t * 8;
  if constexpr (C::kInt4) {
    float2 scale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(tile_scales + (h < groups ? h : 0) * 32);
      scale[h] = {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
    }
#pragma unroll
    for (int c = 0; c < kN / kPart; ++c) {
      float first[kPart / 2], second[kPart / 2];
      wgmma_fence();
      start_half<kPart>(first, a[0], operand + c * kPart * 8, false);
      start_half<kPart>(second, a[1], operand + c * kPart * 8 + 4, false);
      wgmma_commit();
      wgmma_wait<0>(first);
      wgmma_wait<0>(second);
      promote_halves<kPart>(first, second, scales + c * kPart * 4, scale, sums + c * kPart / 2);
    }
  } else {
    const float2 scale = *reinterpret_cast<const float2*>(tile_scales);
    constexpr int kParts = kN / kPart;
    float part[2][kPart / 2];
    std::conditional_t<(C::kGroups > 2), HeldScales<kPart>, SharedScales> tokens;
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
}

}  // namespace minimo::cuda
