// out[t] = table[tokens[t]] as float32.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/weight_view.h"

namespace minimo {

// table [vocab, hidden], out [tokens, hidden]; every id is in [0, vocab).
void Embedding(const WeightView& table, std::span<const int32_t> tokens, float* out);

}  // namespace minimo
