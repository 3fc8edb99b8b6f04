#include "layers/attention_layer.h"

#include <algorithm>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/attention/attention.h"
#include "ops/linear/linear.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rms_norm/sliced_rms_norm.h"

namespace minimo {
namespace {

// rows x dim floats with a row stride, rounded to the cache's dtype and packed.
void Round(const float* from, int64_t stride, int64_t rows, int64_t dim, DType dtype, std::byte* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = from + r * stride;
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t at = r * dim + i;
      if (dtype == DType::kF32) reinterpret_cast<float*>(to)[at] = x[i];
      if (dtype == DType::kBf16) reinterpret_cast<Bf16*>(to)[at] = ToBf16(x[i]);
      if (dtype == DType::kF8E4M3) reinterpret_cast<Fp8E4M3*>(to)[at] = ToFp8E4M3(x[i]);
    }
  }
}

}  // namespace

// Both statistics in one exchange; KV heads that several ranks hold are counted by one of them (PITFALLS 13 to 15).
Status AttentionLayer::NormSlices(const StepContext& c, AttentionScratch* scratch) const {
  const int64_t stride = qkv_size();
  float* q = scratch->qkv.data();
  float* k = q + spec_.q_size();
  float* sums = (scratch->norm_sums.assign(static_cast<size_t>(c.tokens) * 2, 0.0f), scratch->norm_sums.data());
  SumSquares(q, c.tokens, spec_.q_size(), stride, sums, 2);
  if (c.share.heads[layer_].counts_kv) SumSquares(k, c.tokens, spec_.k_size(), stride, sums + 1, 2);
  MINIMO_TRY(c.share.Sum(scratch->norm_sums));
  const auto& whole = c.share.whole[layer_];
  SlicedRmsNorm({q, weights_.q_norm.data(), sums, c.tokens, spec_.q_size(), stride, 2, whole.q, norm_eps_});
  SlicedRmsNorm({k, weights_.k_norm.data(), sums + 1, c.tokens, spec_.k_size(), stride, 2, whole.k, norm_eps_});
  return {};
}

void AttentionLayer::FinishTokens(const StepContext& c, const RopeTable& rope, int64_t begin, int64_t end,
                                  AttentionScratch* scratch) const {
  static ThreadTeam alone(1);  // this is one member's part of a region already
  const int64_t stride = qkv_size(), tokens = end - begin;
  float* q = scratch->qkv.data() + begin * stride;
  float* k = q + spec_.q_size();
  float* v = k + spec_.k_size();
  if (spec_.qk_norm && c.share.alone()) {
    RmsNormCpu({q, weights_.q_norm.data(), q, tokens, spec_.q_size(), stride, stride, norm_eps_}, alone);
    RmsNormCpu({k, weights_.k_norm.data(), k, tokens, spec_.k_size(), stride, stride, norm_eps_}, alone);
  }
  if (spec_.value_scale != 1.0f) {
    for (int64_t t = 0; t < tokens; ++t)
      for (int i = 0; i < spec_.v_size(); ++i) v[t * stride + i] *= spec_.value_scale;
  }
  RopeCpu({q, tokens, stride, spec_.heads, spec_.head_dim, &rope, begin}, alone);
  RopeCpu({k, tokens, stride, spec_.kv_heads, spec_.head_dim, &rope, begin}, alone);
  Stage(c, begin, end, scratch);
}

// Keys and values of tokens [begin, end) in the cache's dtype, [kv_heads, num_tokens, dim] a sequence.
void AttentionLayer::Stage(const StepContext& c, int64_t begin, int64_t end, AttentionScratch* scratch) const {
  const DType dtype = c.kv.dtype();
  const int64_t element = SizeOf(dtype), stride = qkv_size();
  for (const SequenceStep& s : c.step.sequences) {
    const int64_t from = std::max<int64_t>(begin, s.first_token);
    const int64_t count = std::min<int64_t>(end, s.first_token + s.num_tokens) - from;
    if (count <= 0) continue;
    const int64_t row = from - s.first_token;  // of its new tokens
    for (int64_t head = 0; head < spec_.kv_heads; ++head) {
      const float* k = scratch->qkv.data() + from * stride + spec_.q_size() + head * spec_.head_dim;
      const float* v = scratch->qkv.data() + from * stride + spec_.q_size() + spec_.k_size() + head * spec_.v_head_dim;
      const int64_t k_at = int64_t{s.first_token} * spec_.k_size() + (head * s.num_tokens + row) * spec_.head_dim;
      const int64_t v_at = int64_t{s.first_token} * spec_.v_size() + (head * s.num_tokens + row) * spec_.v_head_dim;
      Round(k, stride, count, spec_.head_dim, dtype, scratch->k.data() + k_at * element);
      Round(v, stride, count, spec_.v_head_dim, dtype, scratch->v.data() + v_at * element);
    }
  }
}

