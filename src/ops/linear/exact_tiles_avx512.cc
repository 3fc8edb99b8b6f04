// Exact products of 4-bit weights for AVX-512 with VNNI, over tiles (tiles.h) and in integers. Decoded to float32, 16
// weights cost a shift, a look-up and a product, 26 vector instructions to 128 weights with their scales; here it is 8
// VPDPBUSD and 4 to 5 more, and weights are one stream of addresses.
//
// Activations are staged as integers of 31 bits in a unit that is a power of two, one to a group of columns (those of
// a weight scale): what is at least 1/64 of the group's largest keeps all 24 bits of a float, everything else is
// rounded to 2^-30 of it. An integer is four signed digits of 8 bits:
//   v = d0 + 2^8 d1 + 2^16 d2 + 2^24 d3, staged [quads of columns][4 digits][4 columns]
// so that one broadcast dword holds one digit of the four columns whose weights a lane of a tile holds. A group's sums
// of each digit are exact; brought together in pairs, low = sum(d0) + 2^8 sum(d1) and high likewise, which begin at -8
// times those of the activations alone and so lose the codes' offset, they are still exact in 32 bits. Then in float32:
//   total = fma(fma(low, 2^-16, high), weight scale * 2^16 unit, total)
// group after group, eight at a time from 0, the same for one token and for many.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include "ops/linear/tiles_avx512-inl.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace minimo {
namespace {

constexpr int kDigits = 4;
constexpr int kTokenTile = 3;  // 2 tiles, 3 tokens, 4 digits: 24 sums in registers
// Groups added one after the other before they join those before: shorter chains round less.
constexpr int64_t kRun = 8;

// Of two digits, the second 2^8 times the first.
inline __m512 SumOf(__m512i first, __m512i second, int32_t start) {
  const __m512i both = _mm512_add_epi32(first, _mm512_slli_epi32(second, 8));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(both, _mm512_set1_epi32(start)));
}

// Of one row in each lane and one token.
struct Total {
  __m512 of_run, before;

  inline void Clear() { of_run = before = _mm512_setzero_ps(); }
  // Group g's sums of each digit.
  inline void Add(int64_t g, const __m512i* sum, __m512 scales, const FixedUnit& unit) {
    const __m512 low = SumOf(sum[0], sum[1], unit.low_start), high = SumOf(sum[2], sum[3], unit.high_start);
    const __m512 both = _mm512_fmadd_ps(low, _mm512_set1_ps(0x1p-16f), high);
    of_run = _mm512_fmadd_ps(both, _mm512_mul_ps(scales, _mm512_set1_ps(unit.unit)), of_run);
    if ((g + 1) % kRun != 0) return;
    before = _mm512_add_ps(before, of_run);
    of_run = _mm512_setzero_ps();
  }
  inline __m512 All() const { return _mm512_add_ps(before, of_run); }
};

