// The layers of a step that brings one token alone. The residual stream is float32 and so is all that goes between the
// products. A product that is split leaves partial sums, which the next kernels add to the residual they read: the
// stream moves from one buffer to the other each time one of them writes the sum.
#include <cmath>

#include "cuda/forward_cuda.h"

namespace minimo::cuda {

OneParams Forward::One(const DeviceMatrix& m, OneMode mode) const {
  OneParams p;
  p.mode = mode;
  SetWeights(m, &p);
  p.cols = m.cols;
  p.norm_eps = static_cast<float>(spec_.norm_eps);
  p.out_rows = m.rows;
  p.partial_stride = spec_.hidden;
  return p;
}

OneParams Forward::QkvOne(int layer) const {
  const DeviceLayer& d = weights_.layer(layer);
  OneParams p = One(d.qkv, OneMode::kDense);
  p.norm_weight = weights_.Floats(d.input_norm);
  p.out = w_.At<float>(w_.qkv);
  if (d.q_norm.offset >= 0) p.squares = w_.At<float>(w_.qkv_squares);
  return p;
}

OneParams Forward::OutputOne(int layer) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  OneParams p = One(weights_.layer(layer).o, OneMode::kDense);
  p.epilogue = OneEpilogue::kPartial;
  p.splits = StreamTokenSplits(p.mode, p.shape, 0);
  p.input_bf16 = !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim);
  p.input = p.input_bf16 ? w_.At(w_.attended) : w_.At(w_.one_attended);
  p.out = w_.At<float>(w_.one_attention_partial);
  p.out_stride = spec_.hidden;
  return p;
}

OneParams Forward::GateUpOne(int layer) const {
  const DeviceLayer& d = weights_.layer(layer);
  const bool moe = spec_.layers[layer].moe;
  OneParams p = One(d.gate_up, moe ? OneMode::kGateUp : OneMode::kDense);
  p.epilogue = OneEpilogue::kSwiGlu;
  p.norm_weight = weights_.Floats(d.post_norm);
  p.out = w_.At<float>(w_.one_hidden);
  p.out_stride = moe ? w_.hidden_stride_moe : w_.hidden_stride_dense;
  if (!moe) return p;
  p.operands = w_.At<uint8_t>(w_.one_operands);
  p.square_sum = w_.At<float>(w_.one_squares);
  p.choice.experts = spec_.moe.experts;
  p.choice.top_k = spec_.moe.top_k;
  p.choice.groups = spec_.moe.groups;
  p.choice.top_groups = spec_.moe.top_groups;
  p.choice.logits = w_.At<float>(w_.router_logits);
  p.choice.bias = probe_ != nullptr ? probe_->biases(layer) : weights_.Floats(d.router_bias);
  p.choice.renormalise = spec_.moe.renormalise;
  p.choice.renormalise_epsilon = static_cast<float>(spec_.moe.renormalise_epsilon);
  p.choice.scale = static_cast<float>(spec_.moe.scale);
  p.choice.expert_load = w_.At<long long>(w_.expert_load) + int64_t{layer} * spec_.moe.experts;
  return p;
}

// What goes before `up` in a layer of experts, with its input.
RouterOneParams Forward::RouterOne(int layer, const OneParams& up) const {
  RouterOneParams r;
  r.experts = spec_.moe.experts;
  r.hidden = spec_.hidden;
  r.residual = static_cast<const float*>(up.input);
  r.partial = up.partial;
  r.partials = up.partials;
  r.norm_weight = up.norm_weight;
  r.norm_eps = up.norm_eps;
  r.weights = weights_.Floats(weights_.layer(layer).router);
  r.bias = up.choice.bias;
  r.logits = w_.At<float>(w_.router_logits);
  r.format = up.shape.format;
  r.units = up.shape.units;
  r.group_cols = up.shape.group_cols;
  r.places = StreamTokenPlaces(up);
  r.operands = w_.At<uint8_t>(w_.one_operands);
  r.square_sum = w_.At<float>(w_.one_squares);
  r.sum_out = up.sum_out;
  return r;
}

