// The layers of a step that brings one token a sequence.
#include <algorithm>

#include "cuda/forward_cuda.h"

namespace minimo::cuda {
namespace {

int SplitsOf(const AttentionSpec& a, int decode_splits) {
  return a.window > 0 ? std::clamp(a.window / 64, 1, decode_splits) : decode_splits;
}

}  // namespace

int DecodeSplits(const ModelSpec& spec, int tokens, int longest_context) {
  int kv_heads = spec.layers[0].attention.kv_heads;
  for (const LayerSpec& l : spec.layers) kv_heads = std::min(kv_heads, l.attention.kv_heads);
  const int fill = 2 * kMultiprocessors / (tokens * kv_heads), useful = longest_context / 128;
  int splits = 1;
  while (splits < kMaxSplits && splits < fill && splits < useful) splits *= 2;
  return splits;
}

Status Forward::Decode(const Step& s) const {
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    MINIMO_TRY(Run(QkvOf(i, s.tokens, squares), s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    MINIMO_TRY(DecodeAttention(i, s));
    MINIMO_TRY(RunToResidual(OutputOf(i, s.tokens), s));
    MINIMO_TRY(spec_.layers[i].moe ? DecodeExperts(i, s) : Dense(i, s));
    squares = SquaresAfter(i, s.tokens);
  }
  return {};
}

Status Forward::DecodeAttention(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  MINIMO_CUDA_TRY(LaunchRope(RopeOf(layer, s), f32_, s.stream));
  AttentionParams p = AttentionOf(layer, s);
  if (f32_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    return ToStatus(LaunchAttentionSimple(p, f32_, s.stream), "attention");
  }
  p.splits = SplitsOf(a, s.decode_splits);
  p.partial = w_.At<float>(w_.partial);
  p.partial_max = w_.At<float>(w_.partial_max);
  p.partial_sum = w_.At<float>(w_.partial_sum);
  p.counters = w_.At<int>(w_.attention_counters);
  return ToStatus(LaunchAttentionDecode(p, s.stream), "attention");
}

Status Forward::DecodeExperts(int layer, const Step& s) const {
  const RouterParams r = RouterOf(layer, s.tokens);
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));
  MINIMO_TRY(KeepLocalExperts(r, s));
  MINIMO_TRY(Run(GateUpOf(layer, r), s.stream));
  LinearParams down = DownOf(layer, r);
  if (s.tokens > 1 || weights_.experts_here() < r.experts) {
    MINIMO_TRY(Run(down, s.stream));
    if (exchange_ != nullptr) return AddParts(r.slot_of, NormAfter(layer), w_.At<float>(w_.tile_squares[1]), s);
    return ToStatus(LaunchRow(SumOf(layer, r), f32_, s.stream), "sum of the experts");
  }
  down.mode = LinearMode::kFusedDown;
  down.epilogue = Epilogue::kResidual;
  down.residual = w_.At<float>(w_.residual);
  down.next_norm = NormAfter(layer);
  down.next_x = w_.At(w_.x);
  down.next_x_stride = w_.x_stride;
  down.next_square_sums = w_.At<float>(w_.tile_squares[1]);
  return RunToResidual(down, s);
}

}  // namespace minimo::cuda
