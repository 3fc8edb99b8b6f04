// wgmma with bf16 operands and float32 sums: A (64 rows) in registers, B (kN columns) in shared memory as
// swizzled_operand says. A lane's results d[4 j + i] lie as those of WgmmaE4m3; A: rows g and g + 8 at K = 2 t, 2 t +
// 1, then both at 8 + 2 t ...
#pragma once

#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {

// Asynchronous: d = a * b + (add ? d : 0), 16 of K.
template <int kN>
__device__ void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t operand, bool add);

#pragma push_macro("MINIMO_F")
#undef MINIMO_F
#define MINIMO_F "+f"
#define MINIMO_WGMMA_BF16(n, a, b, keep)                                                                       \
  template <>                                                                                                  \
  __device__ __forceinline__ void wgmma_bf16<n>(float (&d)[n / 2], const uint32_t (&x)[4], uint64_t operand,   \
                                                bool add) {                                                    \
    asm volatile("{.reg .pred p; setp.ne.b32 p, " keep ", 0;\n"                                                \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" MINIMO_D##n "}, {" a "}, " b     \
                 ", p, 1, 1, 0;}\n"                                                                            \
                 : MINIMO_O##n                                                                                 \
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(operand), "r"(static_cast<int>(add))        \
                 : "memory");                                                                                  \
  }
MINIMO_WGMMA_BF16(32, "%16,%17,%18,%19", "%20", "%21")
MINIMO_WGMMA_BF16(64, "%32,%33,%34,%35", "%36", "%37")
MINIMO_WGMMA_BF16(96, "%48,%49,%50,%51", "%52", "%53")
MINIMO_WGMMA_BF16(120, "%60,%61,%62,%63", "%64", "%65")
MINIMO_WGMMA_BF16(128, "%64,%65,%66,%67", "%68", "%69")
#undef MINIMO_WGMMA_BF16
#pragma pop_macro("MINIMO_F")

}  // namespace minimo::cuda
