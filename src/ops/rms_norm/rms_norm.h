// out = x / sqrt(mean(x^2) + eps) * weight, row by row. Statistics in float32 or better (MODELS.md 4.4, 4.6: the
// weight multiplies the normalised value in float32, then the result is rounded once).
#pragma once

#include <cstdint>

namespace minimo {

class ThreadTeam;

struct RmsNormArgs {
  const float* x = nullptr;       // [tokens, size], row stride x_stride
  const float* weight = nullptr;  // [size]
  float* out = nullptr;           // [tokens, size], row stride out_stride; may be x
  int64_t tokens = 0;
  int64_t size = 0;
  int64_t x_stride = 0;
  int64_t out_stride = 0;
  double eps = 0;
};

void RmsNormRef(const RmsNormArgs& args);
void RmsNormCpu(const RmsNormArgs& args, ThreadTeam& team);

// sum = x + added, then the norm of sum: a residual and the norm after it in one pass.
struct AddRmsNormArgs {
  RmsNormArgs norm;
  const float* added = nullptr;  // [tokens, size], row stride x_stride
  float* sum = nullptr;          // [tokens, size], row stride x_stride; may be x
};

void AddRmsNormRef(const AddRmsNormArgs& args);
void AddRmsNormCpu(const AddRmsNormArgs& args, ThreadTeam& team);

}  // namespace minimo
