// Integer products over tiles for 64-bit Arm. A line of a tile, 16 rows by 4 columns, is four vectors of 4 rows by 4
// codes: SDOT adds one of them, times 4 activations, to the sums of its 4 rows. Without SDOT (Cortex-A72 and the like)
// products are widened: two of 128 * 127 fit 16 bits, then their pairs are added to 32.
#include "ops/linear/row_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>

namespace minimo {
namespace {

constexpr int64_t kLine = kTileRows * 4;
constexpr int kVectors = 4;    // of a line
constexpr int64_t kStep = 8;   // columns: two lines of 8-bit weights, one of 4-bit ones

// The two lines of 4 columns each that stand for kStep columns. 8-bit codes lose their offset here; of 4-bit ones it is
// in ScaleAndStart::start.
template <bool kInt4>
inline void LoadStep(const uint8_t* codes, int8x16_t (&w)[2][kVectors]) {
  for (int i = 0; i < kVectors; ++i) {
    const uint8x16_t first = vld1q_u8(codes + 16 * i);
    if constexpr (kInt4) {
      w[0][i] = vreinterpretq_s8_u8(vandq_u8(first, vdupq_n_u8(0xf)));
      w[1][i] = vreinterpretq_s8_u8(vshrq_n_u8(first, 4));
    } else {
      w[0][i] = vreinterpretq_s8_u8(veorq_u8(first, vdupq_n_u8(0x80)));
      w[1][i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + kLine + 16 * i), vdupq_n_u8(0x80)));
    }
  }
}

template <bool kInt4>
constexpr int64_t kStepBytes = kInt4 ? kLine : 2 * kLine;

// Sums: sums[t][r] = sum of weight (r, c) * x[t][c] over `columns` columns of one group.
struct Widened {
  static constexpr int kTokens = 2;  // 16 registers of sums

  template <bool kInt4, int T>
  static void Sums(const uint8_t* codes, const int8_t* const* x, int64_t columns, int32_t (*sums)[kTileRows]) {
    int32x4_t sum[T][kVectors][2];  // of each row, the first and the last two columns of a line
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < kVectors; ++i) sum[t][i][0] = sum[t][i][1] = vdupq_n_s32(0);
    for (int64_t c = 0; c < columns; c += kStep, codes += kStepBytes<kInt4>) {
      int8x16_t w[2][kVectors];
      LoadStep<kInt4>(codes, w);
      for (int t = 0; t < T; ++t) {
        const int32x2_t both = vreinterpret_s32_s8(vld1_s8(x[t] + c));
        const int8x8_t x0 = vreinterpret_s8_s32(vdup_lane_s32(both, 0));
        const int8x8_t x1 = vreinterpret_s8_s32(vdup_lane_s32(both, 1));
        for (int i = 0; i < kVectors; ++i) {
          const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w[0][i]), x0), vget_low_s8(w[1][i]), x1);
          const int16x8_t high = vmlal_s8(vmull_s8(vget_high_s8(w[0][i]), x0), vget_high_s8(w[1][i]), x1);
          sum[t][i][0] = vpadalq_s16(sum[t][i][0], low);
          sum[t][i][1] = vpadalq_s16(sum[t][i][1], high);
        }
      }
    }
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < kVectors; ++i) vst1q_s32(sums[t] + 4 * i, vpaddq_s32(sum[t][i][0], sum[t][i][1]));
  }
};

#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
struct Dotted {
  static constexpr int kTokens = 4;  // 16 registers of sums, 8 of weights

  template <bool kInt4, int T>
  static void Sums(const uint8_t* codes, const int8_t* const* x, int64_t columns, int32_t (*sums)[kTileRows]) {
    int32x4_t sum[T][kVectors];
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < kVectors; ++i) sum[t][i] = vdupq_n_s32(0);
    for (int64_t c = 0; c < columns; c += kStep, codes += kStepBytes<kInt4>) {
      int8x16_t w[2][kVectors];
      LoadStep<kInt4>(codes, w);
      for (int t = 0; t < T; ++t) {
        const int8x8_t both = vld1_s8(x[t] + c);
        for (int i = 0; i < kVectors; ++i) {
          sum[t][i] = vdotq_lane_s32(vdotq_lane_s32(sum[t][i], w[0][i], both, 0), w[1][i], both, 1);
        }
      }
    }
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < kVectors; ++i) vst1q_s32(sums[t] + 4 * i, sum[t][i]);
  }
};
#pragma GCC pop_options

template <class Products, bool kInt4, int T>
void Tile(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t row, int64_t token) {
  const std::byte* tile = task.weight.tiles + row / kTileRows * layout.tile_bytes();
  const int8_t* x[T];
  const ScaleAndStart* meta[T];
  float32x4_t total[T][kVectors];
  for (int t = 0; t < T; ++t) {
    const int64_t place = task.x_rows ? task.x_rows[token + t] : token + t;
    x[t] = reinterpret_cast<const int8_t*>(staged.data + place * staged.row_bytes);
    meta[t] = reinterpret_cast<const ScaleAndStart*>(x[t] + layout.padded_cols());
    for (int i = 0; i < kVectors; ++i) total[t][i] = vdupq_n_f32(0);
  }
  for (int64_t g = 0; g < layout.groups; ++g) {
    const auto* scales = reinterpret_cast<const uint16_t*>(tile + layout.ScalesAt(g));
    const auto* codes = reinterpret_cast<const uint8_t*>(tile) + layout.CodesAt(g);
    int32_t sums[T][kTileRows];
    Products::template Sums<kInt4, T>(codes, x, layout.group, sums);
    for (int t = 0; t < T; ++t) {
      const int32x4_t start = vdupq_n_s32(kInt4 ? meta[t][g].start : 0);
      const float32x4_t x_scale = vdupq_n_f32(meta[t][g].scale);
      for (int i = 0; i < kVectors; ++i) {
        const uint32x4_t bits = vshll_n_u16(vld1_u16(scales + 4 * i), 16);
        const float32x4_t scale = vmulq_f32(vreinterpretq_f32_u32(bits), x_scale);
        total[t][i] = vfmaq_f32(total[t][i], vcvtq_f32_s32(vaddq_s32(vld1q_s32(sums[t] + 4 * i), start)), scale);
      }
      x[t] += layout.group;
    }
  }
  for (int t = 0; t < T; ++t) {
    float out[kTileRows];
    for (int i = 0; i < kVectors; ++i) vst1q_f32(out + 4 * i, total[t][i]);
    std::copy_n(out, std::min(kTileRows, task.weight.rows - row), task.Out(token + t) + row);
  }
}

template <class Products, bool kInt4>
void Rows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  constexpr int kTokens = Products::kTokens;
  for (int64_t row = begin; row < end; row += kTileRows) {
    int64_t t = 0;
    for (; t + kTokens <= task.tokens; t += kTokens) Tile<Products, kInt4, kTokens>(task, layout, x, row, t);
    for (; t < task.tokens; ++t) Tile<Products, kInt4, 1>(task, layout, x, row, t);
  }
}

template <class Products>
void AllRows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  if (TileLayout(task.weight).int4) return Rows<Products, true>(task, x, begin, end);
  return Rows<Products, false>(task, x, begin, end);
}

}  // namespace

void TileRowsNeon(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  AllRows<Widened>(task, x, begin, end);
}

void TileRowsNeonDot(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  AllRows<Dotted>(task, x, begin, end);
}

}  // namespace minimo
#endif
