// Attention of one token a sequence, for gpu_batch: on the tensor cores against the plain kernels of float32
// arithmetic, and timed.
#pragma once

#include <vector>

namespace minimo::cuda {

// Returns how many checks failed.
int CheckDecodeAttention();
void TimeDecodeAttention(const std::vector<int>& token_counts);

}  // namespace minimo::cuda
