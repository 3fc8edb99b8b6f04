// Exact products of 4-bit weights for AVX-512 with VNNI, in integers (int4_as_integers in row_kernels.h). Decoded to
// float32, 16 weights cost a shift, a look-up and a product, 26 vector instructions to 128 weights with their scales;
// here it is 3 shifts, 3 and-s, 8 VPDPWSSD and 7 more.
//
// Activations are staged as integers of 31 bits: in a span of 512 columns each of the 16 lanes has 32 of them, whose
// largest gives the power of two that one unit is. What is at least 1/64 of that largest keeps all 24 bits of a float,
// everything else is rounded to 2^-30 of it. An integer is two halves, high * 2^16 + low, each a signed word.
// A dword of codes holds 8 columns; nibble v of its two words are columns v and v + 4. Sums over a lane's 8 columns of
// a block of 128, of high and of low halves, are exact in 32 bits, and begin at -8 times the sum of the activations,
// which takes the codes' offset out. Then in float32, for each lane:
//   sum = fma(low, 2^-16, high); of_span = fma(sum, weight scale, of_span); total = fma(of_span, span's unit, total)
// and the 16 lanes in the end. The same for one token and for many.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <limits>

#include "base/float_types.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace minimo {
namespace {

constexpr int kNibbles = 4;  // of a word: vectors of codes to a block
constexpr int kPanelRows = 32, kPanels = 4, kTokenBlock = 8;  // as in exact_avx512.cc
// Few tokens, bound by memory. Bytes from a load to the line prefetched beside it, at least past the rows at hand.
constexpr int kFewTokens = 2;
constexpr int64_t kAhead = 8192;
constexpr int64_t kPastRows = 4096;
// Columns: with longer rows' activations so much does not fit into the first-level cache. Each row by itself then, which
// is slower than products in float32 until theirs leave it, too. Rates against theirs, in turns, two threads of Zen 5:
// 1536 to 4096 columns 100 to 107 %, 6144 and 8192 92 %, 16384 107 % when reads give 41 to 45 GB/s; 107 to 120, 99 to
// 105 and 115 to 125 % when they give 65 to 72.
constexpr int64_t kLongRow = 4096, kVeryLongRow = 16384;
constexpr int64_t kShortAhead = 2048;
// Columns of two tokens' activations that stay in the first-level cache.
constexpr int64_t kLongPair = 3072;

inline __m512i LoadWords(const std::byte* p) { return _mm512_load_si512(p); }

// sum + 2 products of each lane. In assembly, as in tiles_avx512.cc; by value, else GCC keeps sums on the stack, too.
inline __m512i AddProducts(__m512i sum, __m512i weights, __m512i x) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
  return sum;
}

// A load that is not to be repeated for each use.
inline __m512i Once(__m512i v) {
  asm("" : "+v"(v));
  return v;
}

inline __m512i LoadCodes(const uint8_t* p, int64_t columns) {
  if (columns >= kExactBlock) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi8((uint64_t{1} << (columns / 2)) - 1, p);  // beyond them activations are 0
}

inline __m512i Nibble(__m512i codes, int v) {
  if (v == 3) return _mm512_srli_epi16(codes, 12);
  const __m512i mask = _mm512_set1_epi16(0xf);
  return _mm512_and_si512(v == 0 ? codes : _mm512_srli_epi16(codes, static_cast<unsigned>(4 * v)), mask);
}

// Of a row's block, in each lane. Groups of 64: lanes 0 to 7 hold the first 64 columns.
template <int kGroup>
inline __m512 Scale(const Bf16* s, int64_t block, int64_t columns) {
  if constexpr (kGroup == 128) {
    const __m512i bits = _mm512_set1_epi16(static_cast<int16_t>(s[block].bits));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  }
  if (columns <= 64) return _mm512_maskz_mov_ps(0xff, _mm512_set1_ps(ToFloat(s[2 * block])));
  // Both bf16 in every lane; shifted to the top in lanes 0 to 7, the other cleared in lanes 8 to 15.
  const __m512i both = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(s + 2 * block));
  const __m512i upper = _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  return _mm512_castsi512_ps(_mm512_mask_slli_epi32(upper, 0xff, both, 16));
}

inline __m512 SumOf(__m512i high, __m512i low) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(0x1p-16f), _mm512_cvtepi32_ps(high));
}

inline const std::byte* XRow(const LinearTask& task, const StagedRows& x, int64_t t) {
  return x.data + (task.x_rows ? task.x_rows[t] : t) * x.row_bytes;
}

