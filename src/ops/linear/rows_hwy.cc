// Any format and shape, any ISA. Dot products with the lanes along the columns. Each (row, token) pair has one
// accumulator chain per scale block and one for the row, so tiles of any shape give the same bits. Weights are decoded
// in registers for few tokens; for many, a panel of rows is decoded once into the second-level cache and reused for
// every token. FP8's unit is folded into the block scale.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear/rows_hwy.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <vector>

#include "base/float_types.h"
#include "ops/linear/row_kernels.h"
#include "ops/number_formats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = FloatTag;
using VF = FloatVector;

constexpr int kRowTile = 4;
constexpr int kTokenTile = 4;
constexpr int kDirectTokens = 4;   // up to here weights are decoded in registers
constexpr int kPanelRows = 32;     // 32 rows x 4096 columns x 4 B = 512 KB: half of a 1 MB second-level cache

// Per format: Load gives one vector of codes as float32, One gives a single code, kUnit scale factor to restore.
struct F32Codes {
  using T = float;
  static HWY_INLINE VF Load(DF d, const T* row, int64_t c) { return hn::LoadU(d, row + c); }
  static float One(const T* row, int64_t c) { return row[c]; }
  static constexpr float kRestore = 1.0f;
};
struct Bf16Codes {
  using T = Bf16;
  static HWY_INLINE VF Load(DF d, const T* row, int64_t c) { return LoadFloats(d, row + c); }
  static float One(const T* row, int64_t c) { return ToFloat(row[c]); }
  static constexpr float kRestore = 1.0f;
};
struct Fp16Codes {
  using T = Fp16;
  static HWY_INLINE VF Load(DF d, const T* row, int64_t c) {
    const hn::Rebind<hwy::float16_t, DF> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(row + c)));
  }
  static float One(const T* row, int64_t c) { return ToFloat(row[c]); }
  static constexpr float kRestore = 1.0f;
};
struct Fp8Codes {
  using T = Fp8E4M3;
  static HWY_INLINE VF Load(DF d, const T* row, int64_t c) { return LoadFp8Units(d, row + c); }
  static float One(const T* row, int64_t c) { return ToFloat(row[c]) * kFp8Unit; }
  static constexpr float kRestore = kFp8Restore;
};
struct Int4Codes {  // T is a byte: two columns
  using T = uint8_t;
  static HWY_INLINE VF Load(DF d, const T* row, int64_t c) {
    if constexpr (hn::MaxLanes(DF()) == 1) return hn::Set(d, One(row, c));
    const T* p = row + c / 2;  // whole vectors begin at even columns: groups are even, slices too
    const hn::Rebind<uint16_t, hn::Half<DF>> d16;
    const hn::Rebind<uint8_t, hn::Half<DF>> d8;
    const hn::Rebind<uint8_t, DF> d8_all;
    const hn::RebindToSigned<DF> d32;
    const auto pair = hn::PromoteTo(d16, hn::LoadU(d8, p));
    const auto apart = hn::Or(hn::And(pair, hn::Set(d16, 0x0f)), hn::ShiftLeft<4>(hn::And(pair, hn::Set(d16, 0xf0))));
    const auto codes = hn::PromoteTo(d32, hn::BitCast(d8_all, apart));
    return hn::ConvertTo(d, hn::Sub(codes, hn::Set(d32, 8)));
  }
  static float One(const T* row, int64_t c) {
    return static_cast<float>((c % 2 ? row[c / 2] >> 4 : row[c / 2] & 0xf) - 8);
  }
  static constexpr float kRestore = 1.0f;
};

// Columns [begin, end) that share one scale.
struct Segment {
  int64_t begin, end;
  int64_t scale;  // column of the scale grid
};

