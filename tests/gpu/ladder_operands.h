// Operands of gpu_ladder's products: matrices as a checkpoint has them and as tiles, the router's lists, activations.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/repack.cuh"
#include "tests/gpu/ladder.h"

namespace minimo::cuda {

inline uint16_t ToBf16Bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// A matrix as a checkpoint has it, and its tiles on the device.
struct Matrix {
  TileFormat format;
  int rows, cols, group;
  std::vector<uint8_t> data;      // FP8 bytes, nibbles or bf16
  std::vector<float> scale;       // FP8: [rows][cols / 128]
  std::vector<uint16_t> scale16;  // 4 bits: [rows][cols / group]

  // FP8 scales change at the rows 128 n - shift.
  Matrix(TileFormat f, int r, int c, int g, std::mt19937& random, int shift = 0)
      : format(f), rows(r), cols(c), group(g) {
    const auto fill = [&](size_t bytes, uint32_t keep, uint32_t set) {  // four bytes a number
      data.resize(bytes);
      for (size_t i = 0; i < bytes; i += 4) {
        const uint32_t b = (static_cast<uint32_t>(random()) & keep) | set;
        std::memcpy(&data[i], &b, std::min<size_t>(4, bytes - i));
      }
    };
    if (f == TileFormat::kBf16) {
      fill(size_t(r) * c * 2, 0x80ff80ff, 0x3f003f00);  // +-0.5 .. 2
    } else if (f == TileFormat::kFp8) {
      fill(size_t(r) * c, 0xf7f7f7f7, 0);
      const int sc = (c + 127) / 128;
      scale.resize(size_t(r) * sc);
      for (int i = 0; i < r; ++i) {
        for (int j = 0; j < sc; ++j) {
          scale[size_t(i) * sc + j] = (0.5f + ((i + shift) / 128 * 7 + j * 3) % 11 / 11.0f) / 68.5f;
        }
      }
    } else {
      fill(size_t(r) * c / 2, 0xffffffff, 0);
      scale16.resize(size_t(r) * (c / g));
      for (auto& s : scale16) s = ToBf16Bits((0.5f + random() % 1024 / 1024.0f) / 4.6f);
    }
  }
  double At(int r, int c) const {
    if (format == TileFormat::kBf16) {
      uint16_t b;
      std::memcpy(&b, &data[2 * (size_t(r) * cols + c)], 2);
      return FromBf16Bits(b);
    }
    if (format == TileFormat::kFp8) {
      return ToFloat(Fp8E4M3{data[size_t(r) * cols + c]}) * double(scale[size_t(r) * ((cols + 127) / 128) + c / 128]);
    }
    const int q = data[(size_t(r) * cols + c) / 2] >> (c % 2 * 4) & 0xf;
    return (q - 8) * double(FromBf16Bits(scale16[size_t(r) * (cols / group) + c / group]));
  }
};

inline TileShape ShapeOf(TileFormat f, int rows, int cols, int group) {
  return {f, (rows + kTileRows - 1) / kTileRows, (cols + kUnitCols - 1) / kUnitCols, group};
}

inline void Repack(const Matrix& top, const Matrix* bottom, const TileShape& shape, uint8_t* weights, uint8_t* scales) {
  Device<uint8_t> a(top.data), b(bottom ? bottom->data : std::vector<uint8_t>(16));
  RepackParams p;
  p.source = top.format == TileFormat::kFp8    ? SourceType::kFp8
             : top.format == TileFormat::kBf16 ? SourceType::kBf16
                                               : SourceType::kInt4;
  p.shape = shape;
  p.top = a.data, p.bottom = bottom ? b.data : a.data;
  p.interleaved = bottom != nullptr;
  p.rows = top.rows, p.cols = top.cols;
  p.scale_cols = top.format != TileFormat::kInt4 ? (top.cols + 127) / 128 : top.cols / top.group;
  Device<float> sa(top.scale.empty() ? std::vector<float>(4) : top.scale);
  Device<float> sb(bottom && !bottom->scale.empty() ? bottom->scale : std::vector<float>(4));
  Device<uint16_t> ha(top.scale16.empty() ? std::vector<uint16_t>(4) : top.scale16);
  Device<uint16_t> hb(bottom && !bottom->scale16.empty() ? bottom->scale16 : std::vector<uint16_t>(4));
  const bool fp8 = top.format == TileFormat::kFp8;
  p.top_scale = fp8 ? static_cast<void*>(sa.data) : ha.data;
  p.bottom_scale = bottom ? (fp8 ? static_cast<void*>(sb.data) : hb.data) : p.top_scale;
  p.weights = weights, p.scales = scales;
  MUST(LaunchRepack(p, nullptr));
  MUST(cudaDeviceSynchronize());
}

// The router's lists for random choices.
struct Lists {
  int experts, top_k, tokens;
  std::vector<int> active, offsets, slot_of, slot_token, slot_expert, num_active;
  std::vector<float> weight;
  Lists(int t, int e, int k, std::mt19937& random) : experts(e), top_k(k), tokens(t) {
    std::vector<std::vector<int>> of(static_cast<size_t>(e));
    std::vector<int> all(static_cast<size_t>(e));
    std::iota(all.begin(), all.end(), 0);
    slot_of.resize(size_t(t) * k);
    for (int i = 0; i < t; ++i) {
      for (int j = 0; j < k; ++j) {
        std::swap(all[size_t(j)], all[size_t(j + random() % (e - j))]);
        of[size_t(all[size_t(j)])].push_back(i * k + j);
      }
    }
    for (int x = 0; x < e; ++x) {
      if (of[size_t(x)].empty()) continue;
      active.push_back(x), offsets.push_back(static_cast<int>(slot_token.size()));
      for (const int choice : of[size_t(x)]) {
        slot_of[size_t(choice)] = static_cast<int>(slot_token.size());
        slot_token.push_back(choice / k), slot_expert.push_back(x);
        weight.push_back(0.05f + random() % 1000 / 2000.0f);
      }
    }
    offsets.push_back(static_cast<int>(slot_token.size()));
    num_active = {static_cast<int>(active.size())};
  }
};

struct Quantised {
  Device<uint8_t> values;
  Device<float> scales;
  Device<uint2> offsets;
  Fp8Activations x;
  Quantised(int rows, int units, bool int4)
      : values(2 * int64_t{units} * (PadTo(rows, 8) + Fp8Activations::kSlack) * 128),
        scales(int64_t{units} * (PadTo(rows, 8) + Fp8Activations::kSlack)),
        offsets(int64_t{PadTo(units, kChunkUnits)} * (PadTo(rows, 8) + Fp8Activations::kSlack)),
        x{values.data, scales.data, int4 ? offsets.data : nullptr, PadTo(rows, 8)} {}
};

// bf16 rows in the layout of attention_store.cuh.
inline std::vector<uint16_t> Arrange(const std::vector<uint16_t>& x, int rows, int units, int padded_rows) {
  std::vector<uint16_t> to(size_t(units) * 2 * padded_rows * 64);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < units * kUnitCols; ++c) {
      const int in = c % kUnitCols, step = in % 32 / 4, piece = step % 4 * 2 + in % 4 / 2, half = step / 4;
      const size_t row = (size_t(c / kUnitCols) * 2 + half) * padded_rows + r;
      to[row * 64 + (piece ^ (r % 8)) * 8 + in / 32 * 2 + in % 2] = x[size_t(r) * units * kUnitCols + c];
    }
  }
  return to;
}

}  // namespace minimo::cuda
