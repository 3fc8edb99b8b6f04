// Exact products in float32 for AVX-512 with VBMI. Blocks of 128 columns are decoded into 8 vectors of 16 floats in
// whatever order is cheapest; the activations are staged in the same order, so nothing is shuffled back.
//
// FP8: two table look-ups (VPERMI2B: 128 magnitudes each) give both bytes of a bf16, which holds every e4m3 value; the
// sign is or-ed in. 64 codes: 2 look-ups, 1 sign, 2 interleaves, 4 widenings.
// 4 bits: VPERMPS uses the low 4 bits of each 32-bit lane as its index: a shift and a look-up give 16 floats. Laid out
// in tiles they are faster: exact_tiles_avx512.cc.
//
// Additions: 8 fused multiply-adds a block into a fresh sum, then total = fma(sum, scale, total); then the 16 lanes.
// The same for one token and for many.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "base/float_types.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,fma")

namespace minimo {
namespace {

constexpr int kVectors = 8;       // of a block
constexpr int kPanelRows = 32;    // whose totals are 16 KB
constexpr int kPanels = 4;        // of rows of 4096 bytes: half of a 1 MB second-level cache
constexpr int kDirectTokens = 2;  // up to here the totals stay in registers
constexpr int64_t kChunk = 512;   // columns: 8 tokens' are 16 KB of a 32 or 48 KB first-level cache
constexpr int kTokenBlock = 8;
// One or two tokens: bytes from a load to the line prefetched beside it, in this row or the next ones.
constexpr int64_t kAhead = 8192;
constexpr int64_t kShortRow = 512;  // bytes: four such rows are half a page of memory
// Columns: 32 KB of activations; those of longer rows leave a first-level cache of 48.
constexpr int64_t kLongRow = 8192;

// [128] each: the column at place 16 v + lane of a block.
struct Orders {
  alignas(64) int32_t fp8[kExactBlock], bf16[kExactBlock], int4[kExactBlock];
  Orders() {
    for (int v = 0; v < kVectors; ++v) {
      for (int l = 0; l < 16; ++l) {
        const int half = v / 4, unpacked = v % 4 / 2, odd = v % 2;  // bytes interleave within 16-byte lanes
        fp8[16 * v + l] = 64 * half + 16 * (l / 4) + 8 * unpacked + 2 * (l % 4) + odd;
        bf16[16 * v + l] = 32 * (v / 2) + 2 * l + v % 2;
        int4[16 * v + l] = 8 * l + v;
      }
    }
  }
};
const Orders& Order() {
  static const Orders orders;
  return orders;
}

inline __m512i LoadBytes(const uint8_t* p, int64_t left) {
  if (left >= 64) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi8(left > 0 ? (uint64_t{1} << left) - 1 : 0, p);
}

struct Fp8 {
  static constexpr int64_t kBlockBytes = kExactBlock;
  using Scales = const float*;  // of a row
  __m512i high[2], low[2];      // bytes of the bf16 of each magnitude
  Fp8() {
    alignas(64) uint8_t h[128], l[128];
    for (int i = 0; i < 128; ++i) {
      const uint16_t bits = ToBf16(ToFloat(Fp8E4M3{static_cast<uint8_t>(i)})).bits;
      h[i] = static_cast<uint8_t>(bits >> 8);
      l[i] = static_cast<uint8_t>(bits);
    }
    for (int i = 0; i < 2; ++i) {
      high[i] = _mm512_load_si512(h + 64 * i);
      low[i] = _mm512_load_si512(l + 64 * i);
    }
  }
  static Scales ScalesOf(const WeightView& w, int64_t row) {
    return w.scales ? w.ScaleRow(row) + w.first_col / kScaleBlock : nullptr;
  }
  static void PrefetchScales(const WeightView&, int64_t) {}
  static __m512 Scale(Scales s, int64_t block, int64_t) { return _mm512_set1_ps(s ? s[block] : 1.0f); }
  void Decode(const uint8_t* p, int64_t left, __m512 w[kVectors]) const {
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i top = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int half = 0; half < 2; ++half) {
      const __m512i code = LoadBytes(p + 64 * half, left - 64 * half);
      const __m512i magnitude = _mm512_permutex2var_epi8(high[0], code, high[1]);
      const __m512i h = _mm512_ternarylogic_epi64(magnitude, code, sign, 0xf8);  // magnitude | (code & sign)
      const __m512i l = _mm512_permutex2var_epi8(low[0], code, low[1]);
      const __m512i a = _mm512_unpacklo_epi8(l, h), b = _mm512_unpackhi_epi8(l, h);
      w[4 * half] = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
      w[4 * half + 1] = _mm512_castsi512_ps(_mm512_and_si512(a, top));
      w[4 * half + 2] = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
      w[4 * half + 3] = _mm512_castsi512_ps(_mm512_and_si512(b, top));
    }
  }
};

struct Bf16Block {
  static constexpr int64_t kBlockBytes = 2 * kExactBlock;
  using Scales = const float*;
  static Scales ScalesOf(const WeightView&, int64_t) { return nullptr; }
  static void PrefetchScales(const WeightView&, int64_t) {}
  static __m512 Scale(Scales, int64_t, int64_t) { return _mm512_set1_ps(1.0f); }
  static void Decode(const uint8_t* p, int64_t left, __m512 w[kVectors]) {
    const __m512i top = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 4; ++i) {
      const __m512i pair = LoadBytes(p + 64 * i, 2 * left - 64 * i);
      w[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
      w[2 * i + 1] = _mm512_castsi512_ps(_mm512_and_si512(pair, top));
    }
  }
};

template <int kGroup>  // columns a scale: 64 or 128
struct Int4 {
  static constexpr int64_t kBlockBytes = kExactBlock / 2;
  using Scales = const Bf16*;
  __m512 values;
  Int4() { values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7); }
  static Scales ScalesOf(const WeightView& w, int64_t row) { return w.group_scales + row * w.scale_stride; }
  // A slow stream, which no hardware follows.
  static void PrefetchScales(const WeightView& w, int64_t row) {
    const auto* p = reinterpret_cast<const char*>(ScalesOf(w, row));
    for (int64_t at = 0; at < w.scale_stride * 2; at += 64) _mm_prefetch(p + at, _MM_HINT_T0);
  }
  // Lanes 0 to 7 hold the first 64 columns.
  static __m512 Scale(Scales s, int64_t block, int64_t left) {
    if constexpr (kGroup == 128) return _mm512_set1_ps(ToFloat(s[block]));
    if (left <= 64) return _mm512_maskz_mov_ps(0xff, _mm512_set1_ps(ToFloat(s[2 * block])));
    // Both bf16 in every lane; shifted to the top in lanes 0 to 7, the other cleared in lanes 8 to 15.
    const __m512i both = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(s + 2 * block));
    const __m512i upper = _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    return _mm512_castsi512_ps(_mm512_mask_slli_epi32(upper, 0xff, both, 16));
  }
  void Decode(const uint8_t* p, int64_t left, __m512 w[kVectors]) const {
    const __m512i codes = LoadBytes(p, left / 2);
    w[0] = _mm512_permutexvar_ps(codes, values);
    w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values);
    w[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 8), values);
    w[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 12), values);
    w[4] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 16), values);
    w[5] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 20), values);
    w[6] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 24), values);
    w[7] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 28), values);
  }
};

