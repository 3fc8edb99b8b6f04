#include "sampling/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sampling/row_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that a vector's mask bits lie in one word and a block is a whole number of vectors.
using D = hn::CappedTag<float, 16>;

RowScan ScanRow(const float* x, size_t n, float* block_max) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto unordered = hn::Zero(d);  // NaN once a NaN was met
  auto row_max = lowest;
  RowScan scan;
  bool tail_bad = false;
  const size_t whole = n / kMaxBlock;
  for (size_t b = 0; b < whole; ++b) {
    auto block = lowest;
    for (size_t i = 0; i < kMaxBlock; i += lanes) {
      const auto v = hn::LoadU(d, x + b * kMaxBlock + i);
      block = hn::Max(block, v);
      unordered = hn::IfThenElse(hn::Eq(v, v), unordered, v);
    }
    block_max[b] = hn::GetLane(hn::MaxOfLanes(d, block));
    row_max = hn::Max(row_max, block);
  }
  scan.max = hn::GetLane(hn::MaxOfLanes(d, row_max));
  if (whole * kMaxBlock < n) {
    float block = -std::numeric_limits<float>::infinity();
    for (size_t i = whole * kMaxBlock; i < n; ++i) {
      tail_bad |= std::isnan(x[i]);
      block = std::max(block, x[i]);
    }
    block_max[whole] = block;
    scan.max = std::max(scan.max, block);
  }
  const bool vector_bad = !hn::AllTrue(d, hn::Eq(unordered, unordered));
  scan.bad = vector_bad || tail_bad || scan.max == std::numeric_limits<float>::infinity();
  if (scan.bad) return scan;
  size_t b = 0;
  while (block_max[b] != scan.max) ++b;
  size_t i = b * kMaxBlock;
  while (x[i] != scan.max) ++i;
  scan.argmax = static_cast<int32_t>(i);
  return scan;
}

template <class Visit>
HWY_INLINE void ForEachExp(const float* x, size_t n, float max, float scale, const Visit& visit) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto max_v = hn::Set(d, max);
  const auto scale_v = hn::Set(d, scale);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    visit(i, v, hn::Exp(d, hn::Mul(hn::Sub(v, max_v), scale_v)));
  }
  if (i < n) {
    float rest[16];
    for (size_t k = 0; k < lanes; ++k) rest[k] = i + k < n ? x[i + k] : -std::numeric_limits<float>::infinity();
    const auto v = hn::LoadU(d, rest);
    visit(i, v, hn::Exp(d, hn::Mul(hn::Sub(v, max_v), scale_v)));
  }
}

double SumExp(const float* x, size_t n, float max, float scale, double* chunk_sums) {
  const D d;
  double total = 0;
  for (size_t begin = 0; begin < n; begin += kSumChunk) {
    auto sum = hn::Zero(d);
    ForEachExp(x + begin, std::min(kSumChunk, n - begin), max, scale,
               [&](size_t, auto, auto e) HWY_ATTR { sum = hn::Add(sum, e); });
    const double chunk = hn::GetLane(hn::SumOfLanes(d, sum));
    if (chunk_sums != nullptr) chunk_sums[begin / kSumChunk] = chunk;
    total += chunk;
  }
  return total;
}

void MassAbove(const float* x, size_t n, float max, float scale, const float* thresholds, double* mass) {
  const D d;
  std::fill(mass, mass + kMassThresholds, 0.0);
  for (size_t begin = 0; begin < n; begin += kSumChunk) {
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    ForEachExp(x + begin, std::min(kSumChunk, n - begin), max, scale, [&](size_t, auto v, auto e) HWY_ATTR {
      const auto above = [&](auto sum, size_t j) HWY_ATTR {
        return hn::Add(sum, hn::IfThenElseZero(hn::Ge(v, hn::Set(d, thresholds[j])), e));
      };
      s0 = above(s0, 0), s1 = above(s1, 1), s2 = above(s2, 2), s3 = above(s3, 3);
      s4 = above(s4, 4), s5 = above(s5, 5), s6 = above(s6, 6), s7 = above(s7, 7);
    });
    const decltype(s0)* sums[] = {&s0, &s1, &s2, &s3, &s4, &s5, &s6, &s7};
    for (size_t j = 0; j < kMassThresholds; ++j) mass[j] += hn::GetLane(hn::SumOfLanes(d, *sums[j]));
  }
}

