#include "ops/embedding/embedding.h"

#include "ops/linear/linear.h"

namespace minimo {

void Embedding(const WeightView& table, std::span<const int32_t> tokens, float* out) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (int64_t c = 0; c < table.cols; ++c) out[t * table.cols + c] = Dequantize(table, tokens[t], c);
  }
}

}  // namespace minimo
