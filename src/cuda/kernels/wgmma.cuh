// Hopper's asynchronous matrix product and what it is fed with: e4m3 x e4m3 with float32 sums, A (64 rows) in
// registers or shared memory, B (kN columns) in shared memory, K-major, rows of 128 bytes with the 128-byte swizzle or
// of 64 bytes with the 64-byte swizzle.
#pragma once

#include "cuda/kernels/common.cuh"

namespace minimo::cuda {

// Orders this thread's register and shared-memory accesses before the next wgmma.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// This thread's writes to shared memory, barriers too, before what is asynchronous reads them.
__device__ __forceinline__ void fence_async_reads() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Of all warps of a warpgroup: how many registers a thread has from here on, fewer or more than before. Those taken
// must have been given by others of the block, else this waits for ever.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
// The first place of `smem` where a swizzle may begin.
__device__ __forceinline__ uint8_t* swizzle_base(uint8_t* smem) {
  return smem + (1024 - smem_address(smem) % 1024) % 1024;
}
// At most kPending groups are still running; `d`, results of a finished one, may be read from here on.
template <int kPending, int kCount>
__device__ __forceinline__ void wgmma_wait(float (&d)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// B at a shared-memory address: rows of 128 bytes, groups of 8 rows 1024 bytes apart, 128-byte swizzle (the 16-byte
// piece p of row r lies at p ^ (r % 8)). 32 bytes of K further: + 2.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
// Rows of 64 bytes as the tiles of FP8 weights have them (weight_tiles.h): groups of 8 rows 1024 bytes apart, the
// 16-byte piece p of row r at p ^ (r / 2 % 4).
__device__ __forceinline__ uint64_t weights_operand(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{2} << 62;
}

#define MINIMO_D8 "%0,%1,%2,%3"
#define MINIMO_D16 MINIMO_D8 ",%4,%5,%6,%7"
#define MINIMO_D24 MINIMO_D16 ",%8,%9,%10,%11"
#define MINIMO_D32 MINIMO_D24 ",%12,%13,%14,%15"
#define MINIMO_D40 MINIMO_D32 ",%16,%17,%18,%19"
#define MINIMO_D48 MINIMO_D40 ",%20,%21,%22,%23"
#define MINIMO_D56 MINIMO_D48 ",%24,%25,%26,%27"
#define MINIMO_D64 MINIMO_D56 ",%28,%29,%30,%31"
#define MINIMO_D72 MINIMO_D64 ",%32,%33,%34,%35"
#define MINIMO_D80 MINIMO_D72 ",%36,%37,%38,%39"
#define MINIMO_D96 MINIMO_D64 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define MINIMO_D112 MINIMO_D96 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define MINIMO_D120 MINIMO_D112 ",%56,%57,%58,%59"
#define MINIMO_D128 MINIMO_D120 ",%60,%61,%62,%63"
#define MINIMO_O(i) MINIMO_F(d[i]), MINIMO_F(d[i + 1]), MINIMO_F(d[i + 2]), MINIMO_F(d[i + 3])
#define MINIMO_O8 MINIMO_O(0)
#define MINIMO_O16 MINIMO_O8, MINIMO_O(4)
#define MINIMO_O24 MINIMO_O16, MINIMO_O(8)
#define MINIMO_O32 MINIMO_O24, MINIMO_O(12)
#define MINIMO_O40 MINIMO_O32, MINIMO_O(16)
#define MINIMO_O48 MINIMO_O40, MINIMO_O(20)
#define MINIMO_O56 MINIMO_O48, MINIMO_O(24)
#define MINIMO_O64 MINIMO_O56, MINIMO_O(28)
#define MINIMO_O72 MINIMO_O64, MINIMO_O(32)
#define MINIMO_O80 MINIMO_O72, MINIMO_O(36)
#define MINIMO_O96 MINIMO_O64, MINIMO_O(32), MINIMO_O(36), MINIMO_O(40), MINIMO_O(44)
#define MINIMO_O112 MINIMO_O96, MINIMO_O(48), MINIMO_O(52)
#define MINIMO_O120 MINIMO_O112, MINIMO_O(56)
#define MINIMO_O128 MINIMO_O120, MINIMO_O(60)

// Asynchronous: d = a * b (first) or d += a * b (next): 64 rows, kN columns, 32 of K. A lane's d[4 j + i]: row
// g + 8 (i / 2) of its warp's 16, column 8 j + 2 t + i % 2 (lane = 4 g + t); a: rows g, g + 8 at K = 4 t .. 4 t + 3,
// then at 16 + 4 t ...
template <int kN>
struct WgmmaE4m3;
#define MINIMO_WGMMA_CALL(n, a, b, keep)                                                                             \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " keep ", 0;\n"                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" MINIMO_D##n "}, {" a "}, " b             \
               ", p, 1, 1;}\n"                                                                                       \
               : MINIMO_O##n                                                                                         \
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(operand)                                            \
               : "memory")
#define MINIMO_F "=f"
#define MINIMO_WGMMA(n, a, b)                                                                                        \
  template <>                                                                                                        \
  struct WgmmaE4m3<n> {                                                                                              \
    static __device__ __forceinline__ void first(float (&d)[n / 2], const uint32_t (&x)[4], uint64_t operand) {      \
      MINIMO_WGMMA_CALL(n, a, b, "0");                                                                               \
    }                                                                                                                \
    static __device__ __forceinline__ void next(float (&d)[n / 2], const uint32_t (&x)[4], uint64_t operand);        \
  };
MINIMO_WGMMA(16, "%8,%9,%10,%11", "%12")
MINIMO_WGMMA(24, "%12,%13,%14,%15", "%16")
MINIMO_WGMMA(32, "%16,%17,%18,%19", "%20")
MINIMO_WGMMA(40, "%20,%21,%22,%23", "%24")
MINIMO_WGMMA(48, "%24,%25,%26,%27", "%28")
MINIMO_WGMMA(56, "%28,%29,%30,%31", "%32")
MINIMO_WGMMA(64, "%32,%33,%34,%35", "%36")
MINIMO_WGMMA(72, "%36,%37,%38,%39", "%40")
MINIMO_WGMMA(80, "%40,%41,%42,%43", "%44")
#undef MINIMO_WGMMA
#undef MINIMO_F
#define MINIMO_F "+f"
#define MINIMO_WGMMA(n, a, b)                                                                                      \
  __device__ __forceinline__ void WgmmaE4m3<n>::next(float (&d)[n / 2], const uint32_t (&x)[4], uint64_t operand) { \
    MINIMO_WGMMA_CALL(n, a, b, "1");                                                                               \
  }
MINIMO_WGMMA(16, "%8,%9,%10,%11", "%12")
MINIMO_WGMMA(24, "%12,%13,%14,%15", "%16")
MINIMO_WGMMA(32, "%16,%17,%18,%19", "%20")
MINIMO_WGMMA(40, "%20,%21,%22,%23", "%24")
MINIMO_WGMMA(48, "%24,%25,%26,%27", "%28")
MINIMO_WGMMA(56, "%28,%29,%30,%31", "%32")
MINIMO_WGMMA(64, "%32,%33,%34,%35", "%36")
MINIMO_WGMMA(72, "%36,%37,%38,%39", "%40")
MINIMO_WGMMA(80, "%40,%41,%42,%43", "%44")
#undef MINIMO_WGMMA
#undef MINIMO_WGMMA_CALL

// The same with A in shared memory too: d = a * b + (add ? d : 0). Asynchronous.
template <int kN>
__device__ void wgmma_e4m3(float (&d)[kN / 2], uint64_t a, uint64_t b, bool add);
#define MINIMO_WGMMA_SHARED(n, at_a, at_b, keep)                                                                   \
  template <>                                                                                                      \
  __device__ __forceinline__ void wgmma_e4m3<n>(float (&d)[n / 2], uint64_t a, uint64_t b, bool add) {             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, " keep ", 0;\n"                                                    \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" MINIMO_D##n "}, " at_a ", " at_b     \
                 ", p, 1, 1;}\n"                                                                                   \
                 : MINIMO_O##n                                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add))                                                      \
                 : "memory");                                                                                      \
  }
MINIMO_WGMMA_SHARED(16, "%8", "%9", "%10")
MINIMO_WGMMA_SHARED(32, "%16", "%17", "%18")
MINIMO_WGMMA_SHARED(64, "%32", "%33", "%34")
MINIMO_WGMMA_SHARED(96, "%48", "%49", "%50")
MINIMO_WGMMA_SHARED(112, "%56", "%57", "%58")
MINIMO_WGMMA_SHARED(128, "%64", "%65", "%66")
#undef MINIMO_WGMMA_SHARED
#undef MINIMO_F

// Barriers in shared memory that count arrivals and bytes of bulk copies.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(barrier)) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t phase) {
  asm volatile(
      "{.reg .pred done;\n"
      "wait: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait;}\n" ::"r"(smem_address(barrier)),
      "r"(phase)
      : "memory");
}
// Global to shared memory, 16-byte aligned; the barrier counts the bytes.
__device__ __forceinline__ void bulk_copy(void* smem, const void* global, int bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          smem_address(smem)),
      "l"(global), "r"(bytes), "r"(smem_address(barrier))
      : "memory");
}

}  // namespace minimo::cuda
