#include <cmath>

#include "ops/rms_norm/rms_norm.h"

namespace minimo {

void RmsNormRef(const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* out = a.out + t * a.out_stride;
    double squares = 0;
    for (int64_t i = 0; i < a.size; ++i) squares += double{x[i]} * x[i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(a.size) + a.eps);
    for (int64_t i = 0; i < a.size; ++i) out[i] = static_cast<float>(x[i] * scale * a.weight[i]);
  }
}

void AddRmsNormRef(const AddRmsNormArgs& a) {
  for (int64_t t = 0; t < a.norm.tokens; ++t) {
    const int64_t row = t * a.norm.x_stride;
    for (int64_t i = 0; i < a.norm.size; ++i) a.sum[row + i] = a.norm.x[row + i] + a.added[row + i];
  }
  RmsNormArgs norm = a.norm;
  norm.x = a.sum;
  RmsNormRef(norm);
}

}  // namespace minimo
