// The layers of a step that brings one token a sequence.
#include <algorithm>

#include "cuda/forward_cuda.h"
#include "cuda/kernels/batch_linear.cuh"

namespace minimo::cuda {
int Forward::SplitsOf(const AttentionSpec& a, int splits) {
  return a.window > 0 ? std::clamp(a.window / 64, 1, splits) : splits;
}

int DecodeSplits(const ModelSpec& spec, int tokens, int longest_context) {
  int kv_heads = spec.layers[0].attention.kv_heads;
  for (const LayerSpec& l : spec.layers) kv_heads = std::min(kv_heads, l.attention.kv_heads);
  const int fill = 2 * kMultiprocessors / (tokens * kv_heads), useful = longest_context / 128;
  int splits = 1;
  while (splits < kMaxSplits && splits < fill && splits < useful) splits *= 2;
  return splits;
}

Status Forward::Decode(const Step& s) const {
  if (s.tokens == 1 && decode_one_) return DecodeOne(s);
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    LinearParams qkv = QkvOf(i, s.own, squares), output = OutputOf(i, s.own.count);
    qkv.split_made = SplitsInput(i, s), output.split_made = SplitsAttended(i, s);
    MINIMO_TRY(Run(qkv, s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    MINIMO_TRY(DecodeAttention(i, s));
    MINIMO_TRY(RunToResidual(output, Of::kOwn, s));
    MINIMO_TRY(spec_.layers[i].moe ? DecodeExperts(i, s) : Dense(i, s));
    squares = SquaresAfter(i, s.tokens);
  }
  return {};
}

bool Forward::SplitsInput(int layer, const Step& s) const {
  if (!s.decode || f32_ || exchange_ != nullptr || layer == spec_.num_layers()) return false;
  return (layer == 0 || spec_.layers[layer - 1].moe) && PrefersBatchSplit(QkvOf(layer, s.own, {}));
}

bool Forward::SplitsAttended(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  return s.decode && !f32_ && exchange_ == nullptr &&
         HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim) &&
         PrefersBatchSplit(OutputOf(layer, s.tokens));
}

Status Forward::DecodeAttention(int layer, const Step& s) const {
  if (s.own.count == 0) return {};
  const AttentionSpec& a = spec_.layers[layer].attention;
  if (f32_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    MINIMO_CUDA_TRY(LaunchRope(RopeOf(layer, s), f32_, s.stream));
    return ToStatus(LaunchAttentionSimple(AttentionOf(layer, s), f32_, s.stream), "attention");
  }
  return SinglesAttention(layer, s);
}

Status Forward::SinglesAttention(int layer, const Step& s) const {
  AttentionParams p = AttentionOf(layer, s);
  p.tokens = s.singles;
  p.splits = SplitsOf(spec_.layers[layer].attention, s.splits);
  if (SplitsAttended(layer, s)) p.split = OutputOf(layer, s.tokens).split;
  RopeParams rope = RopeOf(layer, s);
  if (QkvInBf16(layer, s)) rope.qkv_bf16 = rope.qkv;
  return ToStatus(LaunchAttentionDecode(p, rope, s.stream), "attention");
}

ExpertsParams Forward::ExpertsOf(int layer, const RouterParams& r, bool gate_up) const {
  const DeviceLayer& d = weights_.layer(layer);
  const DeviceMatrix& m = gate_up ? d.gate_up : d.down;
  ExpertsParams p;
  p.gate_up = gate_up;
  SetWeights(m, &p);
  p.experts = r.experts;
  p.tokens = r.tokens;
  p.top_k = r.top_k;
  p.num_active = r.num_active;
  p.active = r.active;
  p.offsets = r.offsets;
  p.slot_token = r.slot_token;
  p.slot_weight = r.slot_weight;
  if (r.choices_only) {
    p.chosen = r.chosen, p.chosen_weight = r.chosen_weight;
    p.slot_of = r.slot_of, p.expert_load = r.expert_load;
  }
  p.cols = m.cols;
  p.rows = r.rows;
  p.input = w_.At<float>(w_.decode_hidden);
  p.input_stride = w_.hidden_stride_moe;
  p.out = gate_up ? w_.At<float>(w_.decode_hidden) : w_.At<float>(w_.expert_out);
  p.out_stride = gate_up ? w_.hidden_stride_moe : spec_.hidden;
  p.out_rows = m.rows;
  return p;
}

Status Forward::SumExperts(int layer, const RouterParams& r, const Step& s) const {
  RowParams row = SumOf(layer, r);
  if (SplitsInput(layer + 1, s)) row.split = QkvOf(layer + 1, s.own, {}).split;
  return ToStatus(LaunchRow(row, f32_, s.stream), "sum of the experts");
}

Status Forward::DecodeExperts(int layer, const Step& s) const {
  RouterParams r = RouterOf(layer, s.tokens);
  float* squares = w_.At<float>(w_.tile_squares[1]);
  const bool streams = !f32_ && (s.tokens > 1 || exchange_ != nullptr) && CanRouteBatch(r) &&
                       CanStreamExperts(ExpertsOf(layer, r, true)) && CanStreamExperts(ExpertsOf(layer, r, false));
  if (streams) {
    const TileShape& shape = weights_.layer(layer).gate_up.shape;
    r.rows = w_.At<uint8_t>(w_.expert_rows);
    r.row_units = shape.units, r.rows_int4 = shape.format == TileFormat::kInt4;
    r.choices_only = exchange_ == nullptr && CanListChoices(ExpertsOf(layer, r, true));
  }
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));
  MINIMO_TRY(KeepLocalExperts(r, s));
  if (streams) {
    MINIMO_CUDA_TRY(LaunchStreamExperts(ExpertsOf(layer, r, true), s.stream));
    MINIMO_CUDA_TRY(LaunchStreamExperts(ExpertsOf(layer, r, false), s.stream));
    if (exchange_ != nullptr) return AddParts({Of::kAll, r.slot_of}, NormAfter(layer), squares, s);
    return SumExperts(layer, r, s);
  }
  MINIMO_TRY(Run(GateUpOf(layer, r), s.stream));
  LinearParams down = DownOf(layer, r);
  if (s.tokens > 1 || weights_.experts_here() < r.experts) {
    MINIMO_TRY(Run(down, s.stream));
    if (exchange_ != nullptr) return AddParts({Of::kAll, r.slot_of}, NormAfter(layer), squares, s);
    return SumExperts(layer, r, s);
  }
  down.mode = LinearMode::kFusedDown;
  ToResidual(NormAfter(layer), squares, &down);
  return RunToResidual(down, Of::kAll, s);
}

}  // namespace minimo::cuda
