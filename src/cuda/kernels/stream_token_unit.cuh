// One unit of stream_token.cu in each format: its sizes, x as operands of mma, the products. The ideas are told there.
#pragma once

#include "cuda/kernels/e4m3_pairs.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/stream_x.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {

// Warps that take a piece together, a unit each.
constexpr int TeamWarps(TileFormat f) { return f == TileFormat::kFp8 ? 4 : 1; }
// What a warp takes at a time: a unit, half a unit in bf16.
constexpr int PieceBytes(TileFormat f) { return f == TileFormat::kInt4 ? 1024 : 2048; }
constexpr int PiecesPerUnit(TileFormat f) { return f == TileFormat::kBf16 ? 2 : 1; }
constexpr int Stages(TileFormat f) { return f == TileFormat::kInt4 ? 5 : 3; }
constexpr int StageBytes(TileFormat f) {  // with the scales: 4 bits a pair a lane, FP8 two floats
  return PieceBytes(f) + (f == TileFormat::kInt4 ? 128 : f == TileFormat::kFp8 ? 16 : 0);
}
// x of a unit. 4 bits: digits [2][128 and 16 of padding, so that both are read at once], then {start of row g: two
// columns, scale, scale / 16} [4 lanes]. FP8: the four units of a piece together, B of wgmma: [unit][term] rows of 128,
// then behind all of them a scale a unit. bf16: [3 terms][128].
inline constexpr int kDigitsRow = 144;
constexpr int UnitXBytes(TileFormat f) {
  return f == TileFormat::kInt4 ? 2 * kDigitsRow + 64 : f == TileFormat::kFp8 ? 512 + 4 : 768;
}

// FP8: x of the unit whose place is `place` of `places`.
__device__ __forceinline__ void stage_e4m3(uint8_t* x, int place, int places, float4 v, uint32_t most_bits) {
  const int lane = threadIdx.x % 32;
  float down;
  const float up = power_scale<7>(most_bits, down);
  float2 low = {v.x * up, v.y * up}, high = {v.z * up, v.w * up};
  // Columns 64 s + 32 h + 16 c .. meet the weights at K = 64 c + 32 s + 16 h.
  const int at = (lane / 4 % 2 * 4 + lane / 16 * 2 + lane / 8 % 2);
  uint8_t* rows = x + place / 4 * 2048 + place % 4 / 2 * 1024;
#pragma unroll
  for (int term = 0; term < 4; ++term) {
    const int row = place % 2 * 4 + term;
    const uint32_t bytes = to_e4m3x2(low.x, low.y) | to_e4m3x2(high.x, high.y) << 16;
    reinterpret_cast<uint32_t*>(rows + row * 128 + (at ^ row) * 16)[lane % 4] = bytes;
    uint32_t halves[2];
    halves_of(bytes, halves[0], halves[1]);
    const float2 back[2] = {__half22float2(*reinterpret_cast<const __half2*>(halves)),
                            __half22float2(*reinterpret_cast<const __half2*>(halves + 1))};
    low = {(low.x - back[0].x) * 16.0f, (low.y - back[0].y) * 16.0f};
    high = {(high.x - back[1].x) * 16.0f, (high.y - back[1].y) * 16.0f};
  }
  if (lane == 0) reinterpret_cast<float*>(x + places * 512)[place] = down;
}

__device__ __forceinline__ void stage_bf16(uint8_t* to, float4 v) {
  float rest[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int term = 0; term < 3; ++term) {
    const uint32_t low = pack_bf16(rest[0], rest[1]), high = pack_bf16(rest[2], rest[3]);
    reinterpret_cast<uint2*>(to + term * 256)[threadIdx.x % 32] = {low, high};
    rest[0] -= __uint_as_float(low << 16), rest[1] -= __uint_as_float(low & 0xffff0000);
    rest[2] -= __uint_as_float(high << 16), rest[3] -= __uint_as_float(high & 0xffff0000);
  }
}