inline const float* XRow(const LinearTask& task, const StagedRows& x, int64_t t) {
  return reinterpret_cast<const float*>(x.data + (task.x_rows ? task.x_rows[t] : t) * x.row_bytes);
}

// R rows against T tokens. A thread reads one stream of addresses: of long rows one after the other, four at once were
// slower, by 3 to 40 % on two threads of a Zen 5 host. Short ones are taken R at a time, which is the same stream: one
// alone ends before its sums do (a model of 256 columns in the caches: 1.17 times the tokens a second). Two very long
// ones share the activations, which come from the second-level cache (MiMo in 4 bits, 16384 columns: 19 -> 37 GB/s).
template <class F, int R, int T>
inline void DirectRows(const F& f, const LinearTask& task, const StagedRows& staged, int64_t row) {
  const WeightView& w = task.weight;
  const uint8_t* codes[R];
  typename F::Scales scales[R];
  const float* x[T];
  __m512 total[R][T];
  for (int r = 0; r < R; ++r) {
    codes[r] = reinterpret_cast<const uint8_t*>(w.Row(row + r));
    scales[r] = F::ScalesOf(w, row + r);
    for (int t = 0; t < T; ++t) total[r][t] = _mm512_setzero_ps();
  }
  for (int t = 0; t < T; ++t) x[t] = XRow(task, staged, t);
  f.PrefetchScales(w, row + R);
  const auto block = [&](int64_t b, int64_t left) __attribute__((always_inline)) {
    const bool beyond = b * F::kBlockBytes + kAhead >= w.row_bytes;  // of this row: there it is R rows on
    const int64_t ahead = kAhead + (beyond ? (R - 1) * w.row_bytes : 0);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const uint8_t* p = codes[r] + b * F::kBlockBytes;
      for (int64_t line = 0; line < F::kBlockBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + line + ahead), _MM_HINT_T0);
      }
      __m512 c[kVectors];
      f.Decode(p, left, c);
      const __m512 scale = F::Scale(scales[r], b, left);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const float* xs = x[t] + b * kExactBlock;
        __m512 sum = _mm512_mul_ps(c[0], _mm512_load_ps(xs));
        for (int v = 1; v < kVectors; ++v) sum = _mm512_fmadd_ps(c[v], _mm512_load_ps(xs + 16 * v), sum);
        total[r][t] = _mm512_fmadd_ps(sum, scale, total[r][t]);
      }
    }
  };
  const int64_t whole = w.cols / kExactBlock, rest = w.cols % kExactBlock;
  for (int64_t b = 0; b < whole; ++b) block(b, kExactBlock);
  if (rest > 0) block(whole, rest);
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) task.Out(t)[row + r] = _mm512_reduce_add_ps(total[r][t]);
  }
}

