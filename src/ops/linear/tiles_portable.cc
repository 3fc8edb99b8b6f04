// Integer products over tiles in plain C++, which compilers vectorise where they can.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/float_types.h"
#include "ops/linear/row_kernels.h"

namespace minimo {
namespace {

// sums[r] += codes of one quad of 16 rows times 4 activations.
void AddQuad(const uint8_t* codes, const int8_t* x, int32_t* sums) {
  for (int r = 0; r < kTileRows; ++r) {
    for (int i = 0; i < 4; ++i) sums[r] += int32_t{codes[r * 4 + i]} * x[i];
  }
}

void AddGroup(const TileLayout& layout, const uint8_t* codes, const int8_t* x, int32_t* sums) {
  constexpr int64_t kLine = kTileRows * 4;
  if (!layout.int4) {
    for (int64_t q = 0; q < layout.group / 4; ++q) AddQuad(codes + q * kLine, x + 4 * q, sums);
    return;
  }
  for (int64_t q = 0; q < layout.group / 4; q += 2, codes += kLine) {
    uint8_t low[kLine], high[kLine];
    for (int i = 0; i < kLine; ++i) {
      low[i] = codes[i] & 0xf;
      high[i] = codes[i] >> 4;
    }
    AddQuad(low, x + 4 * q, sums);
    AddQuad(high, x + 4 * q + 4, sums);
  }
}

}  // namespace

void TileRowsPortable(const LinearTask& task, const StagedRows& staged, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  for (int64_t row = begin; row < end; row += kTileRows) {
    const std::byte* tile = task.weight.tiles + row / kTileRows * layout.tile_bytes();
    for (int64_t t = 0; t < task.tokens; ++t) {
      const std::byte* x = staged.data + (task.x_rows ? task.x_rows[t] : t) * staged.row_bytes;
      const auto* meta = reinterpret_cast<const ScaleAndStart*>(x + layout.padded_cols());
      float total[kTileRows] = {};
      for (int64_t g = 0; g < layout.groups; ++g) {
        int32_t sums[kTileRows];
        std::fill_n(sums, kTileRows, meta[g].start);
        const auto* codes = reinterpret_cast<const uint8_t*>(tile) + layout.CodesAt(g);
        const auto* scales = reinterpret_cast<const Bf16*>(tile + layout.ScalesAt(g));
        AddGroup(layout, codes, reinterpret_cast<const int8_t*>(x) + g * layout.group, sums);
        for (int64_t r = 0; r < kTileRows; ++r) {
          const float scale = ToFloat(scales[r]) * meta[g].scale;
          total[r] = std::fma(static_cast<float>(sums[r]), scale, total[r]);
        }
      }
      std::copy_n(total, std::min(kTileRows, end - row), task.Out(t) + row);
    }
  }
}

}  // namespace minimo
