// Products in float32's precision on the tensor cores: every factor is the sum of two tf32 numbers, and three of the
// four products are taken (the fourth is below float32's last bit).
#pragma once

#include <cstdint>

namespace minimo::cuda {

struct Tf32Pair {
  uint32_t high, low;
};
__device__ __forceinline__ Tf32Pair split_tf32(float x) {
  Tf32Pair s;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(s.high) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(s.low) : "f"(x - __uint_as_float(s.high)));
  return s;
}
// d += a * b: a 16 x 8, b 8 x 8.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace minimo::cuda
