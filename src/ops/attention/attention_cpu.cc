// One task is one query token and one KV head: the query heads of the group share each key and value that is read.
// Softmax runs online over tiles of kAttentionTile absolute positions.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/attention/attention.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

// Load gives one vector of KV elements as float32, times kUnit.
struct F32Kv {
  using T = float;
  static HWY_INLINE VF Load(DF d, const T* p) { return hn::LoadU(d, p); }
  static float One(T x) { return x; }
};
struct Bf16Kv {
  using T = Bf16;
  static HWY_INLINE VF Load(DF d, const T* p) {
    const hn::Rebind<uint16_t, DF> d16;
    const hn::RebindToUnsigned<DF> d32;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)))));
  }
  static float One(T x) { return ToFloat(x); }
};
struct Fp8Kv {
  using T = Fp8E4M3;
  static HWY_INLINE VF Load(DF d, const T* p) {  // through fp16's fields, see ops/linear/linear_cpu.cc
    const hn::Rebind<uint8_t, DF> d8;
    const hn::Rebind<uint16_t, DF> d16;
    const hn::Rebind<hwy::float16_t, DF> dh;
    const auto code = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(p)));
    const auto magnitude = hn::ShiftLeft<7>(hn::And(code, hn::Set(d16, 0x7f)));
    const auto sign = hn::ShiftLeft<8>(hn::And(code, hn::Set(d16, 0x80)));
    return hn::Mul(hn::PromoteTo(d, hn::BitCast(dh, hn::Or(magnitude, sign))), hn::Set(d, 256.0f));
  }
  static float One(T x) { return ToFloat(x); }
};

struct Scratch {
  std::vector<float> scores;  // [group, kAttentionTile]
  std::vector<float> sums;    // [group, v_head_dim]
  std::vector<float> max;     // [group]
  std::vector<float> total;   // [group]
};

template <class Kv>
HWY_INLINE float Dot(const float* q, const typename Kv::T* k, int64_t size) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) sum = hn::MulAdd(hn::LoadU(d, q + i), Kv::Load(d, k + i), sum);
  float dot = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < size; ++i) dot += q[i] * Kv::One(k[i]);
  return dot;
}

template <class Kv>
HWY_INLINE void AddScaled(float weight, const typename Kv::T* v, int64_t size, float* sum) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF w = hn::Set(d, weight);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) hn::StoreU(hn::MulAdd(w, Kv::Load(d, v + i), hn::LoadU(d, sum + i)), d, sum + i);
  for (; i < size; ++i) sum[i] += weight * Kv::One(v[i]);
}

// Calls fn(segment, begin, end) for the parts of [from, to) in order.
template <typename Fn>
HWY_INLINE void ForParts(const AttentionSequence& s, int32_t from, int32_t to, Fn&& fn) {
  auto segment = std::upper_bound(s.segments.begin(), s.segments.end(), from,
                                  [](int32_t position, const KvSegment& g) { return position < g.first; });
  for (--segment; from < to; ++segment) {
    const int32_t end = std::min(to, segment->first + segment->count);
    fn(*segment, from, end);
    from = end;
  }
}