// x of the units whose places are places[i] of `all` (negative: none) to shared memory; lane l brings columns
// 4l .. 4l + 3. Units side by side: what goes over the warp takes its time.
template <TileFormat kF, int kUnits>
__device__ __forceinline__ void stage_units(uint8_t* x, const int (&places)[kUnits], int all,
                                            const float4 (&values)[kUnits], int group_cols) {
  uint32_t most[kUnits];
#pragma unroll
  for (int i = 0; i < kUnits && kF != TileFormat::kBf16; ++i) most[i] = most_bits_of(values[i]);
  if constexpr (kF != TileFormat::kInt4) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (places[i] < 0) continue;
      if constexpr (kF == TileFormat::kFp8) {
        stage_e4m3(x, places[i], all, values[i], most[i]);
      } else {
        stage_bf16(x + places[i] * UnitXBytes(kF), values[i]);
      }
    }
  } else {
    const int lane = threadIdx.x % 32;
    uint32_t high[kUnits], low[kUnits];
    int sums[kUnits];
    float scale[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      scale[i] = digits_of(values[i], most[i], high[i], low[i]);
      sums[i] = both_sums(high[i], low[i]);
    }
#pragma unroll 1
    for (int offset = 1; offset < group_cols / 4; offset <<= 1) {
#pragma unroll
      for (int i = 0; i < kUnits; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], offset);
    }
    const bool live = lane * group_cols < kUnitCols;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) sums[i] = __shfl_sync(0xffffffffu, sums[i], live ? lane * (group_cols / 4) : 0);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      uint8_t* to = x + places[i] * UnitXBytes(kF);
      if (places[i] >= 0) {
        reinterpret_cast<uint32_t*>(to)[lane] = high[i];
        reinterpret_cast<uint32_t*>(to + kDigitsRow)[lane] = low[i];
      }
      const int sum_low = static_cast<int16_t>(sums[i]), sum_high = (sums[i] - sum_low) >> 16;
      const uint4 info = {kMagic - (live ? 8 * sum_high : 0), kMagic - (live ? 8 * sum_low : 0),
                          __float_as_uint(scale[i]), __float_as_uint(scale[i] * 0.0625f)};
      if (places[i] >= 0 && lane < 4) reinterpret_cast<uint4*>(to + 2 * kDigitsRow)[lane] = info;
    }
  }
}

// Where this lane finds its share of B: at base + unit * stride (all zeros with stride 0).
struct LaneX {
  uint32_t base, stride;
  uint32_t info;  // of the unit's scales, with the full stride
  uint32_t flip;  // 4 bits: NibbleFlip()
  float factor;   // FP8: of the products that this lane has, 0 where they are of no use
};

template <TileFormat kF>
__device__ __forceinline__ LaneX lane_x(const uint8_t* x, int places, const uint8_t* zeros, int group_cols) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = lane / 4, t = lane % 4;
  LaneX l = {smem_address(zeros), 0, smem_address(x), 0, 0};
  if constexpr (kF == TileFormat::kInt4) {
    l.info += 2 * kDigitsRow + t * 16;
    l.flip = NibbleFlip();
    if (n / 2 == 32 * t / group_cols) l.base = smem_address(x) + n % 2 * kDigitsRow + t * 32, l.stride = UnitXBytes(kF);
  } else if constexpr (kF == TileFormat::kFp8) {
    l.base = smem_address(x), l.stride = 4 * 512;
    l.info += places * 512 + warp % 4 * 4;
    if (t / 2 == warp % 2) l.factor = t % 2 == 0 ? 1.0f : 1.0f / 256;
  } else if (n < 3) {
    l.base = smem_address(x) + n * 256 + t * 64, l.stride = UnitXBytes(kF);
  }
  l.base = kept(l.base), l.stride = kept(l.stride), l.info = kept(l.info);
  return l;
}

