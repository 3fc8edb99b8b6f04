#include "ops/rms_norm/sliced_rms_norm.h"

#include <cmath>

namespace minimo {

void SumSquares(const float* x, int64_t tokens, int64_t size, int64_t x_stride, float* sums, int64_t sums_stride) {
  for (int64_t t = 0; t < tokens; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) sum += double{x[t * x_stride + i]} * x[t * x_stride + i];
    sums[t * sums_stride] = static_cast<float>(sum);
  }
}

void SlicedRmsNorm(const SlicedRmsNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* x = a.x + t * a.x_stride;
    const double mean = a.sums[t * a.sums_stride] / static_cast<double>(a.whole_size);
    const float scale = static_cast<float>(1.0 / std::sqrt(mean + a.eps));
    for (int64_t i = 0; i < a.size; ++i) x[i] *= scale * a.weight[i];
  }
}

}  // namespace minimo
