#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/fma_rate.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "bench/fma_rate.h"

HWY_BEFORE_NAMESPACE();
namespace minimo::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `rounds` products on each lane of kChains vectors, no two in a row of one chain. Returns the operations done.
int64_t Multiply(int64_t rounds, float factor, float* sink) {
  constexpr int kChains = 12;  // of 16 registers; a product takes 4 or 5 cycles and two begin at once
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, factor);
  hn::Vec<decltype(d)> sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = hn::MulAdd(sum[i], x, x);
  }
  auto all = sum[0];
#pragma GCC unroll 12
  for (int i = 1; i < kChains; ++i) all = hn::Add(all, sum[i]);
  *sink = hn::GetLane(hn::SumOfLanes(d, all));
  return rounds * kChains * static_cast<int64_t>(hn::Lanes(d)) * 2;
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo::bench {

HWY_EXPORT(Multiply);

double MeasureFmaTflops(ThreadTeam& team) {
  constexpr int64_t kRounds = 1 << 20;
  constexpr int kPasses = 7;
  const auto multiply = HWY_DYNAMIC_DISPATCH(Multiply);
  static std::atomic<float> sink;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::atomic<int64_t> flop{0};
    const auto start = std::chrono::steady_clock::now();
    team.Run([&](int) {
      float result;
      flop += multiply(kRounds, 0.5f, &result);
      sink = result;
    });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(flop) / took.count() * 1e-12);
  }
  return best;
}

}  // namespace minimo::bench
#endif