template <class Kv>
void QueryGroup(const AttentionArgs& a, const AttentionSequence& s, int32_t i, int kv_head, Scratch* scratch) {
  using T = typename Kv::T;
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int group = a.heads / a.kv_heads;
  const int32_t position = s.past + i;
  const int32_t first = a.window > 0 ? std::max(0, position - a.window + 1) : 0;
  const float scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  const float* q = a.q + (s.first_token + i) * a.q_stride + int64_t{kv_head} * group * a.head_dim;
  float* out = a.out + (s.first_token + i) * a.out_stride + int64_t{kv_head} * group * a.v_head_dim;

  std::fill_n(scratch->sums.data(), group * a.v_head_dim, 0.0f);
  for (int g = 0; g < group; ++g) {  // the sink is a key without a value
    scratch->max[g] = a.sinks ? a.sinks[kv_head * group + g] : -std::numeric_limits<float>::infinity();
    scratch->total[g] = a.sinks ? 1.0f : 0.0f;
  }
  for (int32_t tile = first / kAttentionTile * kAttentionTile; tile <= position; tile += kAttentionTile) {
    const int32_t from = std::max(tile, first);
    const int32_t to = std::min(tile + kAttentionTile, position + 1);
    ForParts(s, from, to, [&](const KvSegment& seg, int32_t begin, int32_t end) {
      const T* k = reinterpret_cast<const T*>(seg.k) + kv_head * seg.k_head_stride;
      for (int32_t j = begin; j < end; ++j) {
        const T* key = k + int64_t{j - seg.first} * a.head_dim;
        for (int g = 0; g < group; ++g) {
          scratch->scores[g * kAttentionTile + j - from] = Dot<Kv>(q + g * a.head_dim, key, a.head_dim) * scale;
        }
      }
    });
    const int32_t count = to - from;
    for (int g = 0; g < group; ++g) {
      float* scores = scratch->scores.data() + g * kAttentionTile;
      const float old_max = scratch->max[g];
      float max = old_max;
      for (int32_t j = 0; j < count; ++j) max = std::max(max, scores[j]);
      const VF shift = hn::Set(d, max);
      std::fill(scores + count, scores + kAttentionTile, -std::numeric_limits<float>::infinity());
      VF sum = hn::Zero(d);
      for (int32_t j = 0; j < kAttentionTile; j += static_cast<int32_t>(lanes)) {
        const VF e = hn::Exp(d, hn::Max(hn::Sub(hn::LoadU(d, scores + j), shift), hn::Set(d, -104.0f)));
        hn::StoreU(e, d, scores + j);
        if (j + lanes <= count) {
          sum = hn::Add(sum, e);
        } else if (j < count) {
          sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(count - j)), e));
        }
      }
      const float keep = std::exp(old_max - max);  // 0 in the first tile without a sink
      scratch->total[g] = scratch->total[g] * keep + hn::GetLane(hn::SumOfLanes(d, sum));
      scratch->max[g] = max;
      if (keep != 1.0f) {
        for (int v = 0; v < a.v_head_dim; ++v) scratch->sums[g * a.v_head_dim + v] *= keep;
      }
    }
    ForParts(s, from, to, [&](const KvSegment& seg, int32_t begin, int32_t end) {
      const T* v = reinterpret_cast<const T*>(seg.v) + kv_head * seg.v_head_stride;
      for (int32_t j = begin; j < end; ++j) {
        const T* value = v + int64_t{j - seg.first} * a.v_head_dim;
        for (int g = 0; g < group; ++g) {
          AddScaled<Kv>(scratch->scores[g * kAttentionTile + j - from], value, a.v_head_dim,
                        scratch->sums.data() + g * a.v_head_dim);
        }
      }
    });
  }
  for (int g = 0; g < group; ++g) {
    for (int v = 0; v < a.v_head_dim; ++v) {
      out[g * a.v_head_dim + v] = scratch->sums[g * a.v_head_dim + v] / scratch->total[g];
    }
  }
}

void AttendOne(const AttentionArgs& a, const AttentionSequence& s, int32_t i, int kv_head) {
  thread_local Scratch scratch;
  const int group = a.heads / a.kv_heads;
  scratch.scores.resize(static_cast<size_t>(group) * kAttentionTile);
  scratch.sums.resize(static_cast<size_t>(group) * a.v_head_dim);
  scratch.max.resize(static_cast<size_t>(group));
  scratch.total.resize(static_cast<size_t>(group));
  if (a.kv_dtype == DType::kF32) return QueryGroup<F32Kv>(a, s, i, kv_head, &scratch);
  if (a.kv_dtype == DType::kBf16) return QueryGroup<Bf16Kv>(a, s, i, kv_head, &scratch);
  return QueryGroup<Fp8Kv>(a, s, i, kv_head, &scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {
namespace {
HWY_EXPORT(AttendOne);
}  // namespace

void AttentionCpu(const AttentionArgs& a, ThreadTeam& team) {
  const auto attend = HWY_DYNAMIC_DISPATCH(AttendOne);
  int64_t tokens = 0;
  for (const AttentionSequence& s : a.sequences) tokens += s.num_tokens;
  // Tasks are handed out one by one: late tokens of a long prompt see more keys than early ones.
  std::vector<std::pair<const AttentionSequence*, int32_t>> queries;
  queries.reserve(static_cast<size_t>(tokens));
  for (const AttentionSequence& s : a.sequences)
    for (int32_t i = 0; i < s.num_tokens; ++i) queries.emplace_back(&s, i);
  team.ParallelForDynamic(tokens * a.kv_heads, [&](int64_t task) {
    const auto& [sequence, i] = queries[static_cast<size_t>(task / a.kv_heads)];
    attend(a, *sequence, i, static_cast<int>(task % a.kv_heads));
  });
}

}  // namespace minimo
#endif
