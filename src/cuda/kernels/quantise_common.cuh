// What the kernels that quantise activations share; the experts' tiles of tokens, made of the router's lists by the
// first block of the one that quantises their input.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/e4m3_pairs.cuh"
#include "cuda/kernels/fp8_quantise.cuh"

namespace minimo::cuda {

constexpr int kQuantiseThreads = 256;
constexpr float kLeastUnit = 1e-30f;  // a unit with nothing above it is zero

__device__ __forceinline__ float largest(float4 v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}
__device__ __forceinline__ float4 times(float4 v, float4 w) { return {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w}; }
__device__ __forceinline__ float4 widen(float4 v) { return v; }
__device__ __forceinline__ float4 widen(uint2 v) {
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}

// Tiles of an expert are of one width; those of 128 tokens are paid for in 64s (fp8_wide.cu), so they are as wide as
// they may be. The widest come first, then by expert: blocks take them in turns, so that each
// gets as many wide ones and what is left at the end is short.
__device__ inline void list_tiles(const QuantiseParams& p) {
  __shared__ int2 listed[kQuantiseThreads];  // width, parts
  const int a = threadIdx.x, active = load_l2(p.num_active);
  int begin = 0, end = 0, first = 0, width = 0, parts = 0;
  if (a < active) {
    begin = load_l2(p.offsets + a), end = load_l2(p.offsets + a + 1);
    first = begin & ~7;
    parts = (end - first + p.tile_tokens - 1) / p.tile_tokens;
    if (parts > 0) width = p.tile_tokens % 64 == 0 ? p.tile_tokens : ((end - first + parts - 1) / parts + 7) / 8 * 8;
  }
  listed[a] = {width, parts};
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll 8
  for (int b = 0; b < kQuantiseThreads; ++b) {
    const int2 other = listed[b];
    all += other.y;
    if (other.x > width || (other.x == width && b < a)) before += other.y;
  }
  if (a == 0) *p.num_tiles = all;
  if (parts == 0) return;
  const int expert = load_l2(p.active + a);
  for (int i = 0; i < parts; ++i) {
    const int from = first + i * width;
    p.tiles[before + i] = {expert, from, max(from, begin), min(from + width, end)};
  }
}

}  // namespace minimo::cuda
