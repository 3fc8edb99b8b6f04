#include "cuda/row_digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace minimo::cuda {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// As the kernel makes it of a part of a row: every logit at or above the wanted-th best.
RowDigest DigestOf(const std::vector<float>& logits, int wanted, float scale) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  RowDigest d = {};
  d.max = logits[order[0]];
  d.argmax = order[0];
  d.bad = d.max == kLowest;
  d.scale = scale;
  if (d.bad != 0) return d;
  for (const float x : logits) d.sum += std::exp(double{x} - d.max), d.mass += std::exp((double{x} - d.max) * scale);
  if (scale == 0) return d;
  d.floor = logits[order[std::min<size_t>(wanted, order.size()) - 1]];
  for (const int32_t token : order) {
    if (logits[token] < d.floor) break;
    d.values[d.count] = logits[token];
    d.tokens[d.count++] = token;
  }
  return d;
}

std::vector<float> Random(int count, unsigned seed, float step) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& x : logits) x = std::round(normal(random) * 3 / step) * step;  // ties
  return logits;
}

RowDigest Merge(const std::vector<float>& row, const std::vector<int>& cuts, int wanted, float scale) {
  std::vector<RowDigest> parts;
  std::vector<const RowDigest*> pointers;
  std::vector<int32_t> begins;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    parts.push_back(DigestOf({row.begin() + cuts[i], row.begin() + cuts[i + 1]}, wanted, scale));
    begins.push_back(cuts[i]);
  }
  for (const RowDigest& part : parts) pointers.push_back(&part);
  RowDigest whole;
  MergeDigests(pointers, begins, &whole);
  return whole;
}

TEST(MergeDigests, TellsOfTheWholeRowWhatAScanOfItTells) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::vector<float> row = Random(3001, seed, seed % 2 == 0 ? 0.25f : 1e-6f);
    const RowDigest whole = Merge(row, {0, 1001, 2001, 3001}, seed % 4 < 2 ? 60 : 100, 1 / 0.7f);
    const RowDigest expected = DigestOf(row, 3001 - 1, 0);
    EXPECT_EQ(whole.bad, 0);
    EXPECT_EQ(whole.max, expected.max);
    EXPECT_EQ(whole.argmax, expected.argmax);
    EXPECT_NEAR(whole.sum, expected.sum, 1e-9 * expected.sum);
    // Every logit at or above the floor is listed, best first, and no other.
    std::vector<int32_t> order;
    for (int32_t i = 0; i < 3001; ++i) {
      if (row[static_cast<size_t>(i)] >= whole.floor) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    ASSERT_EQ(whole.count, static_cast<int32_t>(order.size()));
    ASSERT_GE(whole.count, 1);
    for (int32_t i = 0; i < whole.count; ++i) {
      EXPECT_EQ(whole.tokens[i], order[static_cast<size_t>(i)]);
      EXPECT_EQ(whole.values[i], row[static_cast<size_t>(whole.tokens[i])]);
    }
    double mass = 0;
    for (const float x : row) mass += std::exp((double{x} - whole.max) / 0.7);
    EXPECT_NEAR(whole.mass, mass, 1e-6 * mass);
  }
}

TEST(MergeDigests, MoreThanThereIsRoomForRaisesTheFloor) {
  const std::vector<float> row = Random(2000, 5, 1e-6f);
  const RowDigest whole = Merge(row, {0, 500, 1000, 1500, 2000}, 200, 1);
  EXPECT_EQ(whole.count, kDigestCapacity);
  EXPECT_EQ(std::count_if(row.begin(), row.end(), [&](float x) { return x >= whole.floor; }), kDigestCapacity);
}

TEST(MergeDigests, TiesTakeTheLowestToken) {
  std::vector<float> row(40, 1.0f);
  row[7] = row[13] = row[33] = 2.0f;
  const RowDigest whole = Merge(row, {0, 10, 20, 30, 40}, 3, 1);
  EXPECT_EQ(whole.argmax, 7);
  row[7] = 1.0f;
  EXPECT_EQ(Merge(row, {0, 10, 20, 30, 40}, 3, 1).argmax, 13);
}

TEST(MergeDigests, APartWithNothingToChooseIsNoFaultANanIs) {
  std::vector<float> row(20, kLowest);
  row[15] = 3;
  const RowDigest whole = Merge(row, {0, 10, 20}, 4, 1);
  EXPECT_EQ(whole.bad, 0);
  EXPECT_EQ(whole.argmax, 15);
  EXPECT_EQ(whole.sum, 1);
  row[15] = kLowest;
  EXPECT_NE(Merge(row, {0, 10, 20}, 4, 1).bad, 0);
  RowDigest nan = DigestOf({1, 2, 3}, 1, 1), good = nan, merged;
  nan.bad = 1;
  const RowDigest* parts[] = {&nan, &good};
  const int32_t begins[] = {0, 3};
  MergeDigests(parts, begins, &merged);
  EXPECT_NE(merged.bad, 0);
}

TEST(MergeDigests, APartWithoutCandidatesLeavesNone) {
  RowDigest a = DigestOf({1, 2, 3}, 1, 1), b = DigestOf({5, 4}, 1, 1), merged;
  a.count = 0;
  const RowDigest* parts[] = {&a, &b};
  const int32_t begins[] = {0, 3};
  MergeDigests(parts, begins, &merged);
  EXPECT_EQ(merged.count, 0);
  EXPECT_EQ(merged.argmax, 3);
}

}  // namespace
}  // namespace minimo::cuda
