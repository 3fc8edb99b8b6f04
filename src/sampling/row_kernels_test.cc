#include "sampling/row_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace minimo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> Row(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> x(n);
  for (float& v : x) v = rng() % 10 ? normal(rng) : -kInfinity;
  return x;
}

TEST(RowKernels, EqualPlainLoopsAtEveryLength) {
  for (size_t n = 1; n < 1500; n = n < 140 ? n + 1 : n + 61) {
    std::vector<float> x = Row(n, static_cast<uint32_t>(n));
    x[n / 2] = 13;  // a maximum that is finite and comes twice
    x[n - 1] = 13;
    std::vector<float> block_max((n + kMaxBlock - 1) / kMaxBlock);
    const RowScan scan = ScanRow(x.data(), n, block_max.data());
    EXPECT_FALSE(scan.bad);
    EXPECT_EQ(scan.max, *std::max_element(x.begin(), x.end()));
    EXPECT_EQ(scan.argmax, std::max_element(x.begin(), x.end()) - x.begin());
    for (size_t b = 0; b < block_max.size(); ++b) {
      EXPECT_EQ(block_max[b],
                *std::max_element(x.begin() + b * kMaxBlock, x.begin() + std::min(n, (b + 1) * kMaxBlock)));
    }

    const float thresholds[kMassThresholds] = {13, 12, 9, 4, 1, 0, -5, -30};
    double expected_sum = 0, expected_mass[kMassThresholds] = {};
    size_t above = 0;
    for (const float v : x) {
      const double e = std::exp((v - 13.0) * 0.7);
      expected_sum += e;
      above += v > 1;
      for (size_t j = 0; j < kMassThresholds; ++j) expected_mass[j] += v >= thresholds[j] ? e : 0;
    }
    std::vector<double> chunks((n + kSumChunk - 1) / kSumChunk);
    EXPECT_NEAR(SumExp(x.data(), n, 13, 0.7f, chunks.data()), expected_sum, 1e-5 * expected_sum);
    EXPECT_NEAR(std::accumulate(chunks.begin(), chunks.end(), 0.0), expected_sum, 1e-5 * expected_sum);
    double mass[kMassThresholds];
    MassAbove(x.data(), n, 13, 0.7f, thresholds, mass);
    for (size_t j = 0; j < kMassThresholds; ++j) EXPECT_NEAR(mass[j], expected_mass[j], 1e-5 * expected_mass[j]);
    EXPECT_EQ(CountGreater(x.data(), n, 1), above);

    std::vector<float> values(n + 64), e(n);
    std::vector<int32_t> indices(n + 64);
    const size_t count = Collect(x.data(), n, 1, values.data(), indices.data());
    size_t at = 0;
    for (size_t i = 0; i < n; ++i) {
      if (!(x[i] >= 1)) continue;
      ASSERT_LT(at, count);
      EXPECT_EQ(values[at], x[i]);
      EXPECT_EQ(indices[at++], static_cast<int32_t>(i));
    }
    EXPECT_EQ(at, count);
    ExpRow(x.data(), n, 13, 0.7f, e.data());
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(e[i], std::exp((x[i] - 13.0) * 0.7), 1e-6 * (1 + e[i]));

    std::mt19937 rng(5);
    std::vector<uint32_t> bits((n + 31) / 32);
    for (uint32_t& word : bits) word = rng() % 4 ? rng() : rng() % 2 ? 0 : ~0u;
    std::vector<float> masked = x;
    MaskRow(masked.data(), n, bits.data());
    for (size_t i = 0; i < n; ++i)
      EXPECT_EQ(masked[i], (bits[i / 32] >> (i % 32)) & 1 ? x[i] : -kInfinity) << n << " " << i;
  }
}

TEST(RowKernels, FaultsAreSeenWhereverTheyAre) {
  for (const size_t n : {1u, 5u, 64u, 100u, 1000u}) {
    for (size_t i = 0; i < n; ++i) {
      for (const float fault :
           {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
        std::vector<float> x(n, 1.0f), block_max(n);
        x[i] = fault;
        EXPECT_TRUE(ScanRow(x.data(), n, block_max.data()).bad) << n << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace minimo
