#include "bench/stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace minimo::bench {

double Percentile(std::span<const double> sorted, double p) {
  if (sorted.empty()) return 0;
  const double rank = std::clamp(p, 0.0, 100.0) / 100.0 * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - static_cast<double>(below));
}

Summary Summarize(std::vector<double> values, std::span<const double> percentiles) {
  std::sort(values.begin(), values.end());
  Summary s;
  s.count = values.size();
  for (const double p : percentiles) s.percentiles.emplace_back(p, Percentile(values, p));
  if (values.empty()) return s;
  const double n = static_cast<double>(values.size());
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - s.mean) * (v - s.mean);
  s.std = std::sqrt(squares / n);
  s.median = Percentile(values, 50);
  s.min = values.front();
  s.max = values.back();
  return s;
}

}  // namespace minimo::bench
