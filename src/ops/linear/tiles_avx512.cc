// Integer products over tiles with VPDPBUSD (AVX-512 VNNI): unsigned weights times signed activations, 64 products an
// instruction. Lanes are rows, so nothing is summed across them. A group's accumulators begin at -offset * sum of the
// activations, which takes the weights' offset out again.
//
// One token, bound by memory: tile after tile, one stream of addresses a thread. Four tiles at once were slower: two
// threads of a Zen 5 host read four streams each at 37 GB/s and one or two at 47.
// Prefill: 2 tiles by 6 tokens, 12 integer and 12 float accumulators in registers; a step of 4 columns is 2 loads of
// weights (second-level cache, every tile of tokens comes again for them), 6 broadcasts and 12 products.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include "ops/linear/tiles_avx512-inl.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace minimo {
namespace {

constexpr int kTokenTile = 6;

// R tiles from `row` on against tokens [token, token + T).
template <bool kInt4, int R, int T>
inline void Tile(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t row,
                 int64_t token) {
  const std::byte* tile[R];
  const std::byte* x[T];
  __m512 total[R][T];
  for (int r = 0; r < R; ++r) tile[r] = task.weight.tiles + (row / kTileRows + r) * layout.tile_bytes();
  for (int t = 0; t < T; ++t) {
    x[t] = XRow(task, staged, token + t);
    for (int r = 0; r < R; ++r) total[r][t] = _mm512_setzero_ps();
  }
  const __m512i nibble = _mm512_set1_epi8(0xf);
  const int64_t steps = layout.group_bytes() / kTileLine;
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t meta = layout.padded_cols() + g * static_cast<int64_t>(sizeof(ScaleAndStart));
    __m512i sum[R][T];
    for (int t = 0; t < T; ++t) {
      const __m512i start = _mm512_set1_epi32(reinterpret_cast<const ScaleAndStart*>(x[t] + meta)->start);
      for (int r = 0; r < R; ++r) sum[r][t] = start;
    }
    int64_t column = g * layout.group, at = layout.CodesAt(g);
    for (int64_t s = 0; s < steps; ++s, at += kTileLine) {
      __m512i w[R];
      for (int r = 0; r < R; ++r) w[r] = _mm512_loadu_si512(tile[r] + at);
      if constexpr (kInt4) {
        __m512i high[R];
        for (int r = 0; r < R; ++r) {
          high[r] = _mm512_and_si512(_mm512_srli_epi16(w[r], 4), nibble);
          w[r] = _mm512_and_si512(w[r], nibble);
        }
        for (int t = 0; t < T; ++t) {
          const auto* codes = reinterpret_cast<const int8_t*>(x[t]) + column;
          const __m512i first = Broadcast(codes), second = Broadcast(codes + 4);
          for (int r = 0; r < R; ++r) AddProducts(w[r], first, &sum[r][t]);
          for (int r = 0; r < R; ++r) AddProducts(high[r], second, &sum[r][t]);
        }
        column += 8;
      } else {
        for (int t = 0; t < T; ++t) {
          const __m512i codes = Broadcast(reinterpret_cast<const int8_t*>(x[t]) + column);
          for (int r = 0; r < R; ++r) AddProducts(w[r], codes, &sum[r][t]);
        }
        column += 4;
      }
    }
    for (int r = 0; r < R; ++r) {
      const __m512 scales = LoadScales(tile[r] + layout.ScalesAt(g));
      for (int t = 0; t < T; ++t) {
        const __m512 x_scale = _mm512_set1_ps(reinterpret_cast<const ScaleAndStart*>(x[t] + meta)->scale);
        total[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][t]), _mm512_mul_ps(scales, x_scale), total[r][t]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) StoreRows(task, row + r * kTileRows, total[r][t], task.Out(token + t));
  }
}