Status AttentionLayer::Project(const StepContext& c, const RopeTable& rope, const float* x, int64_t hidden,
                               AttentionScratch* scratch) const {
  const int64_t stride = qkv_size(), element = SizeOf(c.kv.dtype());
  scratch->qkv.Reserve(static_cast<size_t>(c.tokens * stride));
  scratch->k.Reserve(static_cast<size_t>(c.tokens * spec_.k_size() * element));
  scratch->v.Reserve(static_cast<size_t>(c.tokens * spec_.v_size() * element));
  float* q = scratch->qkv.data();
  float* k = q + spec_.q_size();
  float* v = k + spec_.k_size();
  const LinearTask tasks[] = {{weights_.q.view, x, hidden, nullptr, q, stride, nullptr, c.tokens},
                              {weights_.k.view, x, hidden, nullptr, k, stride, nullptr, c.tokens},
                              {weights_.v.view, x, hidden, nullptr, v, stride, nullptr, c.tokens}};
  LinearCpu(tasks, c.team);
  if (spec_.qk_norm && !c.share.alone()) MINIMO_TRY(NormSlices(c, scratch));
  c.team.ParallelFor(c.tokens, 1, [&](int64_t begin, int64_t end) { FinishTokens(c, rope, begin, end, scratch); });
  return {};
}

void AttentionLayer::Attend(const StepContext& c, bool last_rows_only, AttentionScratch* scratch) const {
  const int64_t element = SizeOf(c.kv.dtype());
  const bool sliding = spec_.window > 0;
  const auto& sequences = c.step.sequences;
  scratch->sequences.resize(sequences.size());
  const auto new_k = [&](const SequenceStep& s) {
    return scratch->k.data() + int64_t{s.first_token} * spec_.k_size() * element;
  };
  const auto new_v = [&](const SequenceStep& s) {
    return scratch->v.data() + int64_t{s.first_token} * spec_.v_size() * element;
  };
  const auto store = [&] {
    c.team.ParallelForDynamic(static_cast<int64_t>(sequences.size()), [&](int64_t i) {
      const SequenceStep& s = sequences[static_cast<size_t>(i)];
      c.kv.Store(layer_, c.step, s, new_k(s), int64_t{s.num_tokens} * spec_.head_dim, new_v(s),
                 int64_t{s.num_tokens} * spec_.v_head_dim);
    });
  };
  // A ring is overwritten by what is stored, so sliding layers attend to [ring | new] and store afterwards.
  if (!sliding) store();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceStep& s = sequences[i];
    AttentionSequence& a = scratch->sequences[i];
    const int32_t skipped = last_rows_only ? s.num_tokens - s.num_logits : 0;
    a.first_token = s.first_token + skipped;
    a.num_tokens = s.num_tokens - skipped;
    a.past = s.past + skipped;
    a.segments.clear();
    c.kv.AppendSegments(layer_, c.step, s, !sliding, &a.segments);
    if (sliding) {
      a.segments.push_back({new_k(s), new_v(s), int64_t{s.num_tokens} * spec_.head_dim,
                            int64_t{s.num_tokens} * spec_.v_head_dim, s.past, s.num_tokens});
    }
  }
  AttentionArgs args;
  args.q = scratch->qkv.data();
  args.q_stride = qkv_size();
  args.out = scratch->attended.data();
  args.out_stride = spec_.o_size();
  args.heads = spec_.heads;
  args.kv_heads = spec_.kv_heads;
  args.head_dim = spec_.head_dim;
  args.v_head_dim = spec_.v_head_dim;
  args.window = spec_.window;
  args.sinks = spec_.sink ? weights_.sinks.data() : nullptr;
  args.kv_dtype = c.kv.dtype();
  args.sequences = scratch->sequences;
  AttentionCpu(args, c.team);
  if (sliding) store();
}

Status AttentionLayer::Forward(const StepContext& c, const RopeTable& rope, const float* x, int64_t hidden,
                               bool last_rows_only, AttentionScratch* scratch, float* out) const {
  const int64_t rows = last_rows_only ? static_cast<int64_t>(c.logit_rows.size()) : c.tokens;
  const std::span<float> answer(out, static_cast<size_t>(rows * hidden));
  MINIMO_TRY(Project(c, rope, x, hidden, scratch));
  if (spec_.heads == 0) {  // more ranks than heads
    std::fill(answer.begin(), answer.end(), 0.0f);
    return c.share.Sum(answer);
  }
  scratch->attended.Reserve(static_cast<size_t>(c.tokens * spec_.o_size()));
  Attend(c, last_rows_only, scratch);
  LinearTask task{weights_.o.view, scratch->attended.data(), spec_.o_size(), nullptr, out, hidden, nullptr, c.tokens};
  if (last_rows_only) {
    task.x_rows = c.logit_rows.data();
    task.tokens = static_cast<int64_t>(c.logit_rows.size());
  }
  LinearCpu({&task, 1}, c.team);
  return c.share.Sum(answer);
}

}  // namespace minimo
