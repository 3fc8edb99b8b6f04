// Weights from their stored bits to mma operands (bf16 pairs) or to float32, exactly. The word layouts are those that
// repack.cu writes.
#pragma once

#include "cuda/kernels/common.cuh"

namespace minimo::cuda {

// FP8 E4M3: bits s eeee mmm moved to s 0000eeee mmm0000 are the bf16 of the value times 2^-120, subnormals included.
inline constexpr uint32_t kTwoTo120 = 0x7b807b80;  // bf16 pair
// Two bytes of `w`, by the selector: kFirstPair 0 and 1, kSecondPair 2 and 3.
inline constexpr uint32_t kFirstPair = 0x1404, kSecondPair = 0x3424;
__device__ __forceinline__ uint32_t expand_fp8(uint32_t w, uint32_t pair) {
  const uint32_t v = __byte_perm(w, 0, pair);
  return mul_bf16x2((v & 0x80008000) | ((v >> 4) & 0x07f007f0), kTwoTo120);
}
// All four of a row at once: the upper and lower bytes of what they become, then these in pairs.
__device__ __forceinline__ void expand_fp8(uint32_t w, uint32_t& first, uint32_t& second) {
  const uint32_t upper = (w & 0x80808080) | ((w >> 4) & 0x07070707), lower = (w << 4) & 0xf0f0f0f0;
  first = mul_bf16x2(__byte_perm(lower, upper, 0x5140), kTwoTo120);
  second = mul_bf16x2(__byte_perm(lower, upper, 0x7362), kTwoTo120);
}
// A step's words of rows g and g + 8 as A of mma.
__device__ __forceinline__ void expand_fp8(uint32_t row_g, uint32_t row_g8, uint32_t (&a)[4]) {
  expand_fp8(row_g, a[0], a[2]);
  expand_fp8(row_g8, a[1], a[3]);
}

// 4 bits: nibbles n and n + 4 of the step's word are a[n] (value + 8). 0x4300 | q is bf16 128 + q.
__device__ __forceinline__ void expand_int4(uint32_t w, uint32_t scale_g, uint32_t scale_g8, uint32_t (&a)[4]) {
  constexpr uint32_t k136 = 0x43084308;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const uint32_t biased = ((w >> (4 * n)) & 0x000f000f) | 0x43004300;
    a[n] = mul_bf16x2(sub_bf16x2(biased, k136), n % 2 == 0 ? scale_g : scale_g8);
  }
}

__device__ __forceinline__ float fp8_to_float(uint32_t byte) {
  const uint32_t bits = ((byte & 0x80) << 24) | ((byte & 0x7f) << 20);  // times 2^-120
  return __uint_as_float(bits) * 0x1p120f;
}

// One step's weights in float32: w[0] row g, w[1] row g + 8.
__device__ __forceinline__ void exact_bf16(uint4 v, float (&w)[2][4]) {
  const uint32_t a[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    w[r % 2][r / 2 * 2] = __uint_as_float(a[r] << 16);
    w[r % 2][r / 2 * 2 + 1] = __uint_as_float(a[r] & 0xffff0000);
  }
}
__device__ __forceinline__ void exact_fp8(uint32_t row_g, uint32_t row_g8, float (&w)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    w[0][i] = fp8_to_float((row_g >> (8 * i)) & 0xff);
    w[1][i] = fp8_to_float((row_g8 >> (8 * i)) & 0xff);
  }
}
__device__ __forceinline__ void exact_int4(uint32_t v, const float (&scale)[2], float (&w)[2][4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int q = static_cast<int>((v >> (4 * n + 16 * i)) & 0xf) - 8;
      w[n % 2][n / 2 * 2 + i] = static_cast<float>(q) * scale[n % 2];
    }
  }
}

}  // namespace minimo::cuda
