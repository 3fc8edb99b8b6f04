// y = W x for 2 to 256 tokens, dense. See batch_linear.cu.
#pragma once

#include "cuda/kernels/stream_linear.cuh"

namespace minimo::cuda {

// bf16 activations; FP8 or bf16 weights.
bool CanBatchLinear(const LinearParams& params);
cudaError_t LaunchBatchLinear(const LinearParams& params, cudaStream_t stream);
// The same for FP8 weights, activations in two e4m3 parts, with room for them in params.split, and outputs in fours of
// rows (batch_split.cu).
bool CanBatchSplit(const LinearParams& params);
bool PrefersBatchSplit(const LinearParams& params);  // where it is the faster one
cudaError_t LaunchBatchSplit(const LinearParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
