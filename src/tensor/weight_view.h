// A weight matrix as the kernels read it: [rows, cols] = [out_features, in_features], row-major with a row stride,
// so that a tensor-parallel slice by rows or columns is a view of the mapped file.
//
// FP8 weights carry float32 scales in 128x128 blocks: w(r, c) = code(r, c) * scale(r, c). A slice keeps its place in
// the grid (first_row, first_col), so scales are found by index and never by equal division; scale_rows overrides the
// row part of the rule where a checkpoint's grid is not the plain one (MiMo's fused K/V scales).
//
// 4-bit weights (compressed-tensors "pack-quantized", symmetric): byte j of a row holds columns 2j (low nibble) and
// 2j + 1; w(r, c) = (nibble - 8) * group_scale(r, c / group_size), bf16 scales. A slice begins and ends on a group.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/float_types.h"

namespace minimo {

enum class WeightFormat : uint8_t { kF32, kF16, kBf16, kFp8Block, kInt4Group };

inline constexpr int kScaleBlock = 128;  // rows and columns of a scale block, both models

struct WeightView {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  int64_t row_bytes = 0;  // from one row to the next

  const float* scales = nullptr;  // kFp8Block: [scale rows, scale_stride]; null: all 1
  int64_t scale_stride = 0;
  int32_t first_row = 0;  // of row 0 in the scale grid
  int32_t first_col = 0;  // of column 0 in the scale grid
  const int32_t* scale_rows = nullptr;  // [rows]: the scale row of each row; null: (first_row + r) / 128

  const Bf16* group_scales = nullptr;  // kInt4Group: [rows, scale_stride]
  int32_t group_size = 0;              // columns a scale: 32, 64 or 128

  const std::byte* tiles = nullptr;  // the same matrix laid out for integer products (ops/linear/tiles.h), or null
  bool exact_tiles = false;          // to be multiplied by activations of 31 bits instead of 8

  const std::byte* Row(int64_t r) const { return data + r * row_bytes; }
  const float* ScaleRow(int64_t r) const {
    const int64_t block = scale_rows ? scale_rows[r] : (first_row + r) / kScaleBlock;
    return scales + block * scale_stride;
  }

  int64_t ElementBits() const {
    switch (format) {
      case WeightFormat::kF32: return 32;
      case WeightFormat::kF16:
      case WeightFormat::kBf16: return 16;
      case WeightFormat::kFp8Block: return 8;
      case WeightFormat::kInt4Group: return 4;
    }
    return 0;
  }
  int64_t BytesRead() const { return rows * cols * ElementBits() / 8; }

  WeightView SliceRows(int64_t begin, int64_t count) const {
    WeightView slice = *this;
    slice.rows = count;
    slice.tiles = nullptr;
    slice.data += begin * row_bytes;
    slice.first_row += static_cast<int32_t>(begin);
    if (slice.scale_rows) slice.scale_rows += begin;
    if (slice.group_scales) slice.group_scales += begin * scale_stride;
    return slice;
  }
  WeightView SliceCols(int64_t begin, int64_t count) const {
    WeightView slice = *this;
    slice.cols = count;
    slice.tiles = nullptr;
    slice.data += begin * ElementBits() / 8;
    slice.first_col += static_cast<int32_t>(begin);
    if (slice.group_scales) slice.group_scales += begin / group_size;
    return slice;
  }
};

}  // namespace minimo
