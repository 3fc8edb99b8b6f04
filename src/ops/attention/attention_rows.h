// Working memory of one thread in attention, kept between calls. Rows: the query heads of one group of some tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/attention/attention.h"
#include "tensor/buffer.h"

namespace minimo {

// Floats from one row of scores to the next: a piece's last step may write beyond it.
inline constexpr int kScoreStride = kAttentionTile + 16;

// Keys or values of one head at positions [first, first + count), one after the other.
struct KvPiece {
  const std::byte* at = nullptr;
  int32_t first = 0;
  int32_t count = 0;
};

struct AttentionRows {
  Buffer<float> q;         // [rows, head_dim padded to units]
  Buffer<float> staged;    // keys or values of a piece as float32, padded
  Buffer<float> scores;    // [rows, kScoreStride], then weights
  Buffer<float> tile;      // a RowSums of one tile
  Buffer<float> sums;      // a RowSums of all tiles so far
  std::vector<KvPiece> pieces;  // of one tile: keys, values, then the next tile's first keys
};

// Query tokens [first_token, first_token + tokens) of a sequence's new ones with one KV head.
// Row: token * group + head of the group.
struct AttentionBlock {
  const AttentionArgs* args;
  const AttentionSequence* sequence;
  int32_t first_token, tokens;
  int kv_head;

  int group() const { return args->heads / args->kv_heads; }
  int rows() const { return tokens * group(); }
  int64_t Token(int row) const { return sequence->first_token + first_token + row / group(); }
  int Head(int row) const { return kv_head * group() + row % group(); }
  int32_t Position(int row) const { return sequence->past + first_token + row / group(); }
  int32_t First(int row) const { return args->window > 0 ? std::max(0, Position(row) - args->window + 1) : 0; }
  int32_t End() const { return Position(rows() - 1) + 1; }
  int32_t FirstTile() const { return First(0) / kAttentionTile; }
  int32_t Tiles() const { return (End() - 1) / kAttentionTile + 1 - FirstTile(); }
};

// Rows' state of the softmax: [rows, v_dim] weighted sums of values, [rows] highest scores, [rows] sums of weights.
struct RowSums {
  RowSums(float* data, int rows, int64_t v_dim) : values(data), highest(data + rows * v_dim), weights(highest + rows) {}
  static int64_t Floats(int rows, int64_t v_dim) { return (rows * (v_dim + 2) + 15) / 16 * 16; }
  float* values;
  float* highest;
  float* weights;
};

}  // namespace minimo
