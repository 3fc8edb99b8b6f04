// y = W x for 2 to 256 tokens, dense. See batch_linear.cu.
#pragma once

#include "cuda/kernels/stream_linear.cuh"

namespace minimo::cuda {

// bf16 activations; FP8 or bf16 weights.
bool CanBatchLinear(const LinearParams& params);
cudaError_t LaunchBatchLinear(const LinearParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
