// PackTiles for AVX-512: a row's group of 128 columns is decoded into 8 vectors, its 128 codes are written side
// by side, and 16 rows of them are turned into quads of columns by gathers from the first-level cache; 4-bit codes are
// gathered and their nibbles moved. Same bits as tiles.cc.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/float_types.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")

namespace minimo {
namespace {

constexpr int kVectors = kInt8Group / 16;

inline __mmask16 MaskOf(int64_t left) {
  return static_cast<__mmask16>(left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0);
}

// e4m3 shifted into fp16's fields is 2^-8 of its value, subnormals included, and fp16 to float32 is exact. Its NaN
// becomes 480: a checkpoint with such a code has no answer that is right.
inline __m512 DecodeFp8(__m128i codes) {
  const __m256i c = _mm256_cvtepu8_epi16(codes);
  const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x7f)), 7);
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x80)), 8);
  return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(magnitude, sign)), _mm512_set1_ps(256.0f));
}

// Columns [c, c + 16) of a row, zeros beyond the last one.
inline __m512 Decode16(const WeightView& w, const std::byte* row, const float* scales, int64_t c) {
  const __mmask16 mask = MaskOf(w.cols - c);
  if (w.format == WeightFormat::kFp8Block) {
    const __m512 value = DecodeFp8(_mm_maskz_loadu_epi8(mask, row + c));
    return _mm512_mul_ps(value, _mm512_set1_ps(scales ? scales[(w.first_col + c) / kScaleBlock] : 1.0f));
  }
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, row + 2 * c);
  if (w.format == WeightFormat::kF16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// One row's group from column c on: codes [128] with their offset; returns the scale's bits.
inline uint16_t PackGroup(const WeightView& w, const std::byte* row, const float* scales, int64_t c, uint8_t* codes) {
  __m512 x[kVectors];
  __m512 largest = _mm512_setzero_ps();
  for (int v = 0; v < kVectors; ++v) {
    x[v] = Decode16(w, row, scales, c + 16 * v);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(x[v]));
  }
  const float most = _mm512_reduce_max_ps(largest);
  const auto bits = static_cast<uint16_t>((std::bit_cast<uint32_t>(most / 127.0f) + 0xffffu) >> 16);  // rounded up
  const float step = ToFloat(Bf16{bits});
  const __m512 inverse = _mm512_set1_ps(step > 0 ? 1.0f / step : 0.0f);
  for (int v = 0; v < kVectors; ++v) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x[v], inverse));
    const __m128i narrow = _mm512_cvtepi32_epi8(q);
    _mm_store_si128(reinterpret_cast<__m128i*>(codes + 16 * v), _mm_xor_si128(narrow, _mm_set1_epi8(int8_t{-128})));
  }
  return bits;
}

// Two bytes of a lane, columns 0 to 3 in file order, to the low nibbles of its four bytes.
inline __m512i SpreadNibbles(__m512i v) {
  const auto part = [&](int mask, int shift) __attribute__((always_inline)) {
    return _mm512_sllv_epi32(_mm512_and_si512(v, _mm512_set1_epi32(mask)), _mm512_set1_epi32(shift));
  };
  return _mm512_or_si512(_mm512_or_si512(part(0x000f, 0), part(0x00f0, 4)),
                         _mm512_or_si512(part(0x0f00, 8), part(0xf000, 12)));
}

void PackInt4Tile(const WeightView& w, const TileLayout& layout, int64_t first_row, int64_t rows, std::byte* tile) {
  for (int64_t r = 0; r < rows; ++r) {
    const Bf16* from = w.group_scales + (first_row + r) * w.scale_stride;
    for (int64_t g = 0; g < layout.groups; ++g) {
      reinterpret_cast<uint16_t*>(tile + layout.ScalesAt(g))[r] = from[g].bits;
    }
  }
  const __m512i row_starts = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                                _mm512_set1_epi32(static_cast<int>(w.row_bytes)));
  const std::byte* from = w.Row(first_row);
  const __m512i zeros = _mm512_set1_epi32(static_cast<int>(0x88888888u));  // rows beyond the last one
  for (int64_t g = 0; g < layout.groups; ++g) {
    std::byte* to = tile + layout.CodesAt(g);
    for (int64_t c = 0; c < layout.group; c += 8, from += 4, to += 64) {
      const __m512i v = _mm512_mask_i32gather_epi32(zeros, MaskOf(rows), row_starts, from, 1);
      const __m512i high = SpreadNibbles(_mm512_srli_epi32(v, 16));
      _mm512_storeu_si512(to, _mm512_or_si512(SpreadNibbles(v), _mm512_slli_epi32(high, 4)));
    }
  }
}

}  // namespace

bool CanPackTilesAvx512(const WeightView& w) {
  if (w.format == WeightFormat::kInt4Group) return w.row_bytes < (1 << 26);  // 16 rows within 32-bit offsets
  return w.scales == nullptr || w.first_col % 16 == 0;  // 16 columns share a scale
}

void PackTileAvx512(const WeightView& w, int64_t first_row, int64_t rows, std::byte* tile) {
  const TileLayout layout(w);
  if (layout.int4) return PackInt4Tile(w, layout, first_row, rows, tile);
  alignas(64) uint8_t codes[kTileRows][kInt8Group];
  std::memset(codes, 0x80, sizeof codes);
  const __m512i row_starts = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                                _mm512_set1_epi32(kInt8Group));
  for (int64_t g = 0; g < layout.groups; ++g) {
    auto* scales = reinterpret_cast<uint16_t*>(tile + layout.ScalesAt(g));
    for (int64_t r = 0; r < rows; ++r) {
      const float* row_scales = w.scales ? w.ScaleRow(first_row + r) : nullptr;
      scales[r] = PackGroup(w, w.Row(first_row + r), row_scales, g * kInt8Group, codes[r]);
    }
    std::byte* to = tile + layout.CodesAt(g);
    for (int64_t quad = 0; quad < kInt8Group / 4; ++quad, to += 64) {
      _mm512_storeu_si512(to, _mm512_i32gather_epi32(row_starts, &codes[0][4 * quad], 1));
    }
  }
}

}  // namespace minimo

#pragma GCC pop_options
#endif