OneParams Forward::DownOne(int layer) const {
  const OneParams up = GateUpOne(layer);
  OneParams p = One(weights_.layer(layer).down, spec_.layers[layer].moe ? OneMode::kDown : OneMode::kDense);
  p.choice = up.choice;
  p.epilogue = OneEpilogue::kPartial;
  p.splits = StreamTokenSplits(p.mode, p.shape, p.choice.top_k);
  p.input = up.out;
  p.input_stride = up.out_stride;
  p.out = w_.At<float>(w_.one_expert_partial);
  p.out_stride = spec_.hidden;
  return p;
}

bool Forward::CanDecodeOne() const {
  if (f32_ || weights_.experts_here() < spec_.moe.experts) return false;
  bool can = CanStreamToken(One(weights_.head(), OneMode::kDense));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    for (const OneParams& p : {QkvOne(i), OutputOne(i), GateUpOne(i), DownOne(i)}) can = can && CanStreamToken(p);
  }
  return can;
}

Status Forward::DecodeOne(const Step& s) const {
  if (exchange_ != nullptr) return DecodeOneOnRanks(s);
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  float* residual[2] = {w_.At<float>(w_.residual), w_.At<float>(w_.one_residual)};
  int now = 0, partials = 0;  // the stream is residual[now] and that many partial sums of the experts
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const bool moe = spec_.layers[i].moe;
    OneParams qkv = QkvOne(i);
    qkv.input = residual[now];
    qkv.partial = w_.At<float>(w_.one_expert_partial);
    qkv.partials = partials;
    if (partials > 0) now ^= 1, qkv.sum_out = residual[now];
    MINIMO_CUDA_TRY(LaunchStreamToken(qkv, s.stream));
    MINIMO_TRY(AttentionOne(i, s));
    const OneParams o = OutputOne(i);
    MINIMO_CUDA_TRY(LaunchStreamToken(o, s.stream));
    OneParams up = GateUpOne(i);
    up.input = residual[now];
    up.partial = o.out;
    up.partials = o.splits;
    now ^= 1;
    up.sum_out = residual[now];
    if (moe) MINIMO_CUDA_TRY(LaunchRouterOne(RouterOne(i, up), s.stream));
    MINIMO_CUDA_TRY(LaunchStreamToken(up, s.stream));
    const OneParams down = DownOne(i);
    MINIMO_CUDA_TRY(LaunchStreamToken(down, s.stream));
    partials = down.splits;
  }
  return {};
}

Status Forward::AttentionOne(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  const RopeParams rope = RopeOf(layer, s);
  AttentionParams p = AttentionOf(layer, s);
  if (!HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    MINIMO_CUDA_TRY(LaunchRope(rope, f32_, s.stream));
    return ToStatus(LaunchAttentionSimple(p, f32_, s.stream), "attention");
  }
  p.out = w_.At(w_.one_attended);
  p.out_f32 = true;
  p.splits = SplitsOf(a, s.splits);
  return ToStatus(LaunchAttentionOne(p, rope, s.stream), "attention");
}

Status Forward::HeadOne(cudaStream_t stream) const {
  // Each layer moves the stream twice, the first only once.
  OneParams head = One(weights_.head(), OneMode::kDense);
  head.norm_weight = weights_.Floats(weights_.final_norm());
  if (exchange_ != nullptr) {
    head.input = w_.At(w_.residual);
    head.out = exchange_->local_logits();
    return ToStatus(LaunchStreamToken(head, stream), "head");
  }
  head.input = w_.At(w_.one_residual);
  head.partial = w_.At<float>(w_.one_expert_partial);
  head.partials = DownOne(spec_.num_layers() - 1).splits;
  head.out = w_.At<float>(w_.logits);
  return ToStatus(LaunchStreamToken(head, stream), "head");
}

}  // namespace minimo::cuda
