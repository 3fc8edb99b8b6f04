// y = x W^T for one or many (weight, tokens) pairs at once: projections, experts, the head.
//
// Exactness: every output depends on its row and its token alone, in one fixed order of additions, whatever the number
// of tokens, rows or threads. Batched and unbatched results are bit-equal.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/weight_view.h"

namespace minimo {

class ThreadTeam;

struct LinearTask {
  WeightView weight;              // [rows, cols]
  const float* x = nullptr;       // rows of cols floats
  int64_t x_stride = 0;           // floats from one row of x to the next
  const int32_t* x_rows = nullptr;    // [tokens]: which row of x; null: 0, 1, ...
  float* out = nullptr;           // rows of weight.rows floats
  int64_t out_stride = 0;
  const int32_t* out_rows = nullptr;  // [tokens]: which row of out; null: 0, 1, ...
  int64_t tokens = 0;

  const float* X(int64_t t) const { return x + (x_rows ? x_rows[t] : t) * x_stride; }
  float* Out(int64_t t) const { return out + (out_rows ? out_rows[t] : t) * out_stride; }
};

// The specification: scalar, float32 products of the dequantised weight, double sums.
void LinearRef(std::span<const LinearTask> tasks);

// Highway, run-time dispatch. Splits all rows of all tasks over the team; one barrier.
void LinearCpu(std::span<const LinearTask> tasks, ThreadTeam& team);

// Element (r, c) of a weight, dequantised to float32 as the reference does: code * scale.
float Dequantize(const WeightView& weight, int64_t r, int64_t c);

}  // namespace minimo
