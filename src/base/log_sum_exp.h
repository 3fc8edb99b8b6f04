// The logarithm of the sum of exponentials: log p(v) = x[v] - LogSumExp(x).
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace minimo {

inline double LogSumExp(std::span<const float> x) {
  const double largest = *std::max_element(x.begin(), x.end());
  double total = 0;
  for (const float v : x) total += std::exp(v - largest);
  return largest + std::log(total);
}

}  // namespace minimo
