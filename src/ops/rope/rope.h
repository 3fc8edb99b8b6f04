// Rotary position embedding, NeoX style (rotate_half), on the first rotary_dim of each head:
//   y[i] = x[i] cos - x[i + h] sin,  y[i + h] = x[i + h] cos + x[i] sin,  h = rotary_dim / 2, i < h,
// angle = position * theta^(-2i / rotary_dim). Frequencies and angles are float32 as in the reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace minimo {

class ThreadTeam;

// cos and sin of one RoPE base for the positions of a step: [tokens, rotary_dim / 2] each.
struct RopeTable {
  int rotary_dim = 0;
  std::vector<float> cos, sin;
  std::vector<float> frequencies;  // [rotary_dim / 2] of theta, kept between steps
  double theta = 0;

  void Build(double base, int rotary_dim, std::span<const int32_t> positions);
};

struct RopeArgs {
  float* x = nullptr;  // [tokens, heads, head_dim], in place
  int64_t tokens = 0;
  int64_t x_stride = 0;  // floats from one token to the next
  int heads = 0;
  int head_dim = 0;
  const RopeTable* table = nullptr;
  int64_t first_token = 0;  // row of the table for the first token
};

void RopeRef(const RopeArgs& args);
void RopeCpu(const RopeArgs& args, ThreadTeam& team);

}  // namespace minimo
