// Making rows of activations as the batch's experts kernel takes them (ExpertRow, stream_experts.cuh).
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "cuda/kernels/stream_x.cuh"

namespace minimo::cuda {

// The largest magnitude as bits: NaN above all.
__device__ __forceinline__ uint32_t magnitude_bits(float4 v) {
  const uint32_t x = __float_as_uint(v.x) & 0x7fffffff, y = __float_as_uint(v.y) & 0x7fffffff;
  const uint32_t z = __float_as_uint(v.z) & 0x7fffffff, w = __float_as_uint(v.w) & 0x7fffffff;
  return max(max(x, y), max(z, w));
}

// Columns 4 * four .. + 3 of a row, scaled by `up`; the warp's lanes have neighbouring fours, the first a multiple of
// 16.
__device__ __forceinline__ void put_four(const ExpertRow& r, uint8_t* row, int four, float4 v, float up) {
  const __half2 a = __floats2half2_rn(v.x * up, v.y * up), b = __floats2half2_rn(v.z * up, v.w * up);
  uint2 bits;
  bits.x = *reinterpret_cast<const uint32_t*>(&a), bits.y = *reinterpret_cast<const uint32_t*>(&b);
  reinterpret_cast<uint2*>(row)[four] = bits;
  if (!r.int4) return;
  const float2 fa = __half22float2(a), fb = __half22float2(b);
  float sum = (fa.x + fa.y) + (fb.x + fb.y);
#pragma unroll
  for (int offset = 1; offset < 16; offset <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (four % 16 == 0) reinterpret_cast<float2*>(row + r.starts())[four / 16] = {-1032.0f * sum, -1152.0f * sum};
}

}  // namespace minimo::cuda
