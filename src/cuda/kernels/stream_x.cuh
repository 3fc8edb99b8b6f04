// What the kernels that stream weights share: weights from their stored bits to operands of mma in few instructions,
// and x as the operands they meet (stream_token.cu has the ideas).
#pragma once

#include <cuda_fp16.h>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/e4m3_pairs.cuh"

namespace minimo::cuda {

constexpr uint32_t kMagic = 0x4b400000;  // 1.5 * 2^23 as a float: plus an integer of less than 23 bits, exactly that

__device__ __forceinline__ void mma_half(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_int8(uint32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Weights pass through L2 once: they are the first to go, so that activations, code and the KV cache stay.
__device__ __forceinline__ uint64_t weights_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void copy_weights16(void* smem, const void* global, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(smem_address(smem)), "l"(global),
               "l"(policy)
               : "memory");
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}
__device__ __forceinline__ uint2 load_shared_pair(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ float2 load_shared_float2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}

// 4 bits: words of two steps to A of mma m16n8k32: row g as value + 8, row g + 8 as 16 * value. `flip`: 0x80808080 from
// NibbleFlip(), a register, so that and and xor are one instruction.
__device__ __forceinline__ uint32_t NibbleFlip() {
  uint32_t flip;
  asm volatile("mov.u32 %0, 0x80808080;" : "=r"(flip));
  return flip;
}
__device__ __forceinline__ void operands_of(uint32_t w0, uint32_t w1, uint32_t flip, uint32_t (&a)[4]) {
  a[0] = w0 & 0x0f0f0f0f;
  a[2] = w1 & 0x0f0f0f0f;
  asm("lop3.b32 %0, %1, 0xf0f0f0f0, %2, 0x6a;" : "=r"(a[1]) : "r"(w0), "r"(flip));
  asm("lop3.b32 %0, %1, 0xf0f0f0f0, %2, 0x6a;" : "=r"(a[3]) : "r"(w1), "r"(flip));
}

// FP8: bytes 0, 1 and 2, 3 as pairs of halves, exactly.
__device__ __forceinline__ void halves_of(uint32_t bytes, uint32_t& low, uint32_t& high) {
  low = from_e4m3x2(bytes), high = from_e4m3x2(bytes >> 16);
}

// The largest magnitude of a warp's 128 numbers, as bits; NaN if one is.
__device__ __forceinline__ uint32_t most_bits_of(float4 v) {
  const float mine = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  const float sum = v.x + v.y + v.z + v.w;  // fmaxf drops NaN
  return __reduce_max_sync(0xffffffffu, __float_as_uint(sum == sum ? mine : NAN) & 0x7fffffff);
}

constexpr float kMostDigits = 32512.0f;
// A unit of x (lane l has columns 4l ..) as two 8-bit digits of a 16-bit number each, bytes in the order of a word's
// nibbles (columns 0, 2, 1, 3). Returns their scale: x = scale * (256 * high + low).
__device__ __forceinline__ float digits_of(float4 v, uint32_t most_bits, uint32_t& high, uint32_t& low) {
  const float most = __uint_as_float(most_bits), up = most > 0 ? __fdividef(kMostDigits, most) : 0.0f;
  const float x[4] = {v.x * up, v.y * up, v.z * up, v.w * up};
  high = 0, low = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int digit = __float2int_rn(x[i]), top = (digit + 128) >> 8, at = i == 1 ? 16 : i == 2 ? 8 : 8 * i;
    high |= (static_cast<uint32_t>(top) & 0xff) << at;
    low |= (static_cast<uint32_t>(digit - (top << 8)) & 0xff) << at;
  }
  return most * (1 / kMostDigits);
}
// The sums of a word's digits, of the high ones times 2^16: of a unit's both sums fit in half a word each.
__device__ __forceinline__ int both_sums(uint32_t high, uint32_t low) {
  return __dp4a(static_cast<int>(high), 0x01010101, 0) * 65536 + __dp4a(static_cast<int>(low), 0x01010101, 0);
}

// The power of two that takes a unit of x below 2^(kTop + 1), whatever x is. `down`: its inverse.
template <int kTop>
__device__ __forceinline__ float power_scale(uint32_t most_bits, float& down) {
  const uint32_t exponent = max(most_bits >> 23, kTop + 1u);
  down = exponent == 255 ? NAN : __uint_as_float((exponent - kTop) << 23);
  return __uint_as_float((254u + kTop - exponent) << 23);
}
// Halves then neither overflow nor lose bits that matter.
__device__ __forceinline__ float half_scale(uint32_t most_bits, float& down) {
  return power_scale<13>(most_bits, down);
}

}  // namespace minimo::cuda
