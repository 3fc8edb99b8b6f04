#include <cmath>

#include "ops/silu_mul/silu_mul.h"

namespace minimo {

void SiluMulRef(const SiluMulArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    const double gate = a.gate[i];
    a.out[i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * a.up[i]);
  }
}

}  // namespace minimo