// Calls fn(segment) over the columns of a weight: one for all if there are no scales.
template <typename Fn>
HWY_INLINE void ForSegments(const WeightView& w, Fn&& fn) {
  if (w.group_scales != nullptr) {
    for (int64_t c = 0; c < w.cols; c += w.group_size) {
      fn(Segment{c, std::min<int64_t>(c + w.group_size, w.cols), c / w.group_size});
    }
    return;
  }
  if (w.scales == nullptr) {
    fn(Segment{0, w.cols, 0});
    return;
  }
  for (int64_t c = 0; c < w.cols;) {
    const int64_t block = (w.first_col + c) / kScaleBlock;
    const int64_t end = std::min<int64_t>((block + 1) * kScaleBlock - w.first_col, w.cols);
    fn(Segment{c, end, block});
    c = end;
  }
}

HWY_INLINE float ScaleOf(const WeightView& w, int64_t row, const Segment& s) {
  if (w.group_scales != nullptr) return ToFloat(w.group_scales[row * w.scale_stride + s.scale]);
  return w.scales != nullptr ? w.ScaleRow(row)[s.scale] : 1.0f;
}

// out[r, t] for R rows of codes and T tokens. Codes: F32Codes for a decoded panel, else the weight's own.
template <class Codes, int R, int T>
HWY_INLINE void Tile(const WeightView& w, int64_t row, const typename Codes::T* const* codes, const float* const* x,
                     float restore, float (*out)[T]) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF total[R][T];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) total[r][t] = hn::Zero(d);
  ForSegments(w, [&](const Segment& s) HWY_ATTR {
    VF sum[R][T];
    for (int r = 0; r < R; ++r)
      for (int t = 0; t < T; ++t) sum[r][t] = hn::Zero(d);
    int64_t c = s.begin;
    for (; c + lanes <= s.end; c += lanes) {
      VF wv[R];
      for (int r = 0; r < R; ++r) wv[r] = Codes::Load(d, codes[r], c);
      for (int t = 0; t < T; ++t) {
        const VF xv = hn::LoadU(d, x[t] + c);
        for (int r = 0; r < R; ++r) sum[r][t] = hn::MulAdd(wv[r], xv, sum[r][t]);
      }
    }
    if (c < s.end) {  // zero-padded copies of what is left
      HWY_ALIGN float wt[R][HWY_MAX_BYTES / 4] = {};
      HWY_ALIGN float xt[HWY_MAX_BYTES / 4] = {};
      for (int r = 0; r < R; ++r)
        for (int64_t i = c; i < s.end; ++i) wt[r][i - c] = Codes::One(codes[r], i);
      for (int t = 0; t < T; ++t) {
        for (int64_t i = c; i < s.end; ++i) xt[i - c] = x[t][i];
        const VF xv = hn::Load(d, xt);
        for (int r = 0; r < R; ++r) sum[r][t] = hn::MulAdd(hn::Load(d, wt[r]), xv, sum[r][t]);
      }
    }
    for (int r = 0; r < R; ++r) {
      const VF scale = hn::Set(d, ScaleOf(w, row + r, s) * restore);
      for (int t = 0; t < T; ++t) total[r][t] = hn::MulAdd(sum[r][t], scale, total[r][t]);
    }
  });
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) out[r][t] = hn::GetLane(hn::SumOfLanes(d, total[r][t]));
}

// One row tile against all tokens in [0, n).
template <class Codes, int R>
void TokensOfTile(const LinearTask& task, int64_t row, const typename Codes::T* const* codes, float restore) {
  int64_t t = 0;
  const auto run = [&]<int T>(std::integral_constant<int, T>) HWY_ATTR {
    const float* x[T];
    float out[R][T];
    for (int i = 0; i < T; ++i) x[i] = task.X(t + i);
    Tile<Codes, R, T>(task.weight, row, codes, x, restore, out);
    for (int i = 0; i < T; ++i)
      for (int r = 0; r < R; ++r) task.Out(t + i)[row + r] = out[r][i];
    t += T;
  };
  while (t + kTokenTile <= task.tokens) run(std::integral_constant<int, kTokenTile>());
  while (t < task.tokens) run(std::integral_constant<int, 1>());
}

