// Random matrices for the tests of the operators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "ops/linear/tiles.h"

namespace minimo {

struct OwnedWeight {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<Bf16> group_scales;
  Buffer<std::byte> tiles;
  WeightView view;
};

// Random elements; every code of FP8 but NaN. off_grid: FP8 rows and columns that begin within a block of scales.
inline OwnedWeight MakeWeight(std::mt19937& rng, WeightFormat format, int64_t rows, int64_t cols, int group = 64,
                              bool off_grid = false) {
  OwnedWeight w;
  w.view.format = format;
  w.view.rows = rows;
  w.view.cols = cols;
  w.view.row_bytes = cols * w.view.ElementBits() / 8;
  w.bytes.resize(static_cast<size_t>(rows * w.view.row_bytes));
  w.view.data = w.bytes.data();
  std::normal_distribution<float> normal;
  if (format == WeightFormat::kF32) {
    auto* values = reinterpret_cast<float*>(w.bytes.data());
    for (int64_t i = 0; i < rows * cols; ++i) values[i] = 0.05f * normal(rng);
  }
  if (format == WeightFormat::kBf16) {
    auto* values = reinterpret_cast<Bf16*>(w.bytes.data());
    for (int64_t i = 0; i < rows * cols; ++i) values[i] = ToBf16(0.05f * normal(rng));
  }
  if (format == WeightFormat::kF16) {
    auto* values = reinterpret_cast<Fp16*>(w.bytes.data());
    for (int64_t i = 0; i < rows * cols; ++i) values[i] = {static_cast<uint16_t>(rng() & 0xbfff)};  // finite
  }
  if (format == WeightFormat::kFp8Block) {  // every code but NaN, and a scale for each block
    for (std::byte& b : w.bytes) {
      const auto code = static_cast<uint8_t>(rng());
      b = std::byte{static_cast<uint8_t>((code & 0x7f) == 0x7f ? code ^ 1 : code)};
    }
    if (off_grid) w.view.first_row = 64, w.view.first_col = 32;
    w.view.scale_stride = (cols + w.view.first_col + 127) / 128;
    const int64_t blocks = (rows + w.view.first_row + 127) / 128 * w.view.scale_stride;
    for (int64_t i = 0; i < blocks; ++i) w.scales.push_back(1e-3f * normal(rng));
    w.view.scales = w.scales.data();
  }
  if (format == WeightFormat::kInt4Group) {
    for (std::byte& b : w.bytes) b = std::byte{static_cast<uint8_t>(rng())};
    w.view.group_size = group;
    w.view.scale_stride = (cols + group - 1) / group;
    for (int64_t i = 0; i < rows * w.view.scale_stride; ++i) w.group_scales.push_back(ToBf16(0.01f * normal(rng)));
    w.view.group_scales = w.group_scales.data();
  }
  return w;
}

inline void AddTiles(OwnedWeight* w, ThreadTeam& team) {
  w->tiles = Buffer<std::byte>(static_cast<size_t>(TilesBytes(w->view)));
  PackTiles(w->view, team, w->tiles.data());
  w->view.tiles = w->tiles.data();
}

inline std::vector<float> Normal(std::mt19937& rng, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(rng);
  return values;
}

}  // namespace minimo
