#include <cmath>

#include "ops/rope/rope.h"

namespace minimo {

void RopeTable::Build(double base, int dim, std::span<const int32_t> positions) {
  const int half = dim / 2;
  if (theta != base || rotary_dim != dim) {
    frequencies.resize(half);
    for (int i = 0; i < half; ++i) {
      frequencies[i] = static_cast<float>(1.0 / std::pow(base, static_cast<double>(2 * i) / dim));
    }
  }
  theta = base;
  rotary_dim = dim;
  cos.resize(positions.size() * half);
  sin.resize(positions.size() * half);
  for (size_t t = 0; t < positions.size(); ++t) {
    for (int i = 0; i < half; ++i) {
      const float angle = static_cast<float>(positions[t]) * frequencies[i];
      cos[t * half + i] = std::cos(angle);
      sin[t * half + i] = std::sin(angle);
    }
  }
}

void RopeRef(const RopeArgs& a) {
  const int half = a.table->rotary_dim / 2;
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.x_stride + int64_t{h} * a.head_dim;
      for (int i = 0; i < half; ++i) {
        const float c = a.table->cos[(a.first_token + t) * half + i];
        const float s = a.table->sin[(a.first_token + t) * half + i];
        const float low = x[i], high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
      }
    }
  }
}

}  // namespace minimo