// FP8, a team: the products of a piece, `weights` its first unit's, on their way. The four units are 16 rows each of
// wgmma's 64; each meets its own x in four columns of 16.
__device__ __forceinline__ void start_products(uint32_t weights, const LaneX& l, int column, float (&d)[8]) {
  const uint64_t a = weights_operand(weights), b = swizzled_operand(l.base + column * l.stride);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma_e4m3<16>(d, a + k / 2 * (512 >> 4) + k % 2 * 2, b + k * 2, k != 0);
  wgmma_commit();
}
// What the products of rows g and g + 8 are worth: `scales` one of this warp's unit; 0 where the tile has no such unit.
__device__ __forceinline__ float2 scales_of(uint32_t scales, const LaneX& l, int column) {
  const float2 scale = load_shared_float2(scales & ~7u);
  float unit_scale;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(unit_scale) : "r"(l.info + column * 16));
  unit_scale *= l.factor;
  return unit_scale == 0 ? float2{0, 0} : float2{scale.x * unit_scale, scale.y * unit_scale};
}
// Adds the products of the team's warp `part` to the lane's sums.
__device__ __forceinline__ void add_products(float2 scale, int part, const float (&d)[8], float (&sums)[2]) {
  const bool second = part >= 2;
  if (scale.x != 0) sums[0] += fmaf(second ? d[5] : d[1], 1.0f / 16, second ? d[4] : d[0]) * scale.x;
  if (scale.y != 0) sums[1] += fmaf(second ? d[7] : d[3], 1.0f / 16, second ? d[6] : d[2]) * scale.y;
}

// Adds a piece's products, `weights` and `scales` this lane's, to the lane's sums of rows g and g + 8. `column`: the
// piece among those staged.
template <TileFormat kF>
__device__ __forceinline__ void multiply_piece(uint32_t weights, uint32_t scales, const LaneX& l, int column,
                                               float (&sums)[2]) {
  if constexpr (kF == TileFormat::kInt4) {
    const uint32_t x = l.base + column * l.stride;
    const uint4 w[2] = {load_shared(weights), load_shared(weights + 512)}, b[2] = {load_shared(x), load_shared(x + 16)};
    const uint4 info = load_shared(l.info + column * UnitXBytes(kF));
    uint32_t pair;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(scales));
    uint32_t d[4] = {info.x, info.y, kMagic, kMagic};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      uint32_t first[4], second[4];
      operands_of(w[c].x, w[c].y, l.flip, first);
      operands_of(w[c].z, w[c].w, l.flip, second);
      mma_int8(d, first, b[c].x, b[c].y);
      mma_int8(d, second, b[c].z, b[c].w);
    }
    const float magic = __uint_as_float(kMagic);
    const float g = (__uint_as_float(d[0]) - magic) * 256.0f + (__uint_as_float(d[1]) - magic);
    const float g8 = (__uint_as_float(d[2]) - magic) * 256.0f + (__uint_as_float(d[3]) - magic);
    sums[0] += g * (__uint_as_float(pair << 16) * __uint_as_float(info.z));
    sums[1] += g8 * (__uint_as_float(pair & 0xffff0000) * __uint_as_float(info.w));
  } else {
    const uint32_t x = l.base + column / 2 * l.stride + (l.stride != 0 ? column % 2 * 32 : 0);
    float d[2][4] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 b = load_shared(x + c * 16);
      const uint4 v = load_shared(weights + c * 1024), w = load_shared(weights + c * 1024 + 512);
      mma_bf16(d[0], {v.x, v.y, v.z, v.w}, b.x, b.y);
      mma_bf16(d[1], {w.x, w.y, w.z, w.w}, b.z, b.w);
    }
    sums[0] += (d[0][0] + d[1][0]) + (d[0][1] + d[1][1]);
    sums[1] += (d[0][2] + d[1][2]) + (d[0][3] + d[1][3]);
  }
}

}  // namespace minimo::cuda