// A slow stream, which no hardware follows.
inline void PrefetchScales(const WeightView& w, int64_t row, int64_t rows) {
  const auto* p = reinterpret_cast<const char*>(w.group_scales + row * w.scale_stride);
  for (int64_t at = 0; at < rows * w.scale_stride * 2; at += 64) _mm_prefetch(p + at, _MM_HINT_T0);
}

// Where to ask for what comes next: a line for each of the rows at once, in each block.
struct Ahead {
  const char* at;
  int64_t beside, onward;       // bytes from row to row, from block to block
  int64_t turn = -1, skip = 0;  // from this column on it is so many bytes further
};

// R rows and T tokens in registers.
template <int kGroup, int R, int T>
struct Corner {
  const uint8_t* codes[R];
  const Bf16* scales[R];
  const std::byte* x[T];
  __m512 of_span[R][T];

  // A block of which `columns` are there.
  __attribute__((always_inline)) void AddBlock(int64_t block, int64_t columns, Ahead* ahead) {
    __m512i code[R], high[R][T], low[R][T];
    for (int r = 0; r < R; ++r) {
      _mm_prefetch(ahead->at + r * ahead->beside, T <= kFewTokens ? _MM_HINT_T0 : _MM_HINT_T1);
      code[r] = LoadCodes(codes[r] + block * (kExactBlock / 2), columns);
      for (int t = 0; t < T; ++t) {
        high[r][t] = LoadWords(x[t] + 8 * 64);
        low[r][t] = LoadWords(x[t] + 9 * 64);
      }
    }
    ahead->at += ahead->onward;
#pragma GCC unroll 4
    for (int v = 0; v < kNibbles; ++v) {
      __m512i nibble[R];
      for (int r = 0; r < R; ++r) nibble[r] = Nibble(code[r], v);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const __m512i x_high = Once(LoadWords(x[t] + 64 * v));
        for (int r = 0; r < R; ++r) high[r][t] = AddProducts(high[r][t], nibble[r], x_high);
        const __m512i x_low = Once(LoadWords(x[t] + 64 * (kNibbles + v)));
        for (int r = 0; r < R; ++r) low[r][t] = AddProducts(low[r][t], nibble[r], x_low);
      }
    }
    for (int r = 0; r < R; ++r) {
      const __m512 scale = Scale<kGroup>(scales[r], block, columns);
      for (int t = 0; t < T; ++t) of_span[r][t] = _mm512_fmadd_ps(SumOf(high[r][t], low[r][t]), scale, of_span[r][t]);
    }
    for (int t = 0; t < T; ++t) x[t] += kFixedBlockBytes;
  }
};

// Columns [first, end) of R rows from `row` on, of those after `last` the last one, against T tokens whose x begin at
// `first`, added to their totals [R][kTokenBlock]. For more than kFewTokens at most a span, in one loop: registers are
// scarce.
template <int kGroup, int R, int T>
__attribute__((always_inline)) inline void AddColumns(const WeightView& w, int64_t row, int64_t last, int64_t first,
                                                      int64_t end, Ahead ahead, const std::byte* const* x,
                                                      __m512* totals) {
  Corner<kGroup, R, T> corner;
  for (int r = 0; r < R; ++r) {
    const int64_t from = std::min(row + r, last);
    corner.codes[r] = reinterpret_cast<const uint8_t*>(w.Row(from));
    corner.scales[r] = w.group_scales + from * w.scale_stride;
  }
  for (int t = 0; t < T; ++t) corner.x[t] = x[t];
  for (int64_t span = first; span < end; span += kFixedSpan) {
    const __m512* units[T];
    for (int t = 0; t < T; ++t) {
      units[t] = reinterpret_cast<const __m512*>(corner.x[t]);
      corner.x[t] += kFixedUnitBytes;
      for (int r = 0; r < R; ++r) corner.of_span[r][t] = _mm512_setzero_ps();
    }
    const int64_t span_end = std::min(end, span + kFixedSpan);
    int64_t column = span;
    if constexpr (T <= kFewTokens) {  // apart from the rest, which may end within a block
      for (; column + kExactBlock <= span_end; column += kExactBlock) {
        if (column == ahead.turn) ahead.at += ahead.skip;
        corner.AddBlock(column / kExactBlock, kExactBlock, &ahead);
      }
    }
    for (; column < span_end; column += kExactBlock) {
      corner.AddBlock(column / kExactBlock, span_end - column, &ahead);
    }
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) {
        __m512* total = totals + r * kTokenBlock + t;
        *total = _mm512_fmadd_ps(corner.of_span[r][t], *units[t], *total);
      }
    }
    if (T > kFewTokens) break;
  }
}

