// Scores and weighted sums of values for rows of queries, straight from the cache's format. Included once per target.
//
// A unit of a key or value row is the least that decodes at once, into kVectors vectors of float32 (each by a Load of
// its own, so that few registers hold them) in whatever order of dimensions is cheapest: queries are brought into that
// order, results back from it. What a row gets does not depend on how many rows, keys or vectors a kernel takes at once:
// a score is one chain of products and one tree of sums, a weighted sum one chain over keys.
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
constexpr int kScoreRows = HWY_MAX_BYTES == 64 ? 6 : 2;  // by 4 keys
constexpr int kValueRows = HWY_MAX_BYTES == 64 ? 8 : 4;

constexpr int64_t kLanes = hn::MaxLanes(DF());  // no target of ours has vectors of unknown size

template <typename T>
struct Codec;

template <>
struct Codec<float> {
  static constexpr int kVectors = 1;
  static int64_t Dim(int64_t place) { return place; }
  HWY_INLINE VF Load(DF d, const float* p, int) const { return hn::LoadU(d, p); }
};

template <>
struct Codec<Bf16> {
#if HWY_TARGET == HWY_SCALAR
  static constexpr int kVectors = 1;
  static int64_t Dim(int64_t place) { return place; }
  HWY_INLINE VF Load(DF d, const Bf16* p, int) const { return LoadFloats(d, p); }
#else
  static constexpr int kVectors = 2;  // even dimensions, odd ones
  static int64_t Dim(int64_t place) { return place % kLanes * 2 + place / kLanes; }
  HWY_INLINE VF Load(DF d, const Bf16* p, int v) const {
    const hn::Repartition<uint16_t, DF> d16;
    const hn::RebindToUnsigned<DF> d32;
    const auto pairs = hn::BitCast(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
    return hn::BitCast(d, v == 0 ? hn::ShiftLeft<16>(pairs) : hn::And(pairs, hn::Set(d32, 0xffff0000)));
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

// The sums of the lanes of four vectors, times `scale`.
HWY_INLINE void SumFour(const VF* v, float scale, float* to) {
  [[maybe_unused]] const DF d;
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 4; ++i) to[i] = hn::GetLane(v[i]) * scale;
#else
  // Within blocks of four lanes: two pairs of vectors at a time; then the blocks.
  const hn::Repartition<double, DF> pairs;
  const auto fold = [&](VF a, VF b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  };
  const auto ab = hn::BitCast(pairs, fold(v[0], v[1])), cd = hn::BitCast(pairs, fold(v[2], v[3]));
  const VF four = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, cd)),
                          hn::BitCast(d, hn::InterleaveUpper(pairs, ab, cd)));
#if HWY_MAX_BYTES == 64
  const hn::Half<DF> half;
  const hn::Half<hn::Half<DF>> block;
  const auto two = hn::Add(hn::LowerHalf(half, four), hn::UpperHalf(half, four));
  hn::StoreU(hn::Mul(hn::Add(hn::LowerHalf(block, two), hn::UpperHalf(block, two)), hn::Set(block, scale)), block, to);
#elif HWY_MAX_BYTES == 32
  const hn::Half<DF> block;
  hn::StoreU(hn::Mul(hn::Add(hn::LowerHalf(block, four), hn::UpperHalf(block, four)), hn::Set(block, scale)), block,
             to);
#else
  hn::StoreU(hn::Mul(four, hn::Set(d, scale)), d, to);
#endif
#endif
}

HWY_INLINE void Prefetch(const std::byte* from, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i);
}

// Into the second-level cache alone.
HWY_INLINE void PrefetchFar(const std::byte* from, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// e^x for x in [-87, 0], to about 1e-7 of it: 2^n e^r with |r| <= ln 2 / 2. Two parts of ln 2 and the polynomial as in
// Cephes' expf. Shorter than Highway's, which also takes what no softmax gives.
HWY_INLINE VF ExpOfNegative(VF x) {
  const DF d;
  const hn::RebindToSigned<DF> d32;
  const VF n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  // (e^r - 1 - r) / r^2
  VF p = hn::Set(d, 1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = hn::MulAdd(p, r, hn::Set(d, c));
  }
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  const auto bits = hn::Add(hn::BitCast(d32, p), hn::ShiftLeft<23>(hn::ConvertTo(d32, n)));
  return hn::BitCast(d, bits);
}

// Holds a value in a register that GCC would else load anew, as an operand, for every use.
HWY_INLINE void KeepLoaded([[maybe_unused]] VF& v) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  asm("" : "+v"(v.raw));
#endif
}

// scores[r][k] = q[r] . key[k] * scale for R rows (of `dim` floats in the codec's order) and the keys of a piece; may
// write three scores beyond it. Fetches `ahead`, a key for each key, unless it is null.
template <int R, typename T>
HWY_INLINE void Scores(const Codec<T>& codec, const float* q, const KvPiece& keys, int64_t dim, float scale,
                       float* scores, const KvPiece* ahead) {
  constexpr int kVectors = Codec<T>::kVectors;
  constexpr int kKeys = 4;
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
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        VF x[kKeys];
        for (int i = 0; i < kKeys; ++i) x[i] = codec.Load(d, key[i] + at, v);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          VF row = hn::LoadU(d, q + r * dim + at + v * kLanes);
          KeepLoaded(row);
          for (int i = 0; i < kKeys; ++i) sum[r][i] = hn::MulAdd(row, x[i], sum[r][i]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) SumFour(sum[r], scale, scores + r * kScoreStride + k);
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
      for (int i = 0; i < kSums; ++i) v[i] = codec.Load(d, values + i / kVectors * kVectors * kLanes, i % kVectors);
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

// fn(rows as a constant, first row) over all rows in runs of at most kMost; 8 rows are two runs of 4 rather than 6 and 2.
template <int kMost, typename Fn>
HWY_INLINE void ForRowRuns(int rows, Fn&& fn) {
  int row = 0;
  if constexpr (kMost >= 8) {
    for (; row + 8 <= rows; row += 8) fn(std::integral_constant<int, 8>(), row);
  }
  if constexpr (kMost >= 6) {
    for (; row + 6 <= rows && row + 8 != rows; row += 6) fn(std::integral_constant<int, 6>(), row);
  }
  if constexpr (kMost >= 4) {
    for (; row + 4 <= rows; row += 4) fn(std::integral_constant<int, 4>(), row);
  }
  for (; row + 2 <= rows; row += 2) fn(std::integral_constant<int, 2>(), row);
  if (row < rows) fn(std::integral_constant<int, 1>(), row);
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#endif
