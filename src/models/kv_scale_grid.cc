#include "models/kv_scale_grid.h"

#include "tensor/scale_blocks.h"
#include "tensor/weight_view.h"

namespace minimo {
namespace {

// Rows [first, first + count) of every head's fused [K; V] grid as rows of the stacked scales.
std::vector<int32_t> FusedRows(const AttentionSpec& a, int first, int count) {
  const int64_t k_blocks = ScaleBlocks(a.head_dim);
  const int64_t v_blocks = ScaleBlocks(a.head_dim + a.v_head_dim) - k_blocks;
  std::vector<int32_t> rows;
  for (int64_t head = 0; head < a.kv_heads; ++head) {
    for (int row = first; row < first + count; ++row) {
      const int64_t block = row / kScaleBlock;
      const int64_t stacked = block < k_blocks ? head * k_blocks + block
                                               : a.kv_heads * k_blocks + head * v_blocks + (block - k_blocks);
      rows.push_back(static_cast<int32_t>(stacked));
    }
  }
  return rows;
}

}  // namespace

bool HasFusedKvScales(const AttentionSpec& a, int64_t k_scale_rows) {
  return k_scale_rows == a.kv_heads * ScaleBlocks(a.head_dim) && k_scale_rows != ScaleBlocks(a.k_size());
}

int64_t FusedValueScaleRows(const AttentionSpec& a) {
  return a.kv_heads * (ScaleBlocks(a.head_dim + a.v_head_dim) - ScaleBlocks(a.head_dim));
}

std::vector<int32_t> FusedKeyRows(const AttentionSpec& a) { return FusedRows(a, 0, a.head_dim); }
std::vector<int32_t> FusedValueRows(const AttentionSpec& a) { return FusedRows(a, a.head_dim, a.v_head_dim); }

}  // namespace minimo
