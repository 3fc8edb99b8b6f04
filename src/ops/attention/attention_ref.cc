#include <algorithm>
#include <cmath>

#include "base/float_types.h"
#include "ops/attention/attention.h"

namespace minimo {
namespace {

float Element(DType dtype, const std::byte* base, int64_t i) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(base)[i];
  if (dtype == DType::kBf16) return ToFloat(reinterpret_cast<const Bf16*>(base)[i]);
  return ToFloat(reinterpret_cast<const Fp8E4M3*>(base)[i]);
}

const KvSegment& SegmentOf(const AttentionSequence& s, int32_t position) {
  return *std::find_if(s.segments.begin(), s.segments.end(),
                       [&](const KvSegment& g) { return position < g.first + g.count; });
}

void OneHead(const AttentionArgs& a, const AttentionSequence& s, int32_t i, int head) {
  const int kv_head = head / (a.heads / a.kv_heads);
  const int32_t position = s.past + i;
  const int32_t first = a.window > 0 ? std::max(0, position - a.window + 1) : 0;
  const float* q = a.q + (s.first_token + i) * a.q_stride + int64_t{head} * a.head_dim;
  std::vector<double> scores;
  for (int32_t j = first; j <= position; ++j) {
    const KvSegment& g = SegmentOf(s, j);
    double dot = 0;
    for (int d = 0; d < a.head_dim; ++d) {
      dot += double{q[d]} * Element(a.kv_dtype, g.k, kv_head * g.k_head_stride + int64_t{j - g.first} * a.head_dim + d);
    }
    scores.push_back(dot / std::sqrt(static_cast<double>(a.head_dim)));
  }
  double max = *std::max_element(scores.begin(), scores.end());
  if (a.sinks) max = std::max(max, double{a.sinks[head]});
  double sum = a.sinks ? std::exp(a.sinks[head] - max) : 0;
  for (double& score : scores) sum += score = std::exp(score - max);
  float* out = a.out + (s.first_token + i) * a.out_stride + int64_t{head} * a.v_head_dim;
  for (int d = 0; d < a.v_head_dim; ++d) {
    double value = 0;
    for (int32_t j = first; j <= position; ++j) {
      const KvSegment& g = SegmentOf(s, j);
      value += scores[j - first] *
               Element(a.kv_dtype, g.v, kv_head * g.v_head_stride + int64_t{j - g.first} * a.v_head_dim + d);
    }
    out[d] = static_cast<float>(value / sum);
  }
}

}  // namespace

void AttentionRef(const AttentionArgs& a) {
  for (const AttentionSequence& s : a.sequences)
    for (int32_t i = 0; i < s.num_tokens; ++i)
      for (int head = 0; head < a.heads; ++head) OneHead(a, s, i, head);
}

}  // namespace minimo
