// Weights laid out for integer products: with dynamically quantised activations (`--activations int8`), and those of 4
// bits for exact ones (`--load-format resident`, exact_tiles_avx512.cc).
//
// A tile is 16 rows (output features) over all columns, in groups of columns that share a scale. Codes are unsigned
// with an offset:
//   int8  a group of 128: [32 quads][16 rows][4 columns], offset 128
//   int4  a group of 32, 64 or 128: [pairs of quads][16 rows][4 columns], offset 8; the low nibble belongs to the first
//         quad of the pair
// Two groups share a line of scales, bf16 [2][16], which lies before their codes, so that a tile is one stream:
//   | scales 0, 1 |- codes 0 -|- codes 1 -| scales 2, 3 |- codes 2 -| ...
// One load is 4 columns of 16 rows: what VPDPBUSD, or a row of an AMX tile, multiplies by 4 broadcast activations.
// Rows and columns beyond the matrix hold zeros (the offset).
//
// Activations of int8: per token and group of columns, q = round(x * 127 / max |x|), scale = max |x| / 127. A sum of
// products is an exact integer within a group; groups are added in float32 in order:
//   total = fma(sum, w_scale * x_scale, total)
// So results have the same bits on every ISA, for any batch and any thread.
#pragma once

#include <cstdint>

#include "tensor/buffer.h"
#include "tensor/weight_view.h"

namespace minimo {

class ThreadTeam;

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kInt8Group = 128;
inline constexpr int64_t kScaleLine = 2 * kTileRows * 2;  // bytes: of two groups

struct TileLayout {
  int64_t cols = 0;    // of the matrix
  int64_t group = 0;   // columns
  int64_t groups = 0;  // of a row, the last one perhaps padded
  bool int4 = false;

  explicit TileLayout(const WeightView& w)
      : cols(w.cols),
        group(w.format == WeightFormat::kInt4Group ? w.group_size : kInt8Group),
        groups((w.cols + group - 1) / group),
        int4(w.format == WeightFormat::kInt4Group) {}

  int32_t offset() const { return int4 ? 8 : 128; }
  int64_t padded_cols() const { return groups * group; }
  int64_t group_bytes() const { return group * kTileRows / (int4 ? 2 : 1); }
  int64_t pair_bytes() const { return kScaleLine + 2 * group_bytes(); }
  int64_t tile_bytes() const { return (groups + 1) / 2 * kScaleLine + groups * group_bytes(); }
  // Of group g in its tile.
  int64_t ScalesAt(int64_t g) const { return g / 2 * pair_bytes() + g % 2 * (kScaleLine / 2); }
  int64_t CodesAt(int64_t g) const { return g / 2 * pair_bytes() + kScaleLine + g % 2 * group_bytes(); }
  static int64_t Tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
};

// Formats that tiles are made of; float32 matrices (routers) stay as they are.
inline bool HasTileLayout(const WeightView& w) {
  return w.format != WeightFormat::kF32 && (w.format != WeightFormat::kInt4Group || w.cols % w.group_size == 0);
}

// Tiles that this machine multiplies by activations of 31 bits, faster than rows in float32.
bool HasExactTiles(const WeightView& w);

int64_t TilesBytes(const WeightView& w);

// 4-bit weights keep their codes and scales; all others are requantised to 8 bits, a scale to 128 columns of a row.
void PackTiles(const WeightView& w, ThreadTeam& team, std::byte* tiles);

// Element (r, c) as the tiles have it.
float DequantizeTile(const WeightView& w, int64_t r, int64_t c);

}  // namespace minimo
