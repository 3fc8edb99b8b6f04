// Products and sums are not contracted in this file (-ffp-contract=off): with fused ones the bits would depend on what
// the machine has.
#include "convert/encode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "convert/encode.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "ops/number_formats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = FloatTag;
using VF = FloatVector;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;

constexpr float kFp8Max = 448.0f;
constexpr float kInt4Max = 7.0f;
constexpr int kBatch = 16;  // groups searched side by side, a lane each: the widest vectors' float32 lanes

// The upper half of the result is bf16 to nearest even; NaN stays NaN.
VU RoundedToBf16(VF x) {
  const DU du;
  const auto u = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1));
  const auto rounded = hn::Add(hn::Add(u, hn::Set(du, 0x7fff)), odd);
  const auto quiet = hn::Or(u, hn::Set(du, 0x400000));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), quiet, rounded);
}

// e4m3 bits of each value, as ToFp8E4M3.
VU Fp8Bits(DF d, VF x) {
  const DU du;
  const auto magnitude = hn::Min(hn::Abs(x), hn::Set(d, kFp8Max));
  const auto u = hn::BitCast(du, magnitude);
  const auto odd = hn::And(hn::ShiftRight<20>(u), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<20>(hn::Add(hn::Add(u, hn::Set(du, 0x7ffff)), odd));
  const auto normal = hn::Sub(rounded, hn::Set(du, 120u << 3));
  const auto ulp = hn::Set(d, 0x1p14f);  // of float32 here: 2^-9, a subnormal's
  const auto small = hn::Sub(hn::BitCast(du, hn::Add(magnitude, ulp)), hn::BitCast(du, ulp));
  const auto finite = hn::IfThenElse(hn::RebindMask(du, hn::Lt(magnitude, hn::Set(d, 0x1p-6f))), small, normal);
  const auto code = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Set(du, 0x7f), finite);
  return hn::Or(code, hn::And(hn::ShiftRight<24>(hn::BitCast(du, x)), hn::Set(du, 0x80)));
}

void DecodeFp8(const Fp8E4M3* codes, int64_t count, float scale, float* out) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto restored = hn::Set(d, scale * kFp8Restore), quiet = hn::BitCast(d, hn::Set(DU(), 0x7fc00000u));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto units = LoadFp8Units(d, codes + i);
    const auto nan = hn::Eq(hn::Abs(units), hn::Set(d, 480 * kFp8Unit));  // the code after 448
    hn::StoreU(hn::IfThenElse(nan, hn::CopySign(quiet, units), hn::Mul(units, restored)), d, out + i);
  }
  for (; i < count; ++i) out[i] = ToFloat(codes[i]) * scale;
}

void DecodeFp8Row(const WeightView& w, int64_t row, float* out) {
  const auto* codes = reinterpret_cast<const Fp8E4M3*>(w.Row(row));
  const float* scales = w.scales ? w.ScaleRow(row) : nullptr;
  for (int64_t c = 0; c < w.cols;) {
    const int64_t block = (w.first_col + c) / kScaleBlock;
    const int64_t end = std::min<int64_t>((block + 1) * kScaleBlock - w.first_col, w.cols);
    DecodeFp8(codes + c, end - c, scales ? scales[block] : 1.0f, out + c);
    c = end;
  }
}

void DecodeInt4Row(const WeightView& w, int64_t row, float* out) {
  const DF d;
  const DI di;
  const hn::Rebind<uint8_t, DF> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.Row(row));
  const Bf16* scales = w.group_scales + row * w.scale_stride;
  for (int64_t c = 0; c < w.cols; c += 2 * lanes) {  // groups are multiples of the widest pair of vectors
    const auto scale = hn::Set(d, ToFloat(scales[c / w.group_size]));
    const auto pairs = hn::PromoteTo(di, hn::LoadU(d8, bytes + c / 2));
    const auto eight = hn::Set(di, 8);
    const auto low = hn::ConvertTo(d, hn::Sub(hn::And(pairs, hn::Set(di, 0xf)), eight));
    const auto high = hn::ConvertTo(d, hn::Sub(hn::ShiftRight<4>(pairs), eight));
    hn::StoreInterleaved2(hn::Mul(low, scale), hn::Mul(high, scale), d, out + c);
  }
}

void DecodeBf16Row(const WeightView& w, int64_t row, float* out) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto* values = reinterpret_cast<const Bf16*>(w.Row(row));
  int64_t c = 0;
  for (; c + lanes <= w.cols; c += lanes) hn::StoreU(LoadFloats(d, values + c), d, out + c);
  for (; c < w.cols; ++c) out[c] = ToFloat(values[c]);
}

