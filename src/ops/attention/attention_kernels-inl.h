// Scores and weighted sums of values for rows of queries, straight from the cache's format. Included once per target.
//
// A unit of a key or value row is the least that decodes at once, into kVectors vectors of float32 in whatever order of
// dimensions is cheapest: queries are brought into that order, results back from it. What a row gets does not depend on
// how many rows, keys or vectors a kernel takes at once: a score is one chain of products and one tree of sums, a
// weighted sum one chain over keys.
#if defined(MINIMO_OPS_ATTENTION_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MINIMO_OPS_ATTENTION_KERNELS_INL_H_
#undef MINIMO_OPS_ATTENTION_KERNELS_INL_H_
#else
#define MINIMO_OPS_ATTENTION_KERNELS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <span>
#include <type_traits>

#include "base/float_types.h"
#include "ops/attention/attention_rows.h"
#include "ops/number_formats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = FloatTag;
using VF = FloatVector;

// Rows a kernel takes at once: their sums stay in 32 registers with 64-byte vectors, else in 16.
constexpr int kMostRows = HWY_MAX_BYTES == 64 ? 8 : 4;

constexpr int64_t kLanes = hn::MaxLanes(DF());  // no target of ours has vectors of unknown size

template <typename T>
struct Codec;

template <>
struct Codec<float> {
  static constexpr int kVectors = 1;
  static int64_t Dim(int64_t place) { return place; }
  HWY_INLINE void Load(DF d, const float* p, VF* to) const { to[0] = hn::LoadU(d, p); }
};

template <>
struct Codec<Bf16> {
#if HWY_TARGET == HWY_SCALAR
  static constexpr int kVectors = 1;
  static int64_t Dim(int64_t place) { return place; }
  HWY_INLINE void Load(DF d, const Bf16* p, VF* to) const { to[0] = LoadFloats(d, p); }
#else
  static constexpr int kVectors = 2;  // even dimensions, odd ones
  static int64_t Dim(int64_t place) { return place % kLanes * 2 + place / kLanes; }
  HWY_INLINE void Load(DF d, const Bf16* p, VF* to) const {
    const hn::Repartition<uint16_t, DF> d16;
    const hn::RebindToUnsigned<DF> d32;
    const auto pairs = hn::BitCast(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
    to[0] = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
    to[1] = hn::BitCast(d, hn::And(pairs, hn::Set(d32, 0xffff0000)));
  }
#endif
};

// FP8 is brought into a format with a codec, which is cheaper than to decode it anew for every few rows: bf16, which
// holds every e4m3 value, where there are instructions for it.
template <typename T>
struct Decoded {
  using Type = T;
};
template <>
struct Decoded<Fp8E4M3> {
  using Type = std::conditional_t<HWY_TARGET == HWY_AVX3_DL, Bf16, float>;
};

// A multiple of what Convert takes at once.
template <typename T>
constexpr int64_t kConverted = std::is_same_v<T, Fp8E4M3> && HWY_TARGET == HWY_AVX3_DL ? 64 : 1;

// `count` elements in another format, in their order.
HWY_INLINE void Convert(const Fp8E4M3* from, int64_t count, float* to) {
  const DF d;
  const VF restore = hn::Set(d, kFp8Restore);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::Mul(LoadFp8Units(d, from + i), restore), d, to + i);
  for (; i < count; ++i) to[i] = ToFloat(from[i]);
}
#if HWY_TARGET == HWY_AVX3_DL
// Two table look-ups (VPERMI2B: 128 magnitudes each) give both bytes of a bf16; the sign is or-ed in.
struct Fp8Tables {
  alignas(64) uint8_t high[128], low[128];
  Fp8Tables() {
    for (int i = 0; i < 128; ++i) {
      const uint16_t bits = ToBf16(ToFloat(Fp8E4M3{static_cast<uint8_t>(i)})).bits;
      high[i] = static_cast<uint8_t>(bits >> 8);
      low[i] = static_cast<uint8_t>(bits);
    }
  }
};
HWY_INLINE void Convert(const Fp8E4M3* from, int64_t count, Bf16* to) {
  static const Fp8Tables tables;
  constexpr int64_t kCodes = kConverted<Fp8E4M3>;
  constexpr int kOrSignOf = 0xf8;  // a | (b & c)
  const __m512i high[2] = {_mm512_load_si512(tables.high), _mm512_load_si512(tables.high + 64)};
  const __m512i low[2] = {_mm512_load_si512(tables.low), _mm512_load_si512(tables.low + 64)};
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  // Bytes interleave within 16-byte lanes: 8 bytes of each lane go with the first half.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t i = 0; i < count; i += kCodes) {
    const __m512i codes = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(from + i));
    const __m512i magnitude = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    const __m512i upper = _mm512_ternarylogic_epi64(magnitude, codes, sign, kOrSignOf);
    const __m512i lower = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    _mm512_storeu_si512(to + i, _mm512_unpacklo_epi8(lower, upper));
    _mm512_storeu_si512(to + i + kCodes / 2, _mm512_unpackhi_epi8(lower, upper));
  }
}
#endif
template <typename T>
HWY_INLINE void Convert(const T* from, int64_t count, T* to) {
  std::copy_n(from, count, to);
}
HWY_INLINE void Convert(const Bf16* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(from[i]);
}