// Tokens [token, token + count) with count <= kTokenTile.
template <bool kInt4, int R>
void Tokens(const LinearTask& task, const TileLayout& layout, const StagedRows& x, int64_t row, int64_t token,
            int64_t count) {
  switch (count) {
    case 2: return Tile<kInt4, R, 2>(task, layout, x, row, token);
    case 3: return Tile<kInt4, R, 3>(task, layout, x, row, token);
    case 4: return Tile<kInt4, R, 4>(task, layout, x, row, token);
    case 5: return Tile<kInt4, R, 5>(task, layout, x, row, token);
    default: return Tile<kInt4, R, 6>(task, layout, x, row, token);
  }
}

template <bool kInt4, int R>
void AllTokens(const LinearTask& task, const TileLayout& layout, const StagedRows& x, int64_t row) {
  const int64_t tiles = (task.tokens + kTokenTile - 1) / kTokenTile;
  for (int64_t i = 0; i < tiles; ++i) {  // nearly equal tiles: 7 tokens are 4 and 3, not 6 and 1
    const int64_t from = task.tokens * i / tiles, to = task.tokens * (i + 1) / tiles;
    Tokens<kInt4, R>(task, layout, x, row, from, to - from);
  }
}

// Rows [begin, end) for the one token of the task. Four sums a group (integers: their order changes no bit); those
// of high nibbles, left where they are, are 16 times too large. 4 % on a Xeon, nothing on Zen 5.
template <bool kInt4>
void OneToken(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t begin, int64_t end) {
  constexpr int kSums = 4;
  constexpr int kTileLines = kInt4 ? 2 : 4;  // a step: of 16 columns
  const std::byte* x = XRow(task, staged, 0);
  const auto* meta = reinterpret_cast<const ScaleAndStart*>(x + layout.padded_cols());
  const __m512i low = _mm512_set1_epi8(0xf), high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const int64_t steps = layout.group_bytes() / (kTileLines * kTileLine);
  for (int64_t row = begin; row < end; row += kTileRows) {
    const std::byte* at = task.weight.tiles + row / kTileRows * layout.tile_bytes();
    const std::byte* scale_line = at;
    const auto* codes = reinterpret_cast<const int8_t*>(x);
    __m512 total = _mm512_setzero_ps();
    for (int64_t g = 0; g < layout.groups; ++g) {
      if (g % 2 == 0) {
        scale_line = at;
        Prefetch(at + kTileAhead);
        at += kScaleLine;
      }
      __m512i sum[kSums] = {_mm512_set1_epi32(meta[g].start)};
      for (int64_t s = 0; s < steps; ++s) {
        for (int i = 0; i < kTileLines; ++i, at += kTileLine) {
          const __m512i w = _mm512_loadu_si512(at);
          Prefetch(at + kTileAhead);
          if constexpr (kInt4) {
            AddProducts(_mm512_and_si512(w, low), Broadcast(codes), &sum[2 * i]);
            AddProducts(_mm512_and_si512(w, high), Broadcast(codes + 4), &sum[2 * i + 1]);
            codes += 8;
          } else {
            AddProducts(w, Broadcast(codes), &sum[i]);
            codes += 4;
          }
        }
      }
      const __m512i even = _mm512_add_epi32(sum[0], sum[2]), odd = _mm512_add_epi32(sum[1], sum[3]);
      const __m512i all = _mm512_add_epi32(even, kInt4 ? _mm512_srai_epi32(odd, 4) : odd);
      const __m512 scales =
          _mm512_mul_ps(LoadScales(scale_line + g % 2 * (kScaleLine / 2)), _mm512_set1_ps(meta[g].scale));
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), scales, total);
    }
    StoreRows(task, row, total, task.Out(0));
  }
}

template <bool kInt4>
void Rows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  int64_t row = begin;
  if (task.tokens == 1) return OneToken<kInt4>(task, layout, x, begin, end);
  for (; row + kTileRows < end; row += 2 * kTileRows) AllTokens<kInt4, 2>(task, layout, x, row);
  for (; row < end; row += kTileRows) AllTokens<kInt4, 1>(task, layout, x, row);
}

}  // namespace

void TileRowsAvx512(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  return TileLayout(task.weight).int4 ? Rows<true>(task, x, begin, end) : Rows<false>(task, x, begin, end);
}

}  // namespace minimo

#pragma GCC pop_options
#endif
