#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/silu_mul/silu_mul_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>

#include "base/thread_team.h"
#include "ops/silu_mul/silu_mul.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void SiluMulRange(const float* gate, const float* up, float* out, int64_t count) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f);
  const auto value = [&](auto g, auto u) HWY_ATTR {
    return hn::Mul(hn::Div(g, hn::Add(one, hn::Exp(d, hn::Neg(g)))), u);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(value(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  }
  if (i < count) {  // the same arithmetic on a padded copy, so that a value does not depend on its place
    HWY_ALIGN float g[HWY_MAX_BYTES / 4] = {}, u[HWY_MAX_BYTES / 4] = {}, o[HWY_MAX_BYTES / 4];
    std::copy(gate + i, gate + count, g);
    std::copy(up + i, up + count, u);
    hn::Store(value(hn::Load(d, g), hn::Load(d, u)), d, o);
    std::copy(o, o + (count - i), out + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {
namespace {
HWY_EXPORT(SiluMulRange);
}  // namespace

void SiluMulCpu(const SiluMulArgs& a, ThreadTeam& team) {
  constexpr int64_t kGrain = 1024;  // floats: below a few KB a barrier costs more than the work
  const auto range = HWY_DYNAMIC_DISPATCH(SiluMulRange);
  team.ParallelFor(a.count, kGrain, [&](int64_t begin, int64_t end) {
    range(a.gate + begin, a.up + begin, a.out + begin, end - begin);
  });
}

}  // namespace minimo
#endif