// The sums of the lanes of four vectors, times `scale`: two to `low`, two to `high`.
HWY_INLINE void SumFour(VF v0, VF v1, VF v2, VF v3, float scale, float* low, float* high) {
  [[maybe_unused]] const DF d;
#if HWY_TARGET == HWY_SCALAR
  low[0] = hn::GetLane(v0) * scale;
  low[1] = hn::GetLane(v1) * scale;
  high[0] = hn::GetLane(v2) * scale;
  high[1] = hn::GetLane(v3) * scale;
#else
  // Within blocks of four lanes: two pairs of vectors at a time; then the blocks.
  const hn::Repartition<double, DF> pairs;
  const auto fold = [&](VF a, VF b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  };
  const auto ab = hn::BitCast(pairs, fold(v0, v1)), cd = hn::BitCast(pairs, fold(v2, v3));
  const VF four = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, cd)),
                          hn::BitCast(d, hn::InterleaveUpper(pairs, ab, cd)));
#if HWY_MAX_BYTES == 64
  const hn::Half<DF> half;
  const hn::Half<hn::Half<DF>> block;
  const auto two = hn::Add(hn::LowerHalf(half, four), hn::UpperHalf(half, four));
  const auto sums = hn::Mul(hn::Add(hn::LowerHalf(block, two), hn::UpperHalf(block, two)), hn::Set(block, scale));
#elif HWY_MAX_BYTES == 32
  const hn::Half<DF> block;
  const auto sums = hn::Mul(hn::Add(hn::LowerHalf(block, four), hn::UpperHalf(block, four)), hn::Set(block, scale));
#else
  const DF block;
  const auto sums = hn::Mul(four, hn::Set(d, scale));
#endif
  const hn::Half<decltype(block)> two_lanes;
  hn::StoreU(hn::LowerHalf(two_lanes, sums), two_lanes, low);
  hn::StoreU(hn::UpperHalf(two_lanes, sums), two_lanes, high);
#endif
}

HWY_INLINE void Prefetch(const std::byte* from, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
}

