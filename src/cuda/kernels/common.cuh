// What every kernel uses: programmatic dependent launch, asynchronous copies, mma, reductions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace minimo::cuda {

using bf16 = __nv_bfloat16;

// The next kernel of the stream may start: its blocks come as ours leave room, and prefetch weights meanwhile.
__device__ __forceinline__ void allow_next_kernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// All earlier kernels of the stream are complete and their writes visible. Every kernel here calls it in every thread,
// so completion is transitive along the stream.
__device__ __forceinline__ void wait_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ __forceinline__ uint32_t smem_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// The same value, which the compiler keeps instead of computing it anew: with each address in shared memory it does so
// from special registers, which take their time where copies are under way.
__device__ __forceinline__ uint32_t kept(uint32_t x) {
  uint32_t y;
  asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ void copy_async16(uint32_t smem, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async16(void* smem, const void* global) {
  copy_async16(smem_address(smem), global);
}
// 16 bytes, or zeros if !valid.
__device__ __forceinline__ void copy_async16_or_zero(void* smem, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(smem)), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_async4(uint32_t smem, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(smem), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async4(void* smem, const void* global) {
  copy_async4(smem_address(smem), global);
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Data of earlier kernels is read through L2: a line in L1 may be older than wait_previous_kernel.
__device__ __forceinline__ uint4 load_l2(const uint4* p) { return __ldcg(p); }
__device__ __forceinline__ float load_l2(const float* p) { return __ldcg(p); }
__device__ __forceinline__ float4 load_l2(const float4* p) { return __ldcg(p); }
__device__ __forceinline__ int load_l2(const int* p) { return __ldcg(p); }
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float load_l2(const bf16* p) {
  return __uint_as_float(uint32_t{__ldcg(reinterpret_cast<const unsigned short*>(p))} << 16);
}
__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(bf16* p, float x) { *p = __float2bfloat16(x); }

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// Of two lanes whose numbers differ in `bit`: the lower one's second against the upper one's first.
template <typename T>
__device__ __forceinline__ void exchange_lanes(T& first, T& second, int bit) {
  const bool upper = (threadIdx.x & bit) != 0;
  const T other = __shfl_xor_sync(0xffffffffu, upper ? first : second, bit);
  first = upper ? other : first, second = upper ? second : other;
}
// Of four neighbouring lanes: lane t's k-th word becomes lane k's t-th.
__device__ __forceinline__ void transpose_lanes(uint32_t (&words)[4]) {
#pragma unroll
  for (int k = 0; k < 2; ++k) exchange_lanes(words[k], words[k + 2], 2);
#pragma unroll
  for (int k = 0; k < 4; k += 2) exchange_lanes(words[k], words[k + 1], 1);
}

// d += a * b: a 16x16 row-major, b 16x8 column-major, bf16 with float32 sums.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ uint32_t sub_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The sum over a block of `kWarps` warps, the same value in every thread. `scratch`: kWarps floats of shared memory.
template <int kWarps>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}

// Launches with programmatic dependent launch allowed on this kernel's dependence on the previous one; runs of
// `cluster` blocks along x as clusters.
template <typename... Params, typename... Args>
cudaError_t LaunchCluster(void (*kernel)(Params...), dim3 grid, dim3 block, int cluster, size_t smem,
                          cudaStream_t stream, Args... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  // Every kernel leaves an SM's memory divided alike: it must be idle to be divided anew, and nothing would overlap.
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim.x = cluster;
  attributes[2].val.clusterDim.y = attributes[2].val.clusterDim.z = 1;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 3 : 2;
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

template <typename... Params, typename... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, Args... args) {
  return LaunchCluster(kernel, grid, block, 1, smem, stream, args...);
}

}  // namespace minimo::cuda
