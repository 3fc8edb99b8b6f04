#include "sampling/draw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace minimo {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

size_t CollectInto(std::span<const float> logits, float threshold, DrawScratch* scratch) {
  scratch->values.resize(logits.size() + 64);
  scratch->indices.resize(logits.size() + 64);
  // Masked tokens never survive, whatever the threshold.
  const float floor = std::max(threshold, std::numeric_limits<float>::lowest());
  return Collect(logits.data(), logits.size(), floor, scratch->values.data(), scratch->indices.data());
}

// A value with at least k logits at or above it: the k-th greatest block maximum.
float LowerBoundOfKth(size_t k, DrawScratch* scratch) {
  const size_t blocks = scratch->block_max.size();
  if (k > blocks) return kLowest;
  scratch->selection = scratch->block_max;
  const auto kth = scratch->selection.begin() + static_cast<ptrdiff_t>(k - 1);
  std::nth_element(scratch->selection.begin(), kth, scratch->selection.end(), std::greater<>());
  return *kth;
}

// The k-th greatest of values[0, count), k <= count.
float KthGreatest(size_t k, size_t count, DrawScratch* scratch) {
  scratch->selection.assign(scratch->values.begin(), scratch->values.begin() + static_cast<ptrdiff_t>(count));
  const auto kth = scratch->selection.begin() + static_cast<ptrdiff_t>(k - 1);
  std::nth_element(scratch->selection.begin(), kth, scratch->selection.end(), std::greater<>());
  return *kth;
}

// Keeps the survivors at or above `threshold`, in order.
size_t Tighten(size_t count, float threshold, DrawScratch* scratch) {
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!(scratch->values[i] >= threshold)) continue;
    scratch->values[kept] = scratch->values[i];
    scratch->indices[kept++] = scratch->indices[i];
  }
  return kept;
}

void WeighSurvivors(size_t count, float max, float scale, DrawScratch* scratch) {
  scratch->weights.resize(count);
  ExpRow(scratch->values.data(), count, max, scale, scratch->weights.data());
}

// Collects a superset of the nucleus of the whole row: the tokens above the highest of a few levels whose mass
// suffices. `target`: mass wanted.
size_t CollectForMass(std::span<const float> logits, float max, float scale, double target, DrawScratch* scratch) {
  // Distances below the maximum, in units of the scaled logit; e^-24 of a 200k vocabulary is nothing.
  constexpr float kLevels[kMassThresholds] = {1, 2, 3.5f, 5, 7, 10, 14, 24};
  float thresholds[kMassThresholds];
  double mass[kMassThresholds];
  for (size_t j = 0; j < kMassThresholds; ++j) thresholds[j] = max - kLevels[j] / scale;
  MassAbove(logits.data(), logits.size(), max, scale, thresholds, mass);
  for (size_t j = 0; j < kMassThresholds; ++j) {
    if (mass[j] > target) return CollectInto(logits, thresholds[j], scratch);
  }
  return CollectInto(logits, kLowest, scratch);
}

// Keeps the nucleus: the shortest prefix, by descending value and ascending token, whose weight reaches `target`.
// A quickselect by weight: linear on average.
size_t KeepNucleus(size_t count, double target, DrawScratch* scratch) {
  const auto& values = scratch->values;
  const auto& indices = scratch->indices;
  auto& order = scratch->order;
  order.resize(count);
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : indices[a] < indices[b];
  };
  const auto at = [&](size_t i) { return order.begin() + static_cast<ptrdiff_t>(i); };
  size_t low = 0, high = count;  // the prefix ends in (low, high]
  double mass_below = 0;         // of order[0, low)
  while (high - low > 32) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), before);
    double mass = 0;
    for (size_t i = low; i < middle; ++i) mass += scratch->weights[order[i]];
    if (mass_below + mass >= target) {
      high = middle;
    } else {
      mass_below += mass;
      low = middle;
    }
  }
  std::sort(at(low), at(high), before);
  while (low < high) {
    mass_below += scratch->weights[order[low++]];
    if (mass_below >= target) break;
  }
  if (low == 0 || low == count) return count;
  const int32_t last = order[low - 1];
  const float last_value = values[last];
  const int32_t last_index = indices[last];
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    const float value = scratch->values[i];
    if (value < last_value || (value == last_value && scratch->indices[i] > last_index)) continue;
    scratch->values[kept] = value;
    scratch->weights[kept] = scratch->weights[i];
    scratch->indices[kept++] = scratch->indices[i];
  }
  return kept;
}

size_t WalkWeights(const float* weights, size_t count, double target) {
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < count; ++i) {
    if (weights[i] <= 0) continue;
    sum += weights[i];
    last = i;
    if (sum > target) break;
  }
  return last;  // rounding may leave the target just above the sum: the last possible one
}

}  // namespace

RowScan Scan(std::span<const float> logits, DrawScratch* scratch) {
  scratch->block_max.resize((logits.size() + kMaxBlock - 1) / kMaxBlock);
  return ScanRow(logits.data(), logits.size(), scratch->block_max.data());
}