template <class F, int T>
inline void DirectSpan(const F& f, const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  int64_t row = begin;
  if (task.weight.row_bytes <= kShortRow) {
    for (; row + 4 <= end; row += 4) DirectRows<F, 4, T>(f, task, x, row);
  }
  if (task.weight.cols > kLongRow) {
    for (; row + 2 <= end; row += 2) DirectRows<F, 2, T>(f, task, x, row);
  }
  for (; row < end; ++row) DirectRows<F, 1, T>(f, task, x, row);
}

// Many tokens, in blocks of up to kTokenBlock: a chunk of columns at a time, in which their activations stay in the
// first-level cache, over a panel of rows. Two rows are decoded into 16 registers for all tokens of the block; the
// totals wait in memory, [kPanelRows][kTokenBlock][16]. kPanels take turns on each block of tokens: their codes stay in
// the second-level cache, and activations pass by once for all of them.

// Products of the decoded block with tokens [t, t + T), added to their totals: 2 T chains of additions at once.
template <int T>
inline void AddProducts(const __m512 (&w)[2][kVectors], const __m512 (&scale)[2], const float* const* x, int64_t at,
                        float* totals) {
  __m512 sum[2][T];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      __m512 xv = _mm512_load_ps(x[t] + at + 16 * v);
      asm("" : "+v"(xv));  // else GCC loads it once for each row: 135 -> 155 GFLOPS a core of Zen 5, 16 tokens
      for (int r = 0; r < 2; ++r) {
        sum[r][t] = v == 0 ? _mm512_mul_ps(w[r][v], xv) : _mm512_fmadd_ps(w[r][v], xv, sum[r][t]);
      }
    }
  }
  for (int r = 0; r < 2; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      float* total = totals + (r * kTokenBlock + t) * 16;
      _mm512_store_ps(total, _mm512_fmadd_ps(sum[r][t], scale[r], _mm512_load_ps(total)));
    }
  }
}