// How rows are walked: `rows` of them for `columns` at a time, whose activations stay in the first-level cache.
struct Walk {
  int64_t rows, columns;
};

// Activations are loaded once for so many rows.
constexpr int RowsAtOnce(int64_t tokens) { return tokens == 1 ? 4 : 2; }

// Rows [row, row + rows) against tokens [token, token + T).
template <int kGroup, int T>
void PanelTokens(const LinearTask& task, const StagedRows& staged, int64_t row, int64_t rows, int64_t token,
                 const Walk& walk) {
  constexpr int R = RowsAtOnce(T), kFirst = T <= 4 ? T : (T + 1) / 2;
  const WeightView& w = task.weight;
  __m512 totals[kPanelRows * kTokenBlock];
  std::fill_n(totals, (rows + R - 1) / R * R * kTokenBlock, _mm512_setzero_ps());
  const std::byte* x[T];
  for (int t = 0; t < T; ++t) x[t] = XRow(task, staged, token + t);
  if (T <= kFewTokens) PrefetchScales(w, row + rows, rows);
  const bool whole = walk.columns >= w.cols, dense = 2 * w.row_bytes <= w.cols;
  for (int64_t first = 0; first < w.cols; first += walk.columns) {
    const int64_t end = std::min(w.cols, first + walk.columns);
    for (int64_t r = 0; r < rows; r += R) {  // totals of rows that are not there are nobody's
      const auto* codes = reinterpret_cast<const char*>(w.Row(row + r));
      // The next columns of these rows, or the first of those a panel further on. In whole rows line after line, one
      // stream of addresses a thread: each row apart was slower by 8 %, two threads of Zen 5.
      Ahead ahead = {codes + (end < w.cols ? end / 2 : walk.rows * w.row_bytes), w.row_bytes, 64};
      if (whole && dense) ahead = {codes + std::max(kAhead, R * w.row_bytes + kPastRows), 64, 64 * R};
      if (whole && dense && w.cols > kLongRow) {
        const int64_t turn = (w.cols - 2 * kShortAhead) / kExactBlock * kExactBlock;
        ahead = {codes + kShortAhead, w.row_bytes, 64, turn, (R - 1) * w.row_bytes};
      }
      __m512* at = totals + r * kTokenBlock;
      AddColumns<kGroup, R, kFirst>(w, row + r, row + rows - 1, first, end, ahead, x, at);
      if constexpr (T > kFirst) {
        AddColumns<kGroup, R, T - kFirst>(w, row + r, row + rows - 1, first, end, ahead, x + kFirst, at + kFirst);
      }
    }
    const int64_t spans = walk.columns / kFixedSpan;
    for (int t = 0; t < T; ++t) {
      x[t] += spans * (kFixedUnitBytes + kFixedSpan / kExactBlock * kFixedBlockBytes);
    }
  }
  for (int t = 0; t < T; ++t) {
    float* out = task.Out(token + t) + row;
    for (int64_t r = 0; r < rows; ++r) out[r] = _mm512_reduce_add_ps(totals[r * kTokenBlock + t]);
  }
}

template <int kGroup>
void FixedRows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const int64_t tokens = task.tokens, cols = task.weight.cols;
  Walk walk = {kPanelRows, kFixedSpan};
  if (tokens == 1 || (tokens == 2 && cols <= kLongPair)) {
    walk = {RowsAtOnce(tokens), (cols + kFixedSpan - 1) / kFixedSpan * kFixedSpan};
  }
  const int64_t tiles = (tokens + kTokenBlock - 1) / kTokenBlock;
  for (int64_t first = begin; first < end; first += kPanels * kPanelRows) {
    const int64_t last = std::min(end, first + kPanels * kPanelRows);
    for (int64_t i = 0; i < tiles; ++i) {  // nearly equal: 9 tokens are 5 and 4
      const int64_t from = tokens * i / tiles, count = tokens * (i + 1) / tiles - from;
      for (int64_t row = first; row < last; row += walk.rows) {
        const int64_t rows = std::min(walk.rows, last - row);
        if (count == 8) PanelTokens<kGroup, 8>(task, x, row, rows, from, walk);
        if (count == 7) PanelTokens<kGroup, 7>(task, x, row, rows, from, walk);
        if (count == 6) PanelTokens<kGroup, 6>(task, x, row, rows, from, walk);
        if (count == 5) PanelTokens<kGroup, 5>(task, x, row, rows, from, walk);
        if (count == 4) PanelTokens<kGroup, 4>(task, x, row, rows, from, walk);
        if (count == 3) PanelTokens<kGroup, 3>(task, x, row, rows, from, walk);
        if (count == 2) PanelTokens<kGroup, 2>(task, x, row, rows, from, walk);
        if (count == 1) PanelTokens<kGroup, 1>(task, x, row, rows, from, walk);
      }
    }
  }
}