size_t Survivors(std::span<const float> logits, const RowScan& scan, const DrawParams& params, DrawScratch* scratch) {
  const size_t n = logits.size();
  const float scale = static_cast<float>(1.0 / params.temperature);
  float threshold = kLowest;
  if (params.min_p > 0) threshold = scan.max + static_cast<float>(std::log(params.min_p) * params.temperature);
  const bool has_top_p = params.top_p < 1;
  size_t count = 0;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < n) {
    const size_t k = static_cast<size_t>(params.top_k);
    count = CollectInto(logits, std::max(threshold, LowerBoundOfKth(k, scratch)), scratch);
    if (count > k) count = Tighten(count, KthGreatest(k, count, scratch), scratch);
  } else if (threshold == kLowest && has_top_p) {
    const double target = params.top_p * (SumExp(logits.data(), n, scan.max, scale, nullptr) + params.outside);
    count = CollectForMass(logits, scan.max, scale, target, scratch);
    WeighSurvivors(count, scan.max, scale, scratch);
    return KeepNucleus(count, target, scratch);
  } else {
    count = CollectInto(logits, threshold, scratch);
  }
  WeighSurvivors(count, scan.max, scale, scratch);
  if (!has_top_p) return count;
  double total = 0;
  for (size_t i = 0; i < count; ++i) total += scratch->weights[i];
  return KeepNucleus(count, params.top_p * total, scratch);
}

int32_t Draw(std::span<const float> logits, const RowScan& scan, const DrawParams& params, double uniform,
             DrawScratch* scratch) {
  const size_t n = logits.size();
  const bool has_top_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < n;
  if (has_top_k || params.top_p < 1 || params.min_p > 0) {
    const size_t count = Survivors(logits, scan, params, scratch);
    double total = 0;
    for (size_t i = 0; i < count; ++i) total += scratch->weights[i];
    return scratch->indices[WalkWeights(scratch->weights.data(), count, uniform * total)];
  }
  // The whole distribution: find the chunk, then the token in it.
  const float scale = static_cast<float>(1.0 / params.temperature);
  auto& sums = scratch->chunk_sums;
  sums.resize((n + kSumChunk - 1) / kSumChunk);
  double target = uniform * SumExp(logits.data(), n, scan.max, scale, sums.data());
  size_t chunk = 0, last = 0;  // last: with any mass
  for (; chunk < sums.size(); ++chunk) {
    if (sums[chunk] <= 0) continue;
    last = chunk;
    if (target < sums[chunk]) break;
    target -= sums[chunk];
  }
  const size_t begin = last * kSumChunk;
  const size_t length = std::min(kSumChunk, n - begin);
  scratch->weights.resize(length);
  ExpRow(logits.data() + begin, length, scan.max, scale, scratch->weights.data());
  return static_cast<int32_t>(begin + WalkWeights(scratch->weights.data(), length, target));
}

int32_t DrawListed(std::span<const float> logits, const RowScan& scan, const DrawParams& params, float floor,
                   double uniform, DrawScratch* scratch) {
  const size_t count = Survivors(logits, scan, params, scratch);
  double total = 0;
  float least = scan.max;
  for (size_t i = 0; i < count; ++i) {
    total += scratch->weights[i];
    least = std::min(least, scratch->values[i]);
  }
  // With top_k the caller has seen that the k-th best is above the floor.
  if (floor > kLowest && params.top_k <= 0) {
    if (least <= floor) return -1;
    if (params.min_p > 0) {
      if (scan.max + std::log(params.min_p) * params.temperature <= floor) return -1;
    } else {  // a nucleus that is not full
      const float scale = static_cast<float>(1.0 / params.temperature);
      const double all = SumExp(logits.data(), logits.size(), scan.max, scale, nullptr) + params.outside;
      if (total < params.top_p * all) return -1;
    }
  }
  return scratch->indices[WalkWeights(scratch->weights.data(), count, uniform * total)];
}

size_t TopK(std::span<const float> logits, size_t k, DrawScratch* scratch) {
  k = std::min(k, logits.size());
  if (k == 0) return 0;
  const size_t count = CollectInto(logits, LowerBoundOfKth(k, scratch), scratch);
  auto& order = scratch->order;
  order.resize(count);
  std::iota(order.begin(), order.end(), 0);
  k = std::min(k, count);
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(k), order.end(), [&](int32_t a, int32_t b) {
    const float va = scratch->values[a], vb = scratch->values[b];
    return va != vb ? va > vb : scratch->indices[a] < scratch->indices[b];
  });
  scratch->selection.resize(k);
  for (size_t i = 0; i < k; ++i) {
    scratch->selection[i] = scratch->values[order[i]];
    order[i] = scratch->indices[order[i]];
  }
  std::copy(scratch->selection.begin(), scratch->selection.end(), scratch->values.begin());
  std::copy(order.begin(), order.begin() + static_cast<ptrdiff_t>(k), scratch->indices.begin());
  return k;
}

}  // namespace minimo
