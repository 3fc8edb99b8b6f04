// Order statistics as NumPy defines them, which is what vLLM's benchmark prints.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace minimo::bench {

struct Summary {
  size_t count = 0;
  double mean = 0;
  double median = 0;
  double std = 0;  // population
  double min = 0;
  double max = 0;
  std::vector<std::pair<double, double>> percentiles;  // {p in [0, 100], value}
};

// numpy.percentile's default: linear between the two nearest ranks. `sorted` ascending; 0 if it is empty.
double Percentile(std::span<const double> sorted, double p);

// All zero for no values, as vLLM reports them.
Summary Summarize(std::vector<double> values, std::span<const double> percentiles = {});

}  // namespace minimo::bench
