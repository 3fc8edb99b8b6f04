// float32 to e4m3 and back, two at a time.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace minimo::cuda {

inline constexpr float kMostE4m3 = 448.0f;

__device__ __forceinline__ uint32_t to_e4m3x2(float low, float high) {
  uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}
// Back, exactly: the lower two bytes as a pair of halves.
__device__ __forceinline__ uint32_t from_e4m3x2(uint32_t pair) {
  uint32_t d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"(static_cast<uint16_t>(pair)));
  return d;
}
__device__ __forceinline__ float sum_e4m3x2(uint32_t pair) {
  const uint32_t d = from_e4m3x2(pair);
  const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&d));
  return v.x + v.y;
}

}  // namespace minimo::cuda
