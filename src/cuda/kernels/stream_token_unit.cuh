// One unit of stream_token.cu in each format: its sizes, x as operands of mma, the products. The ideas are told there.
#pragma once

#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/stream_x.cuh"

namespace minimo::cuda {

// What a warp takes at a time: a unit, half a unit in bf16.
constexpr int PieceBytes(TileFormat f) { return f == TileFormat::kInt4 ? 1024 : 2048; }
constexpr int PiecesPerUnit(TileFormat f) { return f == TileFormat::kBf16 ? 2 : 1; }
constexpr int Stages(TileFormat f) { return f == TileFormat::kInt4 ? 5 : 3; }
constexpr int StageBytes(TileFormat f) {  // with the scales: 4 bits a pair a lane, FP8 two floats
  return PieceBytes(f) + (f == TileFormat::kInt4 ? 128 : f == TileFormat::kFp8 ? 16 : 0);
}
// x of a unit. 4 bits: digits [2][128], then {start of row g: two columns, scale, scale / 16} [4 lanes]. FP8: halves
// [two steps][term][lane][8], then the scale. bf16: [3 terms][128].
constexpr int UnitXBytes(TileFormat f) {
  return f == TileFormat::kInt4 ? 320 : f == TileFormat::kFp8 ? 528 : 768;
}

// x of one unit to shared memory; lane l brings columns 4l .. 4l + 3.
template <TileFormat kF>
__device__ __forceinline__ void stage_unit(uint8_t* to, float4 v, int group_cols) {
  const int lane = threadIdx.x % 32;
  if constexpr (kF == TileFormat::kBf16) {
    float rest[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int term = 0; term < 3; ++term) {
      const uint32_t low = pack_bf16(rest[0], rest[1]), high = pack_bf16(rest[2], rest[3]);
      reinterpret_cast<uint2*>(to + term * 256)[lane] = {low, high};
      rest[0] -= __uint_as_float(low << 16), rest[1] -= __uint_as_float(low & 0xffff0000);
      rest[2] -= __uint_as_float(high << 16), rest[3] -= __uint_as_float(high & 0xffff0000);
    }
    return;
  }
  if constexpr (kF == TileFormat::kFp8) {
    float down;
    const float up = half_scale(most_bits_of(v), down);
    const float x[4] = {v.x * up, v.y * up, v.z * up, v.w * up};
    const int t = lane / 8, step = lane % 8;
    uint8_t* there = to + (step / 2 * 8 + t) * 16 + step % 2 * 8;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const __half2 first = __floats2half2_rn(x[2 * q], x[2 * q + 1]);
      const float2 back = __half22float2(first);
      const __half2 rest = __floats2half2_rn((x[2 * q] - back.x) * 2048.0f, (x[2 * q + 1] - back.y) * 2048.0f);
      reinterpret_cast<__half2*>(there)[q] = first;
      reinterpret_cast<__half2*>(there + 64)[q] = rest;
    }
    if (lane == 0) *reinterpret_cast<float*>(to + 512) = down;
    return;
  }
  if constexpr (kF == TileFormat::kInt4) {
    uint32_t high, low;
    const float scale = digits_of(v, high, low);
    reinterpret_cast<uint32_t*>(to)[lane] = high;
    reinterpret_cast<uint32_t*>(to + 128)[lane] = low;
    int sum_high, sum_low;
    group_sums(high, low, group_cols, sum_high, sum_low);
    const bool live = lane * group_cols < kUnitCols;
    const int from = live ? lane * (group_cols / 4) : 0;
    sum_high = __shfl_sync(0xffffffffu, sum_high, from), sum_low = __shfl_sync(0xffffffffu, sum_low, from);
    if (lane >= 4) return;
    reinterpret_cast<uint4*>(to + 256)[lane] = {kMagic - (live ? 8 * sum_high : 0), kMagic - (live ? 8 * sum_low : 0),
                                                __float_as_uint(scale), __float_as_uint(scale * 0.0625f)};
  }
}

// Where this lane finds its share of B: at base + unit * stride (all zeros with stride 0).
struct LaneX {
  uint32_t base, stride;
  uint32_t info;  // of the unit's scales, with the full stride
  uint32_t flip;  // 4 bits: NibbleFlip()
};

