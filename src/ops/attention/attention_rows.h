// Working memory of one thread in attention, kept between calls. Rows: the query heads of one group of some tokens.
#pragma once

#include <vector>

namespace minimo {

struct AttentionRows {
  std::vector<float> q;        // [rows, head_dim padded to vectors]
  std::vector<float> decoded;  // some keys, then some values, padded
  std::vector<float> scores;   // [rows, kAttentionTile and some], then weights
  std::vector<float> sums;     // [rows, v_head_dim padded]
  std::vector<float> max;      // [rows]
  std::vector<float> total;    // [rows]
};

}  // namespace minimo
