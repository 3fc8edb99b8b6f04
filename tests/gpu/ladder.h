// What the parts of gpu_ladder share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/float_types.h"
#include "tests/gpu/device_array.h"

namespace minimo::cuda {

extern int g_failures;  // checks

inline float FromBf16Bits(uint16_t b) { return ToFloat(Bf16{b}); }

struct Error {
  double difference = 0, norm = 0;
  bool nan = false;
  void Add(double got, double want) {
    if (std::isnan(got)) nan = true;
    difference += (got - want) * (got - want), norm += want * want;
  }
  double Value() const { return nan ? INFINITY : std::sqrt(difference / norm); }
};

// attention_ladder.cc
void CheckAttention();
void TimeAttention(const std::vector<int>& token_counts);
// router_ladder.cc
void CheckRouter();
void TimeRouter(const std::vector<int>& token_counts);

}  // namespace minimo::cuda