// R tiles from `row` on against tokens [token, token + T).
template <int R, int T>
inline void Tile(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t row,
                 int64_t token) {
  const std::byte* tile[R];
  const std::byte* x[T];
  const FixedUnit* units[T];
  Total total[R][T];
  for (int r = 0; r < R; ++r) tile[r] = task.weight.tiles + (row / kTileRows + r) * layout.tile_bytes();
  for (int t = 0; t < T; ++t) {
    x[t] = XRow(task, staged, token + t);
    units[t] = reinterpret_cast<const FixedUnit*>(x[t] + kDigits * layout.padded_cols());
    for (int r = 0; r < R; ++r) total[r][t].Clear();
  }
  const __m512i nibble = _mm512_set1_epi8(0xf);
  const int64_t lines = layout.group_bytes() / kTileLine;
  int64_t column = 0;
  for (int64_t g = 0; g < layout.groups; ++g) {
    __m512i sum[R][T][kDigits];
    for (int r = 0; r < R; ++r) {
      for (int t = 0; t < T; ++t) {
        for (int d = 0; d < kDigits; ++d) sum[r][t][d] = _mm512_setzero_si512();
      }
    }
    int64_t at = layout.CodesAt(g);
    for (int64_t l = 0; l < lines; ++l, at += kTileLine, column += 8) {
      __m512i low[R], high[R];
      for (int r = 0; r < R; ++r) {
        const __m512i codes = _mm512_loadu_si512(tile[r] + at);
        low[r] = _mm512_and_si512(codes, nibble);
        high[r] = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
      }
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const std::byte* digits = x[t] + kDigits * column;
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          const __m512i first = Broadcast(digits + 4 * d);
          for (int r = 0; r < R; ++r) AddProducts(low[r], first, &sum[r][t][d]);
        }
#pragma GCC unroll 4
        for (int d = 0; d < kDigits; ++d) {
          const __m512i second = Broadcast(digits + 16 + 4 * d);
          for (int r = 0; r < R; ++r) AddProducts(high[r], second, &sum[r][t][d]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      const __m512 scales = LoadScales(tile[r] + layout.ScalesAt(g));
      for (int t = 0; t < T; ++t) {
        total[r][t].Add(g, sum[r][t], scales, units[t][g]);
        asm("" : "+m"(total[r][t]));  // in memory: the sums take the registers
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) StoreRows(task, row + r * kTileRows, total[r][t].All(), task.Out(token + t));
  }
}

// One token, bound by memory: tile after tile, one stream of addresses a thread. High nibbles have sums of their own,
// for chains half as long, and stay where they are, 16 times too large.
inline void OneToken(const LinearTask& task, const TileLayout& layout, const StagedRows& staged, int64_t begin,
                     int64_t end) {
  const std::byte* x = XRow(task, staged, 0);
  const auto* units = reinterpret_cast<const FixedUnit*>(x + kDigits * layout.padded_cols());
  const __m512i low = _mm512_set1_epi8(0xf), high = _mm512_set1_epi8(static_cast<char>(0xf0));
  const int64_t lines = layout.group_bytes() / kTileLine;
  for (int64_t row = begin; row < end; row += kTileRows) {
    const std::byte* at = task.weight.tiles + row / kTileRows * layout.tile_bytes();
    const std::byte* scales = at;
    const std::byte* digits = x;
    Total total;
    total.Clear();
    for (int64_t g = 0; g < layout.groups; ++g) {
      if (g % 2 == 0) {
        scales = at;
        Prefetch(at + kTileAhead);
        at += kScaleLine;
      }
      __m512i sum[kDigits], second[kDigits];
      for (int d = 0; d < kDigits; ++d) sum[d] = second[d] = _mm512_setzero_si512();
      for (int64_t l = 0; l < lines; ++l, at += kTileLine, digits += 8 * kDigits) {
        const __m512i codes = _mm512_loadu_si512(at);
        Prefetch(at + kTileAhead);
        const __m512i first = _mm512_and_si512(codes, low), other = _mm512_and_si512(codes, high);
        for (int d = 0; d < kDigits; ++d) AddProducts(first, Broadcast(digits + 4 * d), &sum[d]);
        for (int d = 0; d < kDigits; ++d) AddProducts(other, Broadcast(digits + 4 * (kDigits + d)), &second[d]);
      }
      for (int d = 0; d < kDigits; ++d) sum[d] = _mm512_add_epi32(sum[d], _mm512_srai_epi32(second[d], 4));
      total.Add(g, sum, LoadScales(scales + g % 2 * (kScaleLine / 2)), units[g]);
    }
    StoreRows(task, row, total.All(), task.Out(0));
  }
}

template <int R>
void AllTokens(const LinearTask& task, const TileLayout& layout, const StagedRows& x, int64_t row) {
  const int64_t tiles = (task.tokens + kTokenTile - 1) / kTokenTile;
  for (int64_t i = 0; i < tiles; ++i) {  // nearly equal tiles: 4 tokens are 2 and 2
    const int64_t from = task.tokens * i / tiles, count = task.tokens * (i + 1) / tiles - from;
    if (count == 2) Tile<R, 2>(task, layout, x, row, from);
    if (count == 3) Tile<R, 3>(task, layout, x, row, from);
  }
}

}  // namespace

void TileRowsExactAvx512(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  int64_t row = begin;
  if (task.tokens == 1) return OneToken(task, layout, x, begin, end);
  for (; row + kTileRows < end; row += 2 * kTileRows) AllTokens<2>(task, layout, x, row);
  for (; row < end; row += kTileRows) AllTokens<1>(task, layout, x, row);
}

void StageFixedAvx512(const StageFormat& f, const float* x, int64_t cols, std::byte* to) {
  // Below this an activation's unit would be no normal float.
  constexpr float kLeast = 0x1p-96f;
  const int64_t groups = cols / f.group;
  auto* units = reinterpret_cast<FixedUnit*>(to + groups * f.group * kDigits);
  // Adding it carries from digit to digit what makes them signed, taking it off each byte again is this XOR.
  const __m512i carry = _mm512_set1_epi32(0x00808080);
  const __m512i turned = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (int64_t g = 0; g < groups; ++g, x += f.group) {
    __m512i most = _mm512_setzero_si512();  // magnitudes compare as integers, NaN above infinity
    for (int64_t c = 0; c < f.group; c += 16) {
      most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + c))));
    }
    // largest < 2^(1 + exponent): integers are at most 2^30. Of infinity and NaN the unit is that, too, and integers
    // are 0, which gives NaN.
    const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(most))));
    float factor = 0, unit = 0;
    if (!(largest < kLeast)) {
      const __m128 one = _mm_set_ss(1.0f), exponent = _mm_getexp_ss(one, _mm_set_ss(largest));
      factor = _mm_cvtss_f32(_mm_scalef_ss(one, _mm_sub_ss(_mm_set_ss(29.0f), exponent)));
      unit = _mm_cvtss_f32(_mm_scalef_ss(one, _mm_sub_ss(exponent, _mm_set_ss(29.0f - 16))));
    }
    __m512i low_sum = _mm512_setzero_si512(), high_sum = _mm512_setzero_si512();
    const __mmask16 some = factor > 0 ? 0xffff : 0;
    for (int64_t c = 0; c < f.group; c += 16, to += 64) {
      const __m512i whole =
          _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(factor)));
      const __m512i biased = _mm512_add_epi32(whole, carry);
      low_sum = _mm512_add_epi32(low_sum, _mm512_and_si512(biased, _mm512_set1_epi32(0xffff)));
      high_sum = _mm512_add_epi32(high_sum, _mm512_srai_epi32(biased, 16));
      _mm512_storeu_si512(to, _mm512_shuffle_epi8(_mm512_xor_si512(biased, carry), turned));
    }
    units[g] = {unit, -8 * (_mm512_reduce_add_epi32(low_sum) - f.group * 0x8080),
                -8 * (_mm512_reduce_add_epi32(high_sum) - f.group * 0x80)};
  }
}

}  // namespace minimo

#pragma GCC pop_options
#endif