template <TileFormat kF>
__device__ __forceinline__ LaneX lane_x(const uint8_t* x, const uint8_t* zeros, int group_cols) {
  const int lane = threadIdx.x % 32, n = lane / 4, t = lane % 4;
  LaneX l = {smem_address(zeros), 0, smem_address(x), 0};
  if constexpr (kF == TileFormat::kInt4) {
    l.info += 256 + t * 16;
    l.flip = NibbleFlip();
    if (n / 2 == 32 * t / group_cols) l.base = smem_address(x) + n % 2 * 128 + t * 32, l.stride = UnitXBytes(kF);
  } else if constexpr (kF == TileFormat::kFp8) {
    l.info += 512;
    l.base = smem_address(x) + (n % 2 * 4 + t) * 16, l.stride = UnitXBytes(kF);
  } else if (n < 3) {
    l.base = smem_address(x) + n * 256 + t * 64, l.stride = UnitXBytes(kF);
  }
  return l;
}

// Adds a piece's products to the lane's sums of rows g and g + 8. `column`: the piece among those staged.
template <TileFormat kF>
__device__ __forceinline__ void multiply_piece(const uint8_t* stage, const LaneX& l, int column, float (&sums)[2]) {
  const int lane = threadIdx.x % 32;
  const uint4* weights = reinterpret_cast<const uint4*>(stage) + lane;
  if constexpr (kF == TileFormat::kInt4) {
    const uint32_t x = l.base + column * l.stride;
    const uint4 info = load_shared(l.info + column * UnitXBytes(kF));
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(stage + PieceBytes(kF) + lane * 4);
    uint32_t d[4] = {info.x, info.y, kMagic, kMagic};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 w = weights[c * 32], b = load_shared(x + c * 16);
      uint32_t first[4], second[4];
      operands_of(w.x, w.y, l.flip, first);
      operands_of(w.z, w.w, l.flip, second);
      mma_int8(d, first, b.x, b.y);
      mma_int8(d, second, b.z, b.w);
    }
    const float magic = __uint_as_float(kMagic);
    const float g = (__uint_as_float(d[0]) - magic) * 256.0f + (__uint_as_float(d[1]) - magic);
    const float g8 = (__uint_as_float(d[2]) - magic) * 256.0f + (__uint_as_float(d[3]) - magic);
    sums[0] += g * (__uint_as_float(pair << 16) * __uint_as_float(info.z));
    sums[1] += g8 * (__uint_as_float(pair & 0xffff0000) * __uint_as_float(info.w));
  } else if constexpr (kF == TileFormat::kFp8) {
    const uint32_t x = l.base + column * l.stride;
    float d[2][4] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 top = weights[c * 32], bottom = weights[(2 + c) * 32];
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const uint4 b = load_shared(x + (2 * c + pair) * 128);
        uint32_t a[4];
        halves_of(word_of(top, 2 * pair), a[0], a[2]);
        halves_of(word_of(bottom, 2 * pair), a[1], a[3]);
        mma_half(d[0], a, b.x, b.y);
        halves_of(word_of(top, 2 * pair + 1), a[0], a[2]);
        halves_of(word_of(bottom, 2 * pair + 1), a[1], a[3]);
        mma_half(d[1], a, b.z, b.w);
      }
    }
    const float2 scale = *reinterpret_cast<const float2*>(stage + PieceBytes(kF));
    float unit_scale;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(unit_scale) : "r"(l.info + column * UnitXBytes(kF)));
    // Even columns of the product are the first term, odd ones the rest: all four lanes of a row have the whole sum,
    // and row_sum adds the four.
    unit_scale *= 0.25f;
    sums[0] += fmaf(d[0][1] + d[1][1], 1.0f / 2048, d[0][0] + d[1][0]) * (scale.x * unit_scale);
    sums[1] += fmaf(d[0][3] + d[1][3], 1.0f / 2048, d[0][2] + d[1][2]) * (scale.y * unit_scale);
  } else {
    const uint32_t x = l.base + column / 2 * l.stride + (l.stride != 0 ? column % 2 * 32 : 0);
    float d[2][4] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 b = load_shared(x + c * 16);
      const uint4 v = weights[2 * c * 32], w = weights[(2 * c + 1) * 32];
      mma_bf16(d[0], {v.x, v.y, v.z, v.w}, b.x, b.y);
      mma_bf16(d[1], {w.x, w.y, w.z, w.w}, b.z, b.w);
    }
    sums[0] += (d[0][0] + d[1][0]) + (d[0][1] + d[1][1]);
    sums[1] += (d[0][2] + d[1][2]) + (d[0][3] + d[1][3]);
  }
}

}  // namespace minimo::cuda