// scores[r][k] = q[r] . key[k] * scale for R rows (of `dim` floats in the codec's order) and the keys of a piece; may
// write one score beyond it. Fetches `ahead`, a key for each key, unless it is null.
template <int R, typename T>
HWY_INLINE void Scores(const Codec<T>& codec, const float* q, const KvPiece& keys, int64_t dim, float scale,
                       float* scores, const KvPiece* ahead) {
  constexpr int kVectors = Codec<T>::kVectors;
  constexpr int kKeys = 2;
  const DF d;
  const int64_t key_bytes = dim * static_cast<int64_t>(sizeof(T));
  for (int k = 0; k < keys.count; k += kKeys) {
    const T* key[kKeys];
    for (int i = 0; i < kKeys; ++i) {
      key[i] = reinterpret_cast<const T*>(keys.at) + std::min(k + i, keys.count - 1) * dim;
      if (ahead != nullptr && k + i < ahead->count) Prefetch(ahead->at + (k + i) * key_bytes, key_bytes);
    }
    VF sum[R][kKeys];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < kKeys; ++i) sum[r][i] = hn::Zero(d);
    for (int64_t at = 0; at < dim; at += kVectors * kLanes) {
      VF x[kKeys][kVectors];
      for (int i = 0; i < kKeys; ++i) codec.Load(d, key[i] + at, x[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const VF row = hn::LoadU(d, q + r * dim + at + v * kLanes);
          for (int i = 0; i < kKeys; ++i) sum[r][i] = hn::MulAdd(row, x[i][v], sum[r][i]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r += 2) {
      const int next = std::min(r + 1, R - 1);
      SumFour(sum[r][0], sum[r][1], sum[next][0], sum[next][1], scale, scores + r * kScoreStride + k,
              scores + next * kScoreStride + k);
    }
  }
}

// sums[r][at, at + U units) += weights[r][k] * values[k] for R rows and the values of all pieces; the weights begin at
// position `tile`. Fetches the units of `ahead[i]` while it takes piece i.
template <int R, int U, typename T>
HWY_INLINE void AddValues(const Codec<T>& codec, const float* weights, int32_t tile, std::span<const KvPiece> pieces,
                          int64_t dim, int64_t at, float* sums, const KvPiece* ahead) {
  constexpr int kVectors = Codec<T>::kVectors;
  constexpr int kSums = U * kVectors;
  const DF d;
  VF sum[R][kSums];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kSums; ++i) sum[r][i] = hn::LoadU(d, sums + r * dim + at + i * kLanes);
  for (size_t p = 0; p < pieces.size(); ++p) {
    const KvPiece& piece = pieces[p];
    const T* values = reinterpret_cast<const T*>(piece.at) + at;
    for (int k = 0; k < piece.count; ++k, values += dim) {
      if (ahead != nullptr && k < ahead[p].count) {
        Prefetch(ahead[p].at + (k * dim + at) * static_cast<int64_t>(sizeof(T)),
                 kSums * kLanes * static_cast<int64_t>(sizeof(T)));
      }
      VF v[kSums];
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) codec.Load(d, values + u * kVectors * kLanes, v + u * kVectors);
      const float* w = weights + piece.first - tile + k;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const VF weight = hn::Set(d, w[r * kScoreStride]);
#pragma GCC unroll 4
        for (int i = 0; i < kSums; ++i) sum[r][i] = hn::MulAdd(weight, v[i], sum[r][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kSums; ++i) hn::StoreU(sum[r][i], d, sums + r * dim + at + i * kLanes);
}

// The same for all dimensions of R rows.
template <int R, typename T>
HWY_INLINE void AddAllValues(const Codec<T>& codec, const float* weights, int32_t tile,
                             std::span<const KvPiece> pieces, int64_t dim, float* sums, const KvPiece* ahead) {
  constexpr int kMostSums = HWY_MAX_BYTES == 64 ? (R <= 6 ? 4 : 2) : 2;
  constexpr int kUnits = std::max(1, kMostSums / Codec<T>::kVectors);
  const int64_t unit = Codec<T>::kVectors * kLanes;
  int64_t at = 0;
  for (; at + kUnits * unit <= dim; at += kUnits * unit) {
    AddValues<R, kUnits>(codec, weights, tile, pieces, dim, at, sums, ahead);
  }
  for (; at < dim; at += unit) AddValues<R, 1>(codec, weights, tile, pieces, dim, at, sums, ahead);
}

// fn(rows as a constant, first row) over all rows in runs of at most kMostRows.
template <typename Fn>
HWY_INLINE void ForRowRuns(int rows, Fn&& fn) {
  int row = 0;
  if constexpr (kMostRows >= 8) {
    for (; row + 8 <= rows; row += 8) fn(std::integral_constant<int, 8>(), row);
    for (; row + 6 <= rows; row += 6) fn(std::integral_constant<int, 6>(), row);
  }
  for (; row + 4 <= rows; row += 4) fn(std::integral_constant<int, 4>(), row);
  for (; row + 2 <= rows; row += 2) fn(std::integral_constant<int, 2>(), row);
  if (row < rows) fn(std::integral_constant<int, 1>(), row);
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#endif
