#include "ops/linear/staging.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/linear/cpu_isa.h"
#include "ops/linear/row_kernels.h"

namespace minimo {
namespace {

void Permute(const int32_t* order, const float* x, int64_t cols, float* to) {
  for (int64_t c = 0; c < cols; c += kExactBlock, to += kExactBlock) {
    const int64_t left = std::min(kExactBlock, cols - c);
    for (int64_t i = 0; i < kExactBlock; ++i) to[i] = order[i] < left ? x[c + order[i]] : 0.0f;
  }
}

// One group: `count` of `group` columns are there. A group of zeros (or of nothing but noise) has scale 0.
ScaleAndStart QuantizeGroup(const StageFormat& f, const float* x, int64_t count, int8_t* codes) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
  if (!(most > kLeastQuantized)) {
    std::memset(codes, 0, static_cast<size_t>(f.group));
    return {0.0f, 0};
  }
  const float inverse = 127.0f / most;
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto q = static_cast<int32_t>(std::nearbyint(std::clamp(x[i] * inverse, -127.0f, 127.0f)));
    codes[i] = static_cast<int8_t>(q);
    sum += q;
  }
  std::memset(codes + count, 0, static_cast<size_t>(f.group - count));
  return {most / 127.0f, -f.offset * sum};
}

}  // namespace

void StageRow(const StageFormat& f, const float* x, int64_t cols, std::byte* to) {
#if defined(__x86_64__)
  if (ActiveCpuIsa() >= CpuIsa::kAvx512) return StageRowAvx512(f, x, cols, to);
#endif
  if (f.kind == StageFormat::Kind::kPermuted) return Permute(f.order, x, cols, reinterpret_cast<float*>(to));
  const int64_t groups = (cols + f.group - 1) / f.group;
  auto* codes = reinterpret_cast<int8_t*>(to);
  auto* meta = reinterpret_cast<ScaleAndStart*>(to + groups * f.group);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = g * f.group;
    meta[g] = QuantizeGroup(f, x + at, std::min<int64_t>(f.group, cols - at), codes + at);
  }
}

}  // namespace minimo
