#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "tests/gpu/read_bandwidth.h"

namespace minimo::testing {
namespace {

constexpr int kThreads = 512, kInFlight = 8;  // of 16 bytes a thread

__global__ void __launch_bounds__(kThreads) read_stream(const uint4* from, int64_t count, uint32_t* out) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kInFlight - 1) * stride < count; i += kInFlight * stride) {
    uint4 v[kInFlight];
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) v[n] = __ldcs(from + i + n * stride);
#pragma unroll
    for (int n = 0; n < kInFlight; ++n) sum += v[n].x ^ v[n].y ^ v[n].z ^ v[n].w;
  }
  if (sum == 0x9e3779b9) *out = sum;  // all but never: the loads must be of use
}

}  // namespace

double ReadBandwidth() {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  const size_t bytes = std::min(size_t{8} << 30, free / 2) / 4096 * 4096;
  uint4* from = nullptr;
  if (cudaMalloc(&from, bytes) != cudaSuccess) return 0;
  cudaMemset(from, 0, bytes);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float best = 0;
  for (const int blocks : {132, 264, 528, 1056, 2112}) {
    for (int repeat = 0; repeat < 4; ++repeat) {
      cudaEventRecord(begin);
      read_stream<<<blocks, kThreads>>>(from, static_cast<int64_t>(bytes / 16), reinterpret_cast<uint32_t*>(from));
      cudaEventRecord(end);
      float ms = 0;
      if (cudaEventSynchronize(end) != cudaSuccess || cudaEventElapsedTime(&ms, begin, end) != cudaSuccess) break;
      best = std::max(best, static_cast<float>(bytes) / (ms * 1e-3f));
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(from);
  return best;
}

}  // namespace minimo::testing
