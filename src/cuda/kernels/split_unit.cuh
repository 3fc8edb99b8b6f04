// Where the parts of split_rows.cuh lie, and their making: a warp takes a token's unit, a lane four columns of it.
#pragma once

#include <cuda_fp16.h>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/e4m3_pairs.cuh"
#include "cuda/kernels/split_rows.cuh"

namespace minimo::cuda {

// Two values' first and second parts.
__device__ __forceinline__ void split_pair(float a, float b, uint32_t& first, uint32_t& second) {
  first = to_e4m3x2(a, b);
  const uint32_t back = from_e4m3x2(first);
  const __half2 left = __hsub2(__floats2half2_rn(a, b), *reinterpret_cast<const __half2*>(&back));
  uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;" : "=h"(d) : "r"(*reinterpret_cast<const uint32_t*>(&left)));
  second = d;
}

// bits: columns 4 lane .. 4 lane + 3 of the unit, bf16. All lanes together.
__device__ __forceinline__ void put_split(const SplitRows& to, int tokens, int token, int unit, uint2 bits) {
  const int lane = threadIdx.x % 32, first = token / kSplitRun * kSplitRun, row = token - first;
  const int rows = min(kSplitRun, (tokens - first + 7) / 8 * 8);
  uint8_t* out = to.data + (int64_t{first} * to.units + int64_t{unit} * rows) * kSplitTokenBytes;
  const float v[4] = {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000),
                      __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000)};
  const float most = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
  const int exponent = max(static_cast<int>(__float_as_uint(most) >> 23), 32);  // biased
  const float up = __uint_as_float(static_cast<uint32_t>(127 + 127 + 7 - exponent) << 23);
  uint32_t low[2], high[2];
  split_pair(v[0] * up, v[1] * up, low[0], low[1]);
  split_pair(v[2] * up, v[3] * up, high[0], high[1]);
  const int piece = lane / 4, place = (piece % 2 * 4 + piece / 4 * 2 + piece / 2 % 2) ^ (row % 8);
  uint32_t* mine = reinterpret_cast<uint32_t*>(out + row * 128 + place * 16) + lane % 4;
  mine[0] = low[0] | high[0] << 16;
  mine[rows * 32] = low[1] | high[1] << 16;
  if (lane == 0) {
    // Not a finite power of a row that is not finite.
    const float power = exponent < 255 ? __uint_as_float(static_cast<uint32_t>(exponent - 7) << 23) : most;
    reinterpret_cast<float*>(out + int64_t{rows} * 256)[row] = power;
  }
}

}  // namespace minimo::cuda