template <typename T>
void DecodePlainRow(const WeightView& w, int64_t row, float* out) {
  for (int64_t c = 0; c < w.cols; ++c) out[c] = ToFloat(reinterpret_cast<const T*>(w.Row(row))[c]);
}

void DecodeRowOf(const WeightView& w, int64_t row, float* out) {
  switch (w.format) {
    case WeightFormat::kF32: return DecodePlainRow<float>(w, row, out);
    case WeightFormat::kF16: return DecodePlainRow<Fp16>(w, row, out);
    case WeightFormat::kBf16: return DecodeBf16Row(w, row, out);
    case WeightFormat::kFp8Block: return DecodeFp8Row(w, row, out);
    case WeightFormat::kInt4Group: return DecodeInt4Row(w, row, out);
  }
}

void ManyToBf16(const float* values, int64_t count, Bf16* out) {
  const DF d;
  const hn::Rebind<uint16_t, DF> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto upper = hn::ShiftRight<16>(RoundedToBf16(hn::LoadU(d, values + i)));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), upper)), d16, reinterpret_cast<uint16_t*>(out + i));
  }
  for (; i < count; ++i) out[i] = ToBf16(values[i]);
}

float MaxMagnitude(const float* x, int64_t count) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto most = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) most = hn::Max(most, hn::Abs(hn::LoadU(d, x + i)));
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  for (; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

void ManyToFp8(const float* x, int64_t count, float scale, Fp8E4M3* out) {
  const DF d;
  const hn::Rebind<uint8_t, DF> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto code = Fp8Bits(d, hn::Div(hn::LoadU(d, x + i), hn::Set(d, scale)));
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(DI(), code)), d8, reinterpret_cast<uint8_t*>(out + i));
  }
  for (; i < count; ++i) out[i] = ToFp8E4M3(x[i] / scale);
}

void Fp8Band(const float* values, int64_t rows, int64_t cols, Fp8E4M3* codes, float* scales) {
  for (int64_t c = 0, block = 0; c < cols; c += kScaleBlock, ++block) {
    const int64_t width = std::min<int64_t>(kScaleBlock, cols - c);
    float largest = 0;
    for (int64_t r = 0; r < rows; ++r) largest = std::max(largest, MaxMagnitude(values + r * cols + c, width));
    scales[block] = largest > 0 ? largest / kFp8Max : 1.0f;
    for (int64_t r = 0; r < rows; ++r) ManyToFp8(values + r * cols + c, width, scales[block], codes + r * cols + c);
  }
}

// x: [kInt4Group, kBatch], value i of group g at [i][g]. The best scale of the groups from `lane` on.
VF BestScale(const float* x, int64_t lane) {
  const DF d;
  const auto at = [&](int i) { return hn::Abs(hn::Load(d, x + i * kBatch + lane)); };
  auto largest = hn::Zero(d);
  for (int i = 0; i < kInt4Group; ++i) largest = hn::Max(largest, at(i));
  const auto most = hn::Set(d, kInt4Max), whole = hn::Div(largest, most);
  auto least = hn::Inf(d), best = hn::Set(d, 1.0f);
  const auto candidate = [&](int i) {
    const float fraction = 1.0f - (1.0f - kInt4SmallestFraction) * static_cast<float>(i) / (kInt4Candidates - 1);
    const auto scale = RoundedToBf16(hn::Mul(whole, hn::Set(d, fraction)));
    return hn::BitCast(d, hn::And(scale, hn::Set(DU(), 0xffff0000u)));
  };
  const auto squared = [&](VF magnitude, VF scale, VF inverse) {
    const auto code = hn::Min(hn::Round(hn::Mul(magnitude, inverse)), most);
    const auto off = hn::Sub(hn::Mul(code, scale), magnitude);
    return hn::Mul(off, off);
  };
  const auto keep = [&](VF scale, VF error) {
    const auto better = hn::And(hn::Lt(error, least), hn::Gt(scale, hn::Zero(d)));  // 0: a group of subnormals
    least = hn::IfThenElse(better, error, least);
    best = hn::IfThenElse(better, scale, best);
  };
  static_assert(kInt4Candidates % 4 == 0);
  for (int i = 0; i < kInt4Candidates; i += 4) {  // four sums hide the latency of one
    const auto a = candidate(i), b = candidate(i + 1), c = candidate(i + 2), e = candidate(i + 3);
    const auto one = hn::Set(d, 1.0f);
    const auto over_a = hn::Div(one, a), over_b = hn::Div(one, b), over_c = hn::Div(one, c), over_e = hn::Div(one, e);
    auto of_a = hn::Zero(d), of_b = of_a, of_c = of_a, of_e = of_a;
    for (int j = 0; j < kInt4Group; ++j) {
      const auto magnitude = at(j);
      of_a = hn::Add(of_a, squared(magnitude, a, over_a));
      of_b = hn::Add(of_b, squared(magnitude, b, over_b));
      of_c = hn::Add(of_c, squared(magnitude, c, over_c));
      of_e = hn::Add(of_e, squared(magnitude, e, over_e));
    }
    keep(a, of_a);
    keep(b, of_b);
    keep(c, of_c);
    keep(e, of_e);
  }
  return best;
}

