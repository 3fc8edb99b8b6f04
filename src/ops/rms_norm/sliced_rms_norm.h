// RMSNorm of a vector of which each rank holds a slice: the ranks' sums of squares are added up by the caller between
// the two calls, so that the statistics are those of the whole vector.
#pragma once

#include <cstdint>

namespace minimo {

// sums[t * sums_stride] = the sum of squares of x's row t; x [tokens, size], row stride x_stride.
void SumSquares(const float* x, int64_t tokens, int64_t size, int64_t x_stride, float* sums, int64_t sums_stride);

struct SlicedRmsNormArgs {
  float* x = nullptr;             // [tokens, size], row stride x_stride, in place
  const float* weight = nullptr;  // [size]: this slice's
  const float* sums = nullptr;    // [tokens], stride sums_stride: of the whole vectors
  int64_t tokens = 0;
  int64_t size = 0;
  int64_t x_stride = 0;
  int64_t sums_stride = 0;
  int64_t whole_size = 0;
  double eps = 0;
};
void SlicedRmsNorm(const SlicedRmsNormArgs& args);

}  // namespace minimo
