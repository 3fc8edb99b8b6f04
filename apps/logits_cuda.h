#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "minimo/result.h"
#include "models/loader.h"

namespace minimo {

// The logits [ids.size(), vocab] of one sequence on the first CUDA device, in steps of `chunk` tokens.
Result<std::vector<float>> LogitsOnCuda(const LoadedModel& model, std::span<const int32_t> ids, int chunk, bool f32,
                                        int threads);

}  // namespace minimo