template <class Codes>
void Decode(const typename Codes::T* codes, int64_t count, float* out) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= count; c += lanes) hn::StoreU(Codes::Load(d, codes, c), d, out + c);
  for (; c < count; ++c) out[c] = Codes::One(codes, c);
}

// Rows [begin, end) of one task.
template <class Codes>
void Rows(const LinearTask& task, int64_t begin, int64_t end, std::vector<float>* panel) {
  using T = typename Codes::T;
  const WeightView& w = task.weight;
  const auto row_codes = [&](int64_t r) { return reinterpret_cast<const T*>(w.Row(r)); };
  if (task.tokens <= kDirectTokens) {
    for (int64_t r = begin; r < end;) {
      const T* codes[kRowTile];
      const int64_t tile = std::min<int64_t>(kRowTile, end - r);
      for (int64_t i = 0; i < tile; ++i) codes[i] = row_codes(r + i);
      if (tile == kRowTile) {
        TokensOfTile<Codes, kRowTile>(task, r, codes, Codes::kRestore);
        r += kRowTile;
      } else {
        TokensOfTile<Codes, 1>(task, r, codes, Codes::kRestore);
        r += 1;
      }
    }
    return;
  }
  panel->resize(static_cast<size_t>(kPanelRows * w.cols));
  for (int64_t first = begin; first < end; first += kPanelRows) {
    const int64_t count = std::min<int64_t>(kPanelRows, end - first);
    for (int64_t i = 0; i < count; ++i) Decode<Codes>(row_codes(first + i), w.cols, panel->data() + i * w.cols);
    // Token tiles outermost, so that a tile of x stays in the first-level cache over the panel's rows.
    for (int64_t t = 0; t < task.tokens; t += kTokenTile) {
      LinearTask part = task;
      const int64_t n = std::min<int64_t>(kTokenTile, task.tokens - t);
      part.tokens = n;
      part.x = task.x_rows ? task.x : task.x + t * task.x_stride;
      part.out = task.out_rows ? task.out : task.out + t * task.out_stride;
      part.x_rows = task.x_rows ? task.x_rows + t : nullptr;
      part.out_rows = task.out_rows ? task.out_rows + t : nullptr;
      for (int64_t i = 0; i < count;) {
        const float* codes[kRowTile];
        const int64_t tile = std::min<int64_t>(kRowTile, count - i);
        for (int64_t j = 0; j < tile; ++j) codes[j] = panel->data() + (i + j) * w.cols;
        if (tile == kRowTile) {
          TokensOfTile<F32Codes, kRowTile>(part, first + i, codes, Codes::kRestore);
          i += kRowTile;
        } else {
          TokensOfTile<F32Codes, 1>(part, first + i, codes, Codes::kRestore);
          i += 1;
        }
      }
    }
  }
}

void LinearRows(const LinearTask& task, int64_t begin, int64_t end, std::vector<float>* panel) {
  switch (task.weight.format) {
    case WeightFormat::kF32: return Rows<F32Codes>(task, begin, end, panel);
    case WeightFormat::kF16: return Rows<Fp16Codes>(task, begin, end, panel);
    case WeightFormat::kBf16: return Rows<Bf16Codes>(task, begin, end, panel);
    case WeightFormat::kFp8Block: return Rows<Fp8Codes>(task, begin, end, panel);
    case WeightFormat::kInt4Group: return Rows<Int4Codes>(task, begin, end, panel);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {

HWY_EXPORT(LinearRows);

void LinearRowsHwy(const LinearTask& task, int64_t begin, int64_t end) {
  thread_local std::vector<float> panel;
  HWY_DYNAMIC_DISPATCH(LinearRows)(task, begin, end, &panel);
}

}  // namespace minimo
#endif
