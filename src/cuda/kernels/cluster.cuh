// Blocks of a cluster and each other's shared memory.
#pragma once

#include "cuda/kernels/common.cuh"

namespace minimo::cuda {

__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
// For those who only wait until others have read what they have here.
__device__ __forceinline__ void cluster_sync_reads() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// What block `rank` has where this one has `mine`.
__device__ __forceinline__ float load_peer(const float* mine, int rank) {
  float x;
  asm volatile("{.reg .b32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.f32 %0, [a];}"
               : "=f"(x)
               : "r"(smem_address(mine)), "r"(rank)
               : "memory");
  return x;
}

}  // namespace minimo::cuda