// Nibble v of both words of each lane, from columns v and v + 4 of its 8: the low 16 bits of each.
inline __m512i Pack(__m512i first, __m512i second) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, first, _mm512_slli_epi32(second, 16));
}

inline __m512i Start(__m512i sum) { return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 3)); }

}  // namespace

void StageFixedAvx512(const float* x, int64_t cols, std::byte* to) {
  // Below this an activation's unit would be no normal float.
  const __m512i least = _mm512_castps_si512(_mm512_set1_ps(0x1p-96f));
  const __m512i infinity = _mm512_castps_si512(_mm512_set1_ps(std::numeric_limits<float>::infinity()));
  const __m512i lanes = _mm512_setr_epi32(0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120);
  constexpr int kColumns = 2 * kNibbles;  // of a lane in a block
  constexpr int64_t kSpanBlocks = kFixedSpan / kExactBlock;
  for (int64_t first = 0; first < cols; first += kFixedSpan) {
    const int64_t blocks = (std::min(kFixedSpan, cols - first) + kExactBlock - 1) / kExactBlock;
    __m512 value[kSpanBlocks][kColumns];
    __m512i most = _mm512_setzero_si512();  // magnitudes compare as integers, NaN above infinity
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t column = first + b * kExactBlock;
      const __m512i left = _mm512_set1_epi32(static_cast<int>(std::min(cols - column, kExactBlock)));
      for (int c = 0; c < kColumns; ++c) {
        const __m512i index = _mm512_add_epi32(lanes, _mm512_set1_epi32(c));
        const __mmask16 there = _mm512_cmplt_epi32_mask(index, left);
        value[b][c] = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, index, x + column, 4);
        most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(value[b][c])));
      }
    }
    // most < 2^(1 + exponent): integers are at most 2^30. Of infinity and NaN the unit is that, too, which gives NaN.
    const __m512 exponent = _mm512_getexp_ps(_mm512_castsi512_ps(most));
    const __mmask16 some = _mm512_cmpge_epi32_mask(most, least);
    const __mmask16 finite = _mm512_cmplt_epi32_mask(most, infinity);
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 factor =
        _mm512_maskz_scalef_ps(some & finite, one, _mm512_sub_ps(_mm512_set1_ps(29.0f), exponent));
    const __m512 unit = _mm512_maskz_scalef_ps(some, one, _mm512_sub_ps(exponent, _mm512_set1_ps(29.0f - 16)));
    _mm512_store_ps(to, unit);
    to += kFixedUnitBytes;
    for (int64_t b = 0; b < blocks; ++b, to += kFixedBlockBytes) {
      __m512i high[kColumns], low[kColumns];
      __m512i high_sum = _mm512_setzero_si512(), low_sum = _mm512_setzero_si512();
      for (int c = 0; c < kColumns; ++c) {
        const __m512i whole = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(value[b][c], factor));
        high[c] = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(1 << 15)), 16);
        low[c] = _mm512_sub_epi32(whole, _mm512_slli_epi32(high[c], 16));
        high_sum = _mm512_add_epi32(high_sum, high[c]);
        low_sum = _mm512_add_epi32(low_sum, low[c]);
      }
      for (int v = 0; v < kNibbles; ++v) {
        _mm512_store_si512(to + 64 * v, Pack(high[v], high[v + kNibbles]));
        _mm512_store_si512(to + 64 * (kNibbles + v), Pack(low[v], low[v + kNibbles]));
      }
      _mm512_store_si512(to + 8 * 64, Start(high_sum));
      _mm512_store_si512(to + 9 * 64, Start(low_sum));
    }
  }
}

ChosenKernel FixedInt4Avx512(const WeightView& w) {
  const StageFormat stage{StageFormat::Kind::kFixed, nullptr, 0, 0};
  if (w.cols > kLongRow && w.cols < kVeryLongRow) return {};
  if (w.group_size == 64) return {FixedRows<64>, stage};
  if (w.group_size == 128) return {FixedRows<128>, stage};
  return {};
}

}  // namespace minimo

#pragma GCC pop_options
#endif
