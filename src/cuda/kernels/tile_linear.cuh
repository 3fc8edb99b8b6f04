// y = W x for many tokens: 128 or 256 rows of W against 32 or 64 tokens a block. See tile_linear.cu.
#pragma once

#include "cuda/kernels/stream_linear.cuh"

namespace minimo::cuda {

// Same meaning as LaunchStreamLinear, bf16 activations, kDense and kExperts.
cudaError_t LaunchTileLinear(const LinearParams& params, cudaStream_t stream);

// True where it is the faster of the two.
inline bool PrefersTiles(const LinearParams& p, int experts) {
  if (p.mode == LinearMode::kDense) return p.tokens > 64;
  return p.mode == LinearMode::kExperts && static_cast<int64_t>(p.tokens) * p.top_k >= 12 * int64_t{experts};
}

}  // namespace minimo::cuda