// Blocks [first, last) of columns of rows `row` and `second` against T tokens. `ahead`: bytes to what comes next.
template <class F, int T>
__attribute__((noinline)) void PairTile(const F& f, const WeightView& w, int64_t row, int64_t second,
                                        const float* const* x, int64_t first, int64_t last, int64_t ahead,
                                        float* totals) {
  const uint8_t* codes[2] = {reinterpret_cast<const uint8_t*>(w.Row(row)),
                             reinterpret_cast<const uint8_t*>(w.Row(second))};
  const typename F::Scales scales[2] = {F::ScalesOf(w, row), F::ScalesOf(w, second)};
  for (int64_t b = first; b < last; ++b) {
    const int64_t left = std::min(kExactBlock, w.cols - b * kExactBlock);
    __m512 c[2][kVectors], scale[2];
    for (int r = 0; r < 2; ++r) {
      const uint8_t* p = codes[r] + b * F::kBlockBytes;
      for (int64_t line = 0; line < F::kBlockBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + line + ahead), _MM_HINT_T1);
      }
      f.Decode(p, left, c[r]);
      scale[r] = F::Scale(scales[r], b, left);
    }
    AddProducts<(T + 1) / 2>(c, scale, x, b * kExactBlock, totals);
    if constexpr (T > 1) AddProducts<T / 2>(c, scale, x + (T + 1) / 2, b * kExactBlock, totals + (T + 1) / 2 * 16);
  }
}

// Rows [row, row + rows) against tokens [token, token + T).
template <class F, int T>
void PanelTokens(const F& f, const LinearTask& task, const StagedRows& staged, int64_t row, int64_t rows,
                 int64_t token) {
  alignas(64) float totals[kPanelRows * kTokenBlock * 16];
  const int64_t blocks = (task.weight.cols + kExactBlock - 1) / kExactBlock;
  const float* x[T];
  for (int t = 0; t < T; ++t) x[t] = XRow(task, staged, token + t);
  std::fill_n(totals, (rows + 1) / 2 * 2 * kTokenBlock * 16, 0.0f);
  for (int64_t b = 0; b < blocks; b += kChunk / kExactBlock) {
    const int64_t end = std::min(blocks, b + kChunk / kExactBlock);
    // The next chunk of this row, or the first of the row a panel further on.
    const int64_t ahead = end < blocks ? (end - b) * F::kBlockBytes : rows * task.weight.row_bytes - b * F::kBlockBytes;
    for (int64_t r = 0; r < rows; r += 2) {  // of an odd last row the totals beside it are nobody's
      const int64_t second = row + std::min(r + 1, rows - 1);
      PairTile<F, T>(f, task.weight, row + r, second, x, b, end, ahead, totals + r * kTokenBlock * 16);
    }
  }
  for (int t = 0; t < T; ++t) {
    float* out = task.Out(token + t) + row;
    for (int64_t r = 0; r < rows; ++r) {
      out[r] = _mm512_reduce_add_ps(_mm512_load_ps(totals + (r * kTokenBlock + t) * 16));
    }
  }
}

template <class F>
void PanelRows(const F& f, const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  const int64_t tiles = (task.tokens + kTokenBlock - 1) / kTokenBlock;
  for (int64_t first = begin; first < end; first += kPanels * kPanelRows) {
    const int64_t last = std::min(end, first + kPanels * kPanelRows);
    for (int64_t i = 0; i < tiles; ++i) {  // nearly equal: 9 tokens are 5 and 4
      const int64_t from = task.tokens * i / tiles, count = task.tokens * (i + 1) / tiles - from;
      for (int64_t row = first; row < last; row += kPanelRows) {
        const int64_t rows = std::min<int64_t>(kPanelRows, last - row);
        if (count == 8) PanelTokens<F, 8>(f, task, x, row, rows, from);
        if (count == 7) PanelTokens<F, 7>(f, task, x, row, rows, from);
        if (count == 6) PanelTokens<F, 6>(f, task, x, row, rows, from);
        if (count == 5) PanelTokens<F, 5>(f, task, x, row, rows, from);
        if (count == 4) PanelTokens<F, 4>(f, task, x, row, rows, from);
        if (count == 3) PanelTokens<F, 3>(f, task, x, row, rows, from);
      }
    }
  }
}