// Up to kBatch groups.
void Int4Batch(const float* values, int64_t groups, uint8_t* packed, Bf16* scales) {
  const DF d;
  const DI di;
  const hn::Rebind<uint8_t, DF> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  alignas(64) float x[kInt4Group * kBatch];
  alignas(64) float best[kBatch];
  alignas(64) uint8_t bytes[kInt4Group / 2 * kBatch];
  if (groups < kBatch) std::fill(std::begin(x), std::end(x), 0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    for (int i = 0; i < kInt4Group; ++i) x[i * kBatch + g] = values[g * kInt4Group + i];
  }
  for (int64_t lane = 0; lane < kBatch; lane += lanes) {
    const auto scale = BestScale(x, lane), inverse = hn::Div(hn::Set(d, 1.0f), scale);
    hn::Store(scale, d, best + lane);
    const auto nibble = [&](int i) {
      const auto code = hn::Round(hn::Mul(hn::Load(d, x + i * kBatch + lane), inverse));
      const auto clamped = hn::Min(hn::Max(code, hn::Set(d, -kInt4Max)), hn::Set(d, kInt4Max));
      return hn::Add(hn::ConvertTo(di, clamped), hn::Set(di, 8));
    };
    for (int i = 0; i < kInt4Group; i += 2) {
      const auto pair = hn::Or(nibble(i), hn::ShiftLeft<4>(nibble(i + 1)));
      hn::StoreU(hn::DemoteTo(d8, pair), d8, bytes + i / 2 * kBatch + lane);
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    scales[g] = ToBf16(best[g]);
    for (int i = 0; i < kInt4Group / 2; ++i) packed[g * kInt4Group / 2 + i] = bytes[i * kBatch + g];
  }
}

void ManyToInt4(const float* values, int64_t groups, uint8_t* packed, Bf16* scales) {
  for (int64_t g = 0; g < groups; g += kBatch) {
    Int4Batch(values + g * kInt4Group, std::min<int64_t>(kBatch, groups - g), packed + g * kInt4Group / 2, scales + g);
  }
}

void SumSquares(const float* values, const float* made, int64_t count, double* error, double* norm) {
  const hn::Half<DF> half;
  const hn::Rebind<double, hn::Half<DF>> dd;
  const auto lanes = static_cast<int64_t>(hn::Lanes(half));
  auto e = hn::Zero(dd), n = hn::Zero(dd);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::PromoteTo(dd, hn::LoadU(half, values + i));
    const auto off = hn::Sub(hn::PromoteTo(dd, hn::LoadU(half, made + i)), x);
    e = hn::Add(e, hn::Mul(off, off));
    n = hn::Add(n, hn::Mul(x, x));
  }
  *error += hn::GetLane(hn::SumOfLanes(dd, e));
  *norm += hn::GetLane(hn::SumOfLanes(dd, n));
  for (; i < count; ++i) {
    const double off = double{made[i]} - values[i];
    *error += off * off;
    *norm += double{values[i]} * values[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {

HWY_EXPORT(DecodeRowOf);
HWY_EXPORT(ManyToBf16);
HWY_EXPORT(Fp8Band);
HWY_EXPORT(ManyToInt4);
HWY_EXPORT(SumSquares);

void DecodeRows(const WeightView& w, int64_t begin, int64_t end, float* out) {
  for (int64_t row = begin; row < end; ++row, out += w.cols) HWY_DYNAMIC_DISPATCH(DecodeRowOf)(w, row, out);
}

void EncodeBf16(const float* values, int64_t count, Bf16* out) { HWY_DYNAMIC_DISPATCH(ManyToBf16)(values, count, out); }

void EncodeFp8Band(const float* values, int64_t rows, int64_t cols, Fp8E4M3* codes, float* scales) {
  HWY_DYNAMIC_DISPATCH(Fp8Band)(values, rows, cols, codes, scales);
}

void EncodeInt4(const float* values, int64_t groups, uint8_t* packed, Bf16* scales) {
  HWY_DYNAMIC_DISPATCH(ManyToInt4)(values, groups, packed, scales);
}

void AddSquares(const float* values, const float* made, int64_t count, double* error, double* norm) {
  HWY_DYNAMIC_DISPATCH(SumSquares)(values, made, count, error, norm);
}

}  // namespace minimo
#endif
