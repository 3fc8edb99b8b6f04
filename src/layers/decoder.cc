#include "layers/decoder.h"

#include <algorithm>
#include <cstring>

#include "base/thread_team.h"
#include "ops/embedding/embedding.h"
#include "ops/linear/linear.h"
#include "ops/rms_norm/rms_norm.h"

namespace minimo {

Decoder::Decoder(const ModelSpec& spec, const DecoderWeights& weights, ThreadTeam& team)
    : spec_(spec), weights_(weights), team_(team) {
  for (int i = 0; i < spec.num_layers(); ++i) {
    const AttentionSpec& a = spec.layers[i].attention;
    attention_.emplace_back(i, a, spec.norm_eps, weights.layers[i]);
    const auto same = [&](const RopeBase& r) { return r.theta == a.rope_theta && r.rotary_dim == a.rotary_dim; };
    if (std::none_of(rope_.begin(), rope_.end(), same)) rope_.push_back({a.rope_theta, a.rotary_dim, {}});
  }
  expert_load_.assign(spec.layers.size(), std::vector<int64_t>(static_cast<size_t>(spec.moe.experts)));
}

const RopeTable& Decoder::RopeOf(const AttentionSpec& a) const {
  return std::find_if(rope_.begin(), rope_.end(), [&](const RopeBase& r) {
           return r.theta == a.rope_theta && r.rotary_dim == a.rotary_dim;
         })->table;
}

namespace {

StepContext MakeContext(const StepRecord& step, KvStorage& kv, ThreadTeam& team) {
  StepContext c{step, kv, team, static_cast<int64_t>(step.tokens.size()), {}, {}};
  c.positions.resize(step.tokens.size());
  for (const SequenceStep& s : step.sequences) {
    for (int32_t i = 0; i < s.num_tokens; ++i) {
      c.positions[static_cast<size_t>(s.first_token + i)] = s.past + i;
      if (i >= s.num_tokens - s.num_logits) c.logit_rows.push_back(s.first_token + i);
    }
  }
  return c;
}

}  // namespace

void Decoder::Forward(const StepRecord& step, KvStorage& kv, float* logits, ForwardCapture* capture) {
  kv.CopyBlocks(step.block_copies);
  kv.CopyRings(step.ring_restores);
  const StepContext c = MakeContext(step, kv, team_);
  const int64_t hidden = spec_.hidden;
  const size_t size = static_cast<size_t>(c.tokens * hidden);
  x_.Reserve(size);
  h_.Reserve(size);
  block_out_.Reserve(size);
  for (RopeBase& r : rope_) r.table.Build(r.theta, r.rotary_dim, c.positions);
  if (capture) capture->layers.assign(spec_.layers.size(), {});

  Embedding(weights_.embedding.view, step.tokens, x_.data());
  int64_t rows = c.tokens;  // of x_ still needed: in the last layer only those that give logits
  const auto norm = [&](const Vector& weight, const float* from, float* to) {
    RmsNormCpu({from, weight.data(), to, rows, hidden, hidden, hidden, spec_.norm_eps}, team_);
  };
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const LayerSpec& layer = spec_.layers[i];
    const LayerWeights& w = weights_.layers[i];
    const bool last = i + 1 == spec_.num_layers();
    norm(w.input_norm, x_.data(), h_.data());
    attention_[i].Forward(c, RopeOf(layer.attention), h_.data(), hidden, last, &attention_scratch_, block_out_.data());
    if (last) {
      rows = static_cast<int64_t>(c.logit_rows.size());
      for (int64_t r = 0; r < rows; ++r) {  // rows move up, in order
        std::memmove(x_.data() + r * hidden, x_.data() + c.logit_rows[r] * hidden, hidden * sizeof(float));
      }
    }
    for (int64_t n = 0; n < rows * hidden; ++n) x_[n] += block_out_[n];
    norm(w.post_attention_norm, x_.data(), h_.data());
    if (layer.moe) {
      MoeFfn(spec_.moe, w, team_, h_.data(), rows, hidden, &ffn_scratch_, expert_load_[i].data(), x_.data());
    } else {
      DenseFfn(w.dense, team_, h_.data(), rows, hidden, &ffn_scratch_, x_.data());
    }
    if (capture) Capture(c, i, rows, capture);
  }
  norm(weights_.final_norm, x_.data(), h_.data());
  const LinearTask head{weights_.lm_head.view, h_.data(), hidden, nullptr, logits, spec_.vocab, nullptr, rows};
  LinearCpu({&head, 1}, team_);
  kv.CopyRings(step.ring_snapshots);
}

void Decoder::Capture(const StepContext& c, int layer, int64_t rows, ForwardCapture* capture) const {
  ForwardCapture::Layer& to = capture->layers[layer];
  const auto keep = [&](int64_t row) {
    to.hidden.insert(to.hidden.end(), x_.data() + row * spec_.hidden, x_.data() + (row + 1) * spec_.hidden);
    if (!spec_.layers[layer].moe) return;
    const int64_t k = spec_.moe.top_k;
    const auto experts = ffn_scratch_.experts.begin() + row * k;
    const auto weights = ffn_scratch_.weights.begin() + row * k;
    to.router_index.insert(to.router_index.end(), experts, experts + k);
    to.router_weight.insert(to.router_weight.end(), weights, weights + k);
  };
  if (rows == static_cast<int64_t>(c.logit_rows.size())) {
    for (int64_t r = 0; r < rows; ++r) keep(r);
  } else {
    for (const int32_t r : c.logit_rows) keep(r);
  }
}

}  // namespace minimo
