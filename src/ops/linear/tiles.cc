#include "ops/linear/tiles.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/row_kernels.h"

namespace minimo {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits

// Rounded up, so that the largest weight is within 127 steps.
Bf16 Bf16Above(float x) {
  return {static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0xffffu) >> 16)};
}

const std::array<float, 256>& Fp8Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> v;
    for (int i = 0; i < 256; ++i) v[static_cast<size_t>(i)] = ToFloat(Fp8E4M3{static_cast<uint8_t>(i)});
    return v;
  }();
  return values;
}

// Row r dequantised.
void DequantizeRow(const WeightView& w, int64_t r, float* out) {
  const std::byte* row = w.Row(r);
  if (w.format == WeightFormat::kBf16) {
    for (int64_t c = 0; c < w.cols; ++c) out[c] = ToFloat(reinterpret_cast<const Bf16*>(row)[c]);
  } else if (w.format == WeightFormat::kF16) {
    for (int64_t c = 0; c < w.cols; ++c) out[c] = ToFloat(reinterpret_cast<const Fp16*>(row)[c]);
  } else {
    const auto& values = Fp8Values();
    const auto* codes = reinterpret_cast<const uint8_t*>(row);
    for (int64_t c = 0; c < w.cols;) {
      const int64_t block = (w.first_col + c) / kScaleBlock;
      const int64_t end = std::min<int64_t>((block + 1) * kScaleBlock - w.first_col, w.cols);
      const float scale = w.scales ? w.ScaleRow(r)[block] : 1.0f;
      for (; c < end; ++c) out[c] = values[codes[c]] * scale;
    }
  }
}

struct TileWriter {
  TileLayout layout;
  std::byte* tile;

  uint16_t& Scale(int64_t group, int64_t row) const {
    return reinterpret_cast<uint16_t*>(tile + layout.ScalesAt(group))[row];
  }
  uint8_t* Quad(int64_t group, int64_t quad, int64_t row) const {  // of int8, or the byte pair's of int4
    return reinterpret_cast<uint8_t*>(tile) + layout.CodesAt(group) + (quad * kTileRows + row) * 4;
  }
};

// One row of at most 128 columns a group, to 8 bits.
void PackInt8Row(const TileWriter& to, int64_t row, const float* values) {
  for (int64_t g = 0; g < to.layout.groups; ++g) {
    const float* x = values + g * kInt8Group;
    float most = 0;
    for (int64_t i = 0; i < kInt8Group; ++i) most = std::max(most, std::fabs(x[i]));
    const Bf16 scale = Bf16Above(most / 127.0f);
    const float step = ToFloat(scale);
    to.Scale(g, row) = scale.bits;
    const float inverse = step > 0 ? 1.0f / step : 0.0f;
    uint8_t codes[kInt8Group];
    for (int64_t i = 0; i < kInt8Group; ++i) {  // in the low byte: the rounded value; its offset flips the top bit
      codes[i] = static_cast<uint8_t>(std::bit_cast<uint32_t>(x[i] * inverse + kRound) ^ 0x80u);
    }
    for (int64_t q = 0; q < kInt8Group / 4; ++q) std::memcpy(to.Quad(g, q, row), codes + 4 * q, 4);
  }
}

void PackInt4Row(const TileWriter& to, int64_t row, const WeightView& w, int64_t r) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.Row(r));
  const int64_t pairs = to.layout.group / 8;
  for (int64_t g = 0; g < to.layout.groups; ++g) {
    to.Scale(g, row) = w.group_scales[r * w.scale_stride + g].bits;
    for (int64_t p = 0; p < pairs; ++p) {  // 4 bytes: 8 columns, two to a byte
      const uint8_t* from = bytes + (g * pairs + p) * 4;
      uint8_t* quad = to.Quad(g, p, row);
      for (int i = 0; i < 4; ++i) {
        const auto column = [&](int c) { return static_cast<uint8_t>(c % 2 ? from[c / 2] >> 4 : from[c / 2] & 0xf); };
        quad[i] = static_cast<uint8_t>(column(i) | column(4 + i) << 4);
      }
    }
  }
}

void FillWithZeros(const TileLayout& layout, std::byte* tile) {
  for (int64_t g = 0; g < layout.groups; ++g) {
    if (g % 2 == 0) std::memset(tile + layout.ScalesAt(g), 0, kScaleLine);
    std::memset(tile + layout.CodesAt(g), layout.int4 ? 0x88 : 0x80, static_cast<size_t>(layout.group_bytes()));
  }
}

}  // namespace

bool HasExactTiles([[maybe_unused]] const WeightView& w) {
#if defined(__x86_64__)
  return ActiveCpuIsa() >= CpuIsa::kAvx512 && w.format == WeightFormat::kInt4Group && HasTileLayout(w);
#else
  return false;
#endif
}

int64_t TilesBytes(const WeightView& w) { return TileLayout::Tiles(w.rows) * TileLayout(w).tile_bytes(); }

void PackTiles(const WeightView& w, ThreadTeam& team, std::byte* tiles) {
  const TileLayout layout(w);
#if defined(__x86_64__)
  const bool vectors = ActiveCpuIsa() >= CpuIsa::kAvx512 && CanPackTilesAvx512(w);
#endif
  team.ParallelForRows(w.rows, [&](int64_t first, int64_t last) {
    std::vector<float> values(static_cast<size_t>(layout.padded_cols()), 0.0f);
    for (int64_t t = first / kTileRows; t < TileLayout::Tiles(last); ++t) {
      std::byte* tile = tiles + t * layout.tile_bytes();
      const TileWriter to{layout, tile};
      const int64_t rows = std::min(kTileRows, w.rows - t * kTileRows);
      if (rows < kTileRows || layout.groups % 2 != 0) FillWithZeros(layout, tile);
#if defined(__x86_64__)
      if (vectors) {
        PackTileAvx512(w, t * kTileRows, rows, tile);
        continue;
      }
#endif
      for (int64_t r = 0; r < rows; ++r) {
        if (layout.int4) {
          PackInt4Row(to, r, w, t * kTileRows + r);
        } else {
          DequantizeRow(w, t * kTileRows + r, values.data());
          PackInt8Row(to, r, values.data());
        }
      }
    }
  });
}

float DequantizeTile(const WeightView& w, int64_t r, int64_t c) {
  const TileLayout layout(w);
  const std::byte* tile = w.tiles + r / kTileRows * layout.tile_bytes();
  const int64_t row = r % kTileRows, g = c / layout.group, quad = c % layout.group / 4, i = c % 4;
  const float scale = ToFloat(reinterpret_cast<const Bf16*>(tile + layout.ScalesAt(g))[row]);
  const auto* codes = reinterpret_cast<const uint8_t*>(tile) + layout.CodesAt(g);
  if (!layout.int4) return scale * static_cast<float>(codes[(quad * kTileRows + row) * 4 + i] - 128);
  const int byte = codes[(quad / 2 * kTileRows + row) * 4 + i];
  return scale * static_cast<float>((quad % 2 ? byte >> 4 : byte & 0xf) - 8);
}

}  // namespace minimo
