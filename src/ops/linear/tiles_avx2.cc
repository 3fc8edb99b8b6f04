// Integer products over tiles for AVX2: VPMADDUBSW on |weight| and sign(weight) * activation for 8-bit weights (the
// largest pair, 2 * 127 * 127, fits 16 bits), on the codes themselves for 4-bit ones; then VPMADDWD to 32 bits.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace minimo {
namespace {

constexpr int kTokenTile = 4;
constexpr int64_t kLine = kTileRows * 4;
constexpr int kRows = 8;  // of one vector: half a tile

inline __m256i Broadcast(const int8_t* p) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(p)); }

inline __m256i AddPairs(__m256i sum, __m256i pairs) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Half a tile (rows [8 half, 8 half + 8)) against T tokens.
template <bool kInt4, int T>
inline void HalfTile(const TileLayout& layout, const std::byte* tile, int half, const std::byte* const* x,
                     float (*out)[kRows]) {
  const __m256i nibble = _mm256_set1_epi8(0xf), flip = _mm256_set1_epi8(static_cast<char>(0x80));
  __m256 total[T];
  for (int t = 0; t < T; ++t) total[t] = _mm256_setzero_ps();
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t meta = layout.padded_cols() + g * static_cast<int64_t>(sizeof(ScaleAndStart));
    __m256i sum[T];
    for (int t = 0; t < T; ++t) {
      sum[t] = kInt4 ? _mm256_set1_epi32(reinterpret_cast<const ScaleAndStart*>(x[t] + meta)->start)
                     : _mm256_setzero_si256();
    }
    int64_t column = g * layout.group;
    const std::byte* codes = tile + layout.CodesAt(g) + half * 32;
    for (int64_t s = 0; s < layout.group_bytes() / kLine; ++s, codes += kLine) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
      if constexpr (kInt4) {
        const __m256i low = _mm256_and_si256(w, nibble), high = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
        for (int t = 0; t < T; ++t) {  // two pairs of 15 * 127 * 2 fit 16 bits
          const auto* xc = reinterpret_cast<const int8_t*>(x[t]) + column;
          sum[t] = AddPairs(sum[t], _mm256_add_epi16(_mm256_maddubs_epi16(low, Broadcast(xc)),
                                                     _mm256_maddubs_epi16(high, Broadcast(xc + 4))));
        }
        column += 8;
      } else {
        const __m256i value = _mm256_xor_si256(w, flip), magnitude = _mm256_abs_epi8(value);
        for (int t = 0; t < T; ++t) {
          const __m256i xc = Broadcast(reinterpret_cast<const int8_t*>(x[t]) + column);
          sum[t] = AddPairs(sum[t], _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(xc, value)));
        }
        column += 4;
      }
    }
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + layout.ScalesAt(g) + half * 16));
    const __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    for (int t = 0; t < T; ++t) {
      const __m256 x_scale = _mm256_set1_ps(reinterpret_cast<const ScaleAndStart*>(x[t] + meta)->scale);
      total[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), _mm256_mul_ps(scales, x_scale), total[t]);
    }
  }
  for (int t = 0; t < T; ++t) _mm256_storeu_ps(out[t], total[t]);
}

template <bool kInt4, int T>
void Tile(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t row, int64_t token) {
  const std::byte* tile = task.weight.tiles + row / kTileRows * layout.tile_bytes();
  const std::byte* x[T];
  for (int t = 0; t < T; ++t) {
    x[t] = staged.data + (task.x_rows ? task.x_rows[token + t] : token + t) * staged.row_bytes;
  }
  for (int half = 0; half < 2; ++half) {
    const int64_t first = row + half * kRows;
    const int64_t count = std::min<int64_t>(kRows, task.weight.rows - first);
    if (count <= 0) return;
    float out[T][kRows];
    HalfTile<kInt4, T>(layout, tile, half, x, out);
    for (int t = 0; t < T; ++t) std::copy_n(out[t], count, task.Out(token + t) + first);
  }
}

template <bool kInt4>
void Rows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  for (int64_t row = begin; row < end; row += kTileRows) {
    int64_t t = 0;
    for (; t + kTokenTile <= task.tokens; t += kTokenTile) Tile<kInt4, kTokenTile>(task, layout, x, row, t);
    for (; t < task.tokens; ++t) Tile<kInt4, 1>(task, layout, x, row, t);
  }
}

}  // namespace

void TileRowsAvx2(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  return TileLayout(task.weight).int4 ? Rows<true>(task, x, begin, end) : Rows<false>(task, x, begin, end);
}

}  // namespace minimo

#pragma GCC pop_options
#endif
