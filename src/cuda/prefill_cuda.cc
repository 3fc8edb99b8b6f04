// The layers of a step that brings several tokens of some sequence (so never one token alone). Sequences that bring one
// have attention as in a decode step, and come first.
#include <algorithm>

#include "cuda/forward_cuda.h"

namespace minimo::cuda {

Status Forward::Prefill(const Step& s) const {
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    MINIMO_TRY(Run(QkvOf(i, s.own, squares), s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    MINIMO_TRY(PrefillAttention(i, s));
    MINIMO_TRY(RunToResidual(OutputOf(i, s.own.count), Of::kOwn, s));
    MINIMO_TRY(spec_.layers[i].moe ? PrefillExperts(i, s) : Dense(i, s));
    squares = SquaresAfter(i, s.tokens);
  }
  return {};
}

namespace {

// Without the first `count` tokens.
void Skip(int count, TokenMeta* meta) {
  for (const int** of : {&meta->position, &meta->block_table, &meta->ring, &meta->past, &meta->last}) *of += count;
}
void Skip(int count, const AttentionParams& a, RopeParams* r) {
  const auto skip = [&](void** p, int64_t bytes) {
    if (*p != nullptr) *p = static_cast<uint8_t*>(*p) + count * bytes;
  };
  r->tokens -= count;
  r->qkv += int64_t{count} * r->qkv_stride;
  if (r->qkv_bf16 != nullptr) {
    r->qkv_bf16 = static_cast<const uint16_t*>(r->qkv_bf16) + int64_t{count} * r->qkv_stride;
  }
  r->square_sums += int64_t{count} * r->square_sum_count;
  if (r->norm_sums != nullptr) r->norm_sums += int64_t{count} * 2;
  skip(&r->q, int64_t{r->heads} * r->head_dim * 2);
  skip(&r->fresh_k, int64_t{r->kv_heads} * r->head_dim * a.k.element_bytes);
  skip(&r->fresh_v, int64_t{r->kv_heads} * r->v_head_dim * a.v.element_bytes);
  skip(&r->wide_k, int64_t{r->kv_heads} * r->head_dim * 2);
  skip(&r->wide_v, int64_t{r->kv_heads} * r->v_head_dim * 2);
  Skip(count, &r->meta);
}

}  // namespace

Status Forward::PrefillAttention(int layer, const Step& s) const {
  if (s.own.count == 0) return {};
  const AttentionSpec& a = spec_.layers[layer].attention;
  // New tokens of a ring layer may overrun the rows that earlier ones of the same step still need.
  const bool fresh = a.window > 0;
  RopeParams rope = RopeOf(layer, s);
  AttentionParams p = AttentionOf(layer, s);
  if (fresh) {
    rope.fresh_k = w_.At(w_.fresh_k), rope.fresh_v = w_.At(w_.fresh_v);
    p.fresh_k = rope.fresh_k, p.fresh_v = rope.fresh_v;
  }
  if (QkvInBf16(layer, s)) rope.qkv_bf16 = rope.qkv;
  if (f32_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    MINIMO_CUDA_TRY(LaunchRope(rope, f32_, s.stream));
    MINIMO_CUDA_TRY(LaunchAttentionSimple(p, f32_, s.stream));
  } else {
    if (s.singles > 0) MINIMO_TRY(SinglesAttention(layer, s));
    if (s.singles == s.own.count) return {};
    if (!fresh && p.k.element_bytes == 1 && s.own.count - s.singles >= kRopeRowsTokens) {
      rope.wide_k = w_.At(w_.fresh_k), rope.wide_v = w_.At(w_.fresh_v);
      if (HasRopeRows(rope)) p.wide_k = rope.wide_k, p.wide_v = rope.wide_v;
    }
    Skip(s.singles, p, &rope);
    MINIMO_CUDA_TRY(LaunchRope(rope, f32_, s.stream));
    const auto group = std::find(layout_.groups.begin(), layout_.groups.end(), a.heads / a.kv_heads);
    const int index = static_cast<int>(group - layout_.groups.begin());
    p.tiles = reinterpret_cast<const PrefillTile*>(s.packed + layout_.Tiles(index));
    p.num_tiles = s.tiles[index];
    p.work = w_.At<int>(w_.attention_work);
    if (AttentionFeedsProduct(layer, s)) {
      const Fp8Activations x = Activations(s.own.count, weights_.layer(layer).o.shape);
      p.product_values = x.values;
      if (weights_.layer(layer).o.shape.format == TileFormat::kFp8) p.product_scales = x.scales;
      p.product_rows = x.rows;
    }
    MINIMO_CUDA_TRY(LaunchAttentionPrefill(p, s.stream));
  }
  if (!fresh) return {};
  MINIMO_CUDA_TRY(LaunchRingWrite(p.k, rope.fresh_k, rope.tokens, rope.meta, s.stream));
  return ToStatus(LaunchRingWrite(p.v, rope.fresh_v, rope.tokens, rope.meta, s.stream), "ring write");
}

Status Forward::PrefillExperts(int layer, const Step& s) const {
  const RouterParams r = RouterOf(layer, s.tokens);
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));
  MINIMO_TRY(KeepLocalExperts(r, s));
  MINIMO_TRY(Run(GateUpOf(layer, r), s.stream));
  MINIMO_TRY(Run(DownOf(layer, r), s.stream));
  if (exchange_ != nullptr) {
    return AddParts({Of::kAll, r.slot_of}, NormAfter(layer), w_.At<float>(w_.tile_squares[1]), s);
  }
  return ToStatus(LaunchRow(SumOf(layer, r), f32_, s.stream), "sum of the experts");
}

}  // namespace minimo::cuda
