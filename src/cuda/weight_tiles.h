// How a weight matrix [rows, cols] lies in device memory: tiles of 16 rows, each a run of units of 128 columns, each
// unit a run of 512-byte chunks, 16 bytes a lane of the warp that reads it. One layout serves every batch size: a
// lane's 16 bytes are its share of the A operand of mma m16n8k16 (and of wgmma m64k16 with A in registers).
//
//   lane = 4 * g + t holds rows g and g + 8 of the tile; step j (0..7) of a unit, element i (0..3) is
//   column 128 * unit + 32 * t + 4 * j + i. So activations are read in their natural order, 16 bytes at a time, and a
//   lane's columns of a unit fall into one group of 32 (one 4-bit scale a row).
//
// FP8: the same shares, in an order in which a chunk is an operand of wgmma in shared memory too (8 rows of 64 bytes,
// K-major, 64-byte swizzle; groups of 8 rows 1024 bytes apart, tiles 2048). Chunk 2 h + c has rows 8 h + g: at 64 g the
// row's four pieces of 16 columns, 32 t + 16 c .., piece t at place t ^ (g / 2 % 4). So the lane's 16 bytes there are
// steps 4 c .. 4 c + 3 of one row, four columns a word (fp8_unit.cuh).
//
// Rows are padded to 16 and columns to 128 with zeros. In gate/up tiles rows 0..7 are rows 8r..8r+7 of the gate and
// rows 8..15 the same rows of the up projection, so SwiGLU needs no exchange between lanes.
#pragma once

#include <cstdint>

namespace minimo::cuda {

enum class TileFormat : int { kF32, kBf16, kFp8, kInt4 };

inline constexpr int kTileRows = 16;
inline constexpr int kUnitCols = 128;

constexpr int UnitBytes(TileFormat f) {  // weights of one tile and unit, without scales
  switch (f) {
    case TileFormat::kF32: return 8192;
    case TileFormat::kBf16: return 4096;
    case TileFormat::kFp8: return 2048;
    default: return 1024;
  }
}

// Scales of one tile and unit. FP8: two floats, of rows 0..7 and of rows 8..15 (a block of the checkpoint is 128 x
// 128, so a half tile never straddles two). 4 bits: a bf16 pair (rows g, g + 8) for each group of columns and g:
// [groups a unit][8][2].
constexpr int UnitScaleBytes(TileFormat f, int group_cols) {
  if (f == TileFormat::kFp8) return 8;
  if (f == TileFormat::kInt4) return 32 * (kUnitCols / group_cols);
  return 0;
}

struct TileShape {
  TileFormat format = TileFormat::kBf16;
  int tiles = 0;        // of 16 rows
  int units = 0;        // of 128 columns
  int group_cols = 32;  // 4 bits: 32, 64 or 128

  int64_t WeightBytes() const { return int64_t{tiles} * units * UnitBytes(format); }
  int64_t ScaleBytes() const { return int64_t{tiles} * units * UnitScaleBytes(format, group_cols); }
};

constexpr int PadTo(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace minimo::cuda
