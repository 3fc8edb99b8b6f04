#include "convert/encode.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace minimo {
namespace {

// g++ clones these loops for wider vectors and picks one at run time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define MINIMO_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MINIMO_CLONES
#endif

constexpr float kFp8Max = 448.0f;
constexpr float kInt4Max = 7.0f;
constexpr float kSmallestFraction = 0.7f;  // of amax / 7: below it clipping costs more than rounding gains

const std::array<float, 256>& Fp8Table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t{};
    for (int i = 0; i < 256; ++i) t[i] = ToFloat(Fp8E4M3{static_cast<uint8_t>(i)});
    return t;
  }();
  return table;
}

MINIMO_CLONES float MaxMagnitude(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

// Squared error of rounding x to multiples of `scale` within -7..7.
MINIMO_CLONES float Int4Error(const float* x, int64_t count, float scale) {
  const float inverse = 1.0f / scale;
  float error = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float q = std::min(std::max(__builtin_rintf(x[i] * inverse), -kInt4Max), kInt4Max);
    const float d = q * scale - x[i];
    error += d * d;
  }
  return error;
}

MINIMO_CLONES void ScaleCodes(const float* codes, int64_t count, float scale, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = codes[i] * scale;
}

void DecodeFp8Row(const WeightView& w, int64_t row, float* out) {
  const auto& table = Fp8Table();
  const auto* codes = reinterpret_cast<const uint8_t*>(w.Row(row));
  const float* scales = w.scales ? w.ScaleRow(row) : nullptr;
  for (int64_t c = 0; c < w.cols;) {
    const int64_t block = (w.first_col + c) / kScaleBlock;
    const int64_t end = std::min<int64_t>((block + 1) * kScaleBlock - w.first_col, w.cols);
    const float scale = scales ? scales[block] : 1.0f;
    for (int64_t i = c; i < end; ++i) out[i] = table[codes[i]];
    ScaleCodes(out + c, end - c, scale, out + c);
    c = end;
  }
}

void DecodeInt4Row(const WeightView& w, int64_t row, float* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.Row(row));
  for (int64_t c = 0; c < w.cols; ++c) {
    const int value = (c % 2 ? bytes[c / 2] >> 4 : bytes[c / 2] & 0xf) - 8;
    out[c] = static_cast<float>(value) * ToFloat(w.group_scales[row * w.scale_stride + c / w.group_size]);
  }
}

template <typename T>
void DecodePlainRow(const std::byte* row, int64_t cols, float* out) {
  for (int64_t c = 0; c < cols; ++c) out[c] = ToFloat(reinterpret_cast<const T*>(row)[c]);
}

}  // namespace

void DecodeRows(const WeightView& w, int64_t begin, int64_t end, float* out) {
  for (int64_t row = begin; row < end; ++row, out += w.cols) {
    switch (w.format) {
      case WeightFormat::kF32: DecodePlainRow<float>(w.Row(row), w.cols, out); break;
      case WeightFormat::kF16: DecodePlainRow<Fp16>(w.Row(row), w.cols, out); break;
      case WeightFormat::kBf16: DecodePlainRow<Bf16>(w.Row(row), w.cols, out); break;
      case WeightFormat::kFp8Block: DecodeFp8Row(w, row, out); break;
      case WeightFormat::kInt4Group: DecodeInt4Row(w, row, out); break;
    }
  }
}

MINIMO_CLONES void EncodeBf16(const float* values, int64_t count, Bf16* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t u = std::bit_cast<uint32_t>(values[i]);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    out[i].bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
}

void EncodeFp8Band(const float* values, int64_t rows, int64_t cols, Fp8E4M3* codes, float* scales) {
  for (int64_t c = 0, block = 0; c < cols; c += kScaleBlock, ++block) {
    const int64_t width = std::min<int64_t>(kScaleBlock, cols - c);
    float largest = 0;
    for (int64_t r = 0; r < rows; ++r) largest = std::max(largest, MaxMagnitude(values + r * cols + c, width));
    const float scale = largest > 0 ? largest / kFp8Max : 1.0f;
    scales[block] = scale;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < width; ++i) codes[r * cols + c + i] = ToFp8E4M3(values[r * cols + c + i] / scale);
    }
  }
}

void EncodeInt4Row(const float* values, int64_t cols, int64_t group, uint8_t* packed, Bf16* scales) {
  for (int64_t c = 0, g = 0; c < cols; c += group, ++g) {
    const float* x = values + c;
    const float largest = MaxMagnitude(x, group);
    Bf16 best = ToBf16(1.0f);
    if (largest > 0) {
      float least = INFINITY;
      for (int i = 0; i < kInt4Candidates; ++i) {
        const float fraction = 1.0f - (1.0f - kSmallestFraction) * static_cast<float>(i) / (kInt4Candidates - 1);
        const Bf16 candidate = ToBf16(largest / kInt4Max * fraction);
        if (ToFloat(candidate) == 0) continue;  // a group of subnormals
        const float error = Int4Error(x, group, ToFloat(candidate));
        if (error < least) {
          least = error;
          best = candidate;
        }
      }
    }
    scales[g] = best;
    const float inverse = 1.0f / ToFloat(best);
    for (int64_t i = 0; i < group; i += 2) {
      const auto nibble = [&](float v) {
        return static_cast<uint8_t>(8 + static_cast<int>(std::clamp(std::nearbyint(v * inverse), -kInt4Max, kInt4Max)));
      };
      packed[(c + i) / 2] = static_cast<uint8_t>(nibble(x[i]) | nibble(x[i + 1]) << 4);
    }
  }
}

}  // namespace minimo
