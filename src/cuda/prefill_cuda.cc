// The layers of a step that brings several tokens of some sequence (so never one token alone).
#include <algorithm>

#include "cuda/forward_cuda.h"

namespace minimo::cuda {

Status Forward::Prefill(const Step& s) const {
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    MINIMO_TRY(Run(QkvOf(i, s.tokens, squares), s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    MINIMO_TRY(PrefillAttention(i, s));
    MINIMO_TRY(RunToResidual(OutputOf(i, s.tokens), s));
    MINIMO_TRY(spec_.layers[i].moe ? PrefillExperts(i, s) : Dense(i, s));
    squares = SquaresAfter(i, s.tokens);
  }
  return {};
}

Status Forward::PrefillAttention(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  // New tokens of a ring layer may overrun the rows that earlier ones of the same step still need.
  const bool fresh = a.window > 0;
  RopeParams rope = RopeOf(layer, s);
  AttentionParams p = AttentionOf(layer, s);
  if (fresh) {
    rope.fresh_k = w_.At(w_.fresh_k), rope.fresh_v = w_.At(w_.fresh_v);
    p.fresh_k = rope.fresh_k, p.fresh_v = rope.fresh_v;
  }
  MINIMO_CUDA_TRY(LaunchRope(rope, f32_, s.stream));
  if (f32_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    MINIMO_CUDA_TRY(LaunchAttentionSimple(p, f32_, s.stream));
  } else {
    const auto group = std::find(layout_.groups.begin(), layout_.groups.end(), a.heads / a.kv_heads);
    const int index = static_cast<int>(group - layout_.groups.begin());
    p.tiles = reinterpret_cast<const PrefillTile*>(s.packed + layout_.Tiles(index));
    p.num_tiles = s.tiles[index];
    MINIMO_CUDA_TRY(LaunchAttentionPrefill(p, s.stream));
  }
  if (!fresh) return {};
  MINIMO_CUDA_TRY(LaunchRingWrite(p.k, p.fresh_k, s.tokens, s.meta, s.stream));
  return ToStatus(LaunchRingWrite(p.v, p.fresh_v, s.tokens, s.meta, s.stream), "ring write");
}

Status Forward::PrefillExperts(int layer, const Step& s) const {
  const RouterParams r = RouterOf(layer, s.tokens);
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));
  MINIMO_TRY(KeepLocalExperts(r, s));
  MINIMO_TRY(Run(GateUpOf(layer, r), s.stream));
  MINIMO_TRY(Run(DownOf(layer, r), s.stream));
  if (exchange_ != nullptr) return AddParts({r.slot_of}, NormAfter(layer), w_.At<float>(w_.tile_squares[1]), s);
  return ToStatus(LaunchRow(SumOf(layer, r), f32_, s.stream), "sum of the experts");
}

}  // namespace minimo::cuda
