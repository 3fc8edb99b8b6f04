#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rms_norm/rms_norm_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "base/thread_team.h"
#include "ops/rms_norm/rms_norm.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void RmsNormRow(const float* x, const float* weight, float* out, int64_t size, double eps) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  // Sums of sums: with one lane a single running sum of thousands of squares loses a hundred times float32's rounding.
  constexpr int64_t kVectors = 16;
  auto squares = hn::Zero(d);
  int64_t i = 0;
  while (i + lanes <= size) {
    auto part = hn::Zero(d);
    for (const int64_t end = i + kVectors * lanes; i < end && i + lanes <= size; i += lanes) {
      const auto v = hn::LoadU(d, x + i);
      part = hn::MulAdd(v, v, part);
    }
    squares = hn::Add(squares, part);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (; i < size; ++i) sum += double{x[i]} * x[i];
  const float scale = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(size) + eps));
  const auto scales = hn::Set(d, scale);
  for (i = 0; i + lanes <= size; i += lanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scales), hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {
namespace {
HWY_EXPORT(RmsNormRow);
}  // namespace

void RmsNormCpu(const RmsNormArgs& a, ThreadTeam& team) {
  const auto row = HWY_DYNAMIC_DISPATCH(RmsNormRow);
  team.ParallelFor(a.tokens, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(a.x + t * a.x_stride, a.weight, a.out + t * a.out_stride, a.size, a.eps);
  });
}

void AddRmsNormCpu(const AddRmsNormArgs& a, ThreadTeam& team) {
  const auto row = HWY_DYNAMIC_DISPATCH(RmsNormRow);
  team.ParallelFor(a.norm.tokens, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = t * a.norm.x_stride;
      float* sum = a.sum + at;
      for (int64_t i = 0; i < a.norm.size; ++i) sum[i] = a.norm.x[at + i] + a.added[at + i];
      row(sum, a.norm.weight, a.norm.out + t * a.norm.out_stride, a.norm.size, a.norm.eps);
    }
  });
}

}  // namespace minimo
#endif
