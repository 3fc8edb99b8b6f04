// An element of the KV cache: bf16; e4m3 without a scale, values beyond 448 saturating, as the CPU's cache has it; or
// float32, for verification. Kernels take the type as a template parameter `Kv`, launchers choose it by
// KvView::element_bytes; fresh keys and values of a step are of the same type. Keys that attention_simple reads are
// halves, saturating, where a norm bounds them: 11 bits in place of 8, and a key's rounding counts most of all where
// scores are large.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "cuda/kernels/dequant.cuh"

namespace minimo::cuda {

struct e4m3 {
  uint8_t bits;
};

// Elements in 16 bytes, as a copy moves them.
template <typename Kv>
inline constexpr int kKvPiece = 16 / static_cast<int>(sizeof(Kv));

__device__ __forceinline__ float load_l2(const e4m3* p) {
  return fp8_to_float(__ldcg(reinterpret_cast<const unsigned char*>(p)));
}
__device__ __forceinline__ void store(e4m3* p, float x) {
  p->bits = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ float load_l2(const __half* p) {
  return __half2float(__ushort_as_half(__ldcg(reinterpret_cast<const unsigned short*>(p))));
}
__device__ __forceinline__ void store(__half* p, float x) {
  constexpr float kMost = 65504;
  *p = __float2half_rn(x > kMost ? kMost : x < -kMost ? -kMost : x);  // not a number stays none
}

// Eight values in order, exactly: see expand_fp8.
__device__ __forceinline__ uint4 widen_e4m3(uint2 v) {
  const auto two = [](uint32_t pair) {  // bytes 1 and 3
    return mul_bf16x2((pair & 0x80008000) | ((pair >> 4) & 0x07f007f0), kTwoTo120);
  };
  return {two(__byte_perm(v.x, 0, 0x1404)), two(__byte_perm(v.x, 0, 0x3424)), two(__byte_perm(v.y, 0, 0x1404)),
          two(__byte_perm(v.y, 0, 0x3424))};
}

// `rows` rows of kDim e4m3 values in shared memory, one behind the other, to bf16 rows of `row_bytes`; `threads`
// threads, this one being `thread`.
template <int kDim>
__device__ __forceinline__ void widen_rows(const uint8_t* from, int rows, uint8_t* to, int row_bytes, int thread,
                                           int threads) {
  constexpr int kEights = kDim / 8;
#pragma unroll 4
  for (int i = thread; i < rows * kEights; i += threads) {
    *reinterpret_cast<uint4*>(to + i / kEights * row_bytes + 16 * (i % kEights)) =
        widen_e4m3(reinterpret_cast<const uint2*>(from)[i]);
  }
}

}  // namespace minimo::cuda