template <class F>
void ExactRows(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end) {
  static const F f;
  if (task.tokens > kDirectTokens) return PanelRows(f, task, x, begin, end);
  if (task.tokens == 1) return DirectSpan<F, 1>(f, task, x, begin, end);
  DirectSpan<F, 2>(f, task, x, begin, end);
}

void Permute(const int32_t* order, const float* x, int64_t cols, float* to) {
  for (int64_t c = 0; c < cols; c += kExactBlock, to += kExactBlock) {
    const __m512i left = _mm512_set1_epi32(static_cast<int>(std::min<int64_t>(cols - c, kExactBlock)));
    for (int v = 0; v < kVectors; ++v) {
      const __m512i index = _mm512_load_si512(order + 16 * v);
      const __mmask16 there = _mm512_cmplt_epi32_mask(index, left);
      _mm512_store_ps(to + 16 * v, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, index, x + c, 4));
    }
  }
}

// As QuantizeGroup in staging.cc, 16 columns at a time.
ScaleAndStart QuantizeGroup(const StageFormat& f, const float* x, int64_t count, int8_t* codes) {
  const auto mask = [&](int64_t i) {
    return static_cast<__mmask16>(count - i >= 16 ? 0xffff : count > i ? (1u << (count - i)) - 1 : 0);
  };
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < f.group; i += 16) {
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(mask(i), x + i)));
  }
  const float most = _mm512_reduce_max_ps(largest);
  const bool some = most > kLeastQuantized;
  const __m512 inverse = _mm512_set1_ps(some ? 127.0f / most : 0.0f);
  const __m512 bound = _mm512_set1_ps(127.0f);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < f.group; i += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(i), x + i), inverse);
    const __m512 clamped = _mm512_max_ps(_mm512_min_ps(scaled, bound), _mm512_sub_ps(_mm512_setzero_ps(), bound));
    const __m512i q = _mm512_cvtps_epi32(clamped);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(q));
    sum = _mm512_add_epi32(sum, q);
  }
  return {some ? most / 127.0f : 0.0f, -f.offset * _mm512_reduce_add_epi32(sum)};
}

}  // namespace

void StageRowAvx512(const StageFormat& f, const float* x, int64_t cols, std::byte* to) {
  if (f.kind == StageFormat::Kind::kPermuted) return Permute(f.order, x, cols, reinterpret_cast<float*>(to));
  if (f.kind == StageFormat::Kind::kFixed) return StageFixedAvx512(f, x, cols, to);
  const int64_t groups = (cols + f.group - 1) / f.group;
  auto* codes = reinterpret_cast<int8_t*>(to);
  auto* meta = reinterpret_cast<ScaleAndStart*>(to + groups * f.group);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t at = g * f.group;
    meta[g] = QuantizeGroup(f, x + at, std::min<int64_t>(f.group, cols - at), codes + at);
  }
}

ChosenKernel ExactAvx512(const WeightView& w) {
  const auto chosen = [](RowKernel run, const int32_t* order) {
    return ChosenKernel{run, {StageFormat::Kind::kPermuted, order, 0, 0}};
  };
  switch (w.format) {
    case WeightFormat::kFp8Block:
      if (w.scales == nullptr || w.first_col % kScaleBlock == 0) return chosen(ExactRows<Fp8>, Order().fp8);
      return {};
    case WeightFormat::kBf16: return chosen(ExactRows<Bf16Block>, Order().bf16);
    case WeightFormat::kInt4Group:
      if (w.cols % 2 != 0) return {};
      if (w.group_size == 64) return chosen(ExactRows<Int4<64>>, Order().int4);
      if (w.group_size == 128) return chosen(ExactRows<Int4<128>>, Order().int4);
      return {};
    case WeightFormat::kF32:
    case WeightFormat::kF16: return {};
  }
  return {};
}

}  // namespace minimo

#pragma GCC pop_options
#endif