void ExpRow(const float* x, size_t n, float max, float scale, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  ForEachExp(x, n, max, scale, [&](size_t i, auto, auto e) HWY_ATTR {
    if (i + lanes <= n) {
      hn::StoreU(e, d, out + i);
    } else {
      float rest[16];
      hn::StoreU(e, d, rest);
      std::copy(rest, rest + (n - i), out + i);
    }
  });
}

size_t Collect(const float* x, size_t n, float threshold, float* values, int32_t* indices) {
  const D d;
  const hn::RebindToSigned<D> di;
  const size_t lanes = hn::Lanes(d);
  const auto threshold_v = hn::Set(d, threshold);
  size_t count = 0, i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto keep = hn::Ge(v, threshold_v);
    if (hn::AllFalse(d, keep)) continue;
    hn::CompressStore(hn::Iota(di, static_cast<int32_t>(i)), hn::RebindMask(di, keep), di, indices + count);
    count += hn::CompressStore(v, keep, d, values + count);
  }
  for (; i < n; ++i) {
    if (!(x[i] >= threshold)) continue;
    values[count] = x[i];
    indices[count++] = static_cast<int32_t>(i);
  }
  return count;
}

size_t CountGreater(const float* x, size_t n, float value) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto value_v = hn::Set(d, value);
  size_t count = 0, i = 0;
  for (; i + lanes <= n; i += lanes) count += hn::CountTrue(d, hn::Gt(hn::LoadU(d, x + i), value_v));
  for (; i < n; ++i) count += x[i] > value;
  return count;
}

void MaskRow(float* x, size_t n, const uint32_t* bits) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const float lowest = -std::numeric_limits<float>::infinity();
  const auto lowest_v = hn::Set(d, lowest);
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const uint32_t word = bits[i / 32];
    if (word == ~uint32_t{0}) continue;
    for (size_t k = 0; k < 32; k += lanes) {
      const uint64_t part = word >> k;  // LoadMaskBits reads eight bytes
      uint8_t bytes[8];
      std::memcpy(bytes, &part, 8);
      const auto keep = hn::LoadMaskBits(d, bytes);
      hn::StoreU(hn::IfThenElse(keep, hn::LoadU(d, x + i + k), lowest_v), d, x + i + k);
    }
  }
  for (; i < n; ++i) {
    if (((bits[i / 32] >> (i % 32)) & 1) == 0) x[i] = lowest;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {

HWY_EXPORT(ScanRow);
HWY_EXPORT(SumExp);
HWY_EXPORT(MassAbove);
HWY_EXPORT(ExpRow);
HWY_EXPORT(Collect);
HWY_EXPORT(CountGreater);
HWY_EXPORT(MaskRow);

RowScan ScanRow(const float* x, size_t n, float* block_max) { return HWY_DYNAMIC_DISPATCH(ScanRow)(x, n, block_max); }
double SumExp(const float* x, size_t n, float max, float scale, double* chunk_sums) {
  return HWY_DYNAMIC_DISPATCH(SumExp)(x, n, max, scale, chunk_sums);
}
void MassAbove(const float* x, size_t n, float max, float scale, const float* thresholds, double* mass) {
  HWY_DYNAMIC_DISPATCH(MassAbove)(x, n, max, scale, thresholds, mass);
}
void ExpRow(const float* x, size_t n, float max, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(ExpRow)(x, n, max, scale, out);
}
size_t Collect(const float* x, size_t n, float threshold, float* values, int32_t* indices) {
  return HWY_DYNAMIC_DISPATCH(Collect)(x, n, threshold, values, indices);
}
size_t CountGreater(const float* x, size_t n, float value) {
  return HWY_DYNAMIC_DISPATCH(CountGreater)(x, n, value);
}
void MaskRow(float* x, size_t n, const uint32_t* bits) { HWY_DYNAMIC_DISPATCH(MaskRow)(x, n, bits); }

}  // namespace minimo
#endif  // HWY_ONCE
