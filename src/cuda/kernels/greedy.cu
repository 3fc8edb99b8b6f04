#include "cuda/kernels/common.cuh"
#include "cuda/kernels/greedy.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void take_better(float& value, int& token, float other, int other_token) {
  if (other > value || (other == value && other_token < token)) value = other, token = other_token;
}

// The best of a block's values, in thread 0.
__device__ void best_of_block(float& value, int& token) {
  __shared__ float values[kThreads / 32];
  __shared__ int tokens[kThreads / 32];
  const auto reduce = [&] {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
      const float other = __shfl_xor_sync(0xffffffffu, value, offset);
      take_better(value, token, other, __shfl_xor_sync(0xffffffffu, token, offset));
    }
  };
  reduce();
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, tokens[threadIdx.x / 32] = token;
  __syncthreads();
  if (threadIdx.x < 32) {
    const bool inside = threadIdx.x < kThreads / 32;
    value = inside ? values[threadIdx.x] : -INFINITY;
    token = inside ? tokens[threadIdx.x] : 0x7fffffff;
    reduce();
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) greedy(const GreedyParams p) {
  __shared__ bool last;
  wait_previous_kernel();
  allow_next_kernel();
  const int row = blockIdx.y, part = blockIdx.x;
  const int begin = static_cast<int>(int64_t{p.vocab} * part / kGreedyParts);
  const int end = static_cast<int>(int64_t{p.vocab} * (part + 1) / kGreedyParts);
  float value = -INFINITY;
  int token = 0x7fffffff;
  for (int i = begin + threadIdx.x; i < end; i += kThreads) {
    take_better(value, token, load_l2(p.logits + int64_t{row} * p.vocab + i), i);
  }
  best_of_block(value, token);
  if (threadIdx.x == 0) {
    p.part_value[row * kGreedyParts + part] = value;
    p.part_token[row * kGreedyParts + part] = token;
    __threadfence();
    last = atomicAdd(p.counters + row, 1) == kGreedyParts - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x >= 32) return;
  __threadfence();
  value = load_l2(p.part_value + row * kGreedyParts + threadIdx.x);
  token = load_l2(p.part_token + row * kGreedyParts + threadIdx.x);
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const float other = __shfl_xor_sync(0xffffffffu, value, offset);
    take_better(value, token, other, __shfl_xor_sync(0xffffffffu, token, offset));
  }
  if (threadIdx.x != 0) return;
  p.counters[row] = 0;
  token = min(token, p.vocab - 1);  // all NaN: some token
  if (p.scramble) {
    token = static_cast<int>((token + 7919ll * p.position[row] + 104729ll * row) % p.vocab);
  }
  p.token[row] = token;
  if (p.position != nullptr) p.position[row] += 1, p.past[row] += 1, p.last[row] += 1;
}

}  // namespace

cudaError_t LaunchGreedy(const GreedyParams& p, cudaStream_t stream) {
  return Launch(greedy, dim3(kGreedyParts, p.rows), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
