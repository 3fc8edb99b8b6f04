// Prefill with activations in e4m3, one scale for 128 columns, and FP8 or 4-bit weights on FP8 tensor cores. The
// residual stream, attention, the router and what is not quantised in the checkpoint stay as in prefill_cuda.cc;
// experts leave bf16.
#include <algorithm>

#include "cuda/forward_cuda.h"
#include "cuda/kernels/fp8_quantise.cuh"

namespace minimo::cuda {

Fp8LinearParams Forward::Fp8Linear(const LinearParams& p, const Fp8Activations& x) const {
  Fp8LinearParams f;
  f.epilogue = p.epilogue;
  f.shape = p.shape;
  f.weights = p.weights;
  f.scales = p.scales;
  f.expert_weight_bytes = p.expert_weight_bytes;
  f.expert_scale_bytes = p.expert_scale_bytes;
  f.x = x;
  f.tokens = p.tokens;
  if (p.mode == LinearMode::kExperts) {
    f.tiles = w_.At<Fp8Tile>(w_.fp8_tiles);
    f.num_tiles = w_.At<int>(w_.fp8_num_tiles);
    f.slot_weight = p.slot_weight;
  }
  f.out = p.out;
  f.out_stride = p.out_stride;
  f.out_rows = p.out_rows;
  f.out_x = p.out_x;
  f.out_x_stride = p.out_x_stride;
  f.residual = p.residual;
  f.next_square_sums = p.next_square_sums;
  return f;
}

Fp8Activations Forward::Activations(int rows, const TileShape& weights) const {
  Fp8Activations x;
  x.values = w_.At<uint8_t>(w_.fp8_values);
  x.scales = w_.At<float>(w_.fp8_scales);
  if (weights.format == TileFormat::kInt4) x.offsets = w_.At<uint2>(w_.fp8_offsets);
  x.rows = PadTo(rows, 8);
  return x;
}

// bf16 rows; with `squares` they are before their norm's factor.
Status Forward::QuantiseRows(const void* x, int stride, int rows, const Squares* squares, const Fp8Activations& out,
                             const Step& s) const {
  if (rows == 0) return {};
  QuantiseParams q;
  q.tokens = rows;
  q.cols = stride;
  q.x = x;
  q.x_stride = stride;
  q.units = stride / kUnitCols;
  q.out = out;
  if (squares != nullptr) {
    q.square_sums = squares->sums;
    q.square_sum_count = squares->count;
    q.norm_cols = spec_.hidden;
    q.norm_eps = static_cast<float>(spec_.norm_eps);
  }
  return ToStatus(LaunchQuantise(q, s.stream), "quantise");
}

// RMSNorm of the residual.
Status Forward::QuantiseNormed(const float* norm, const Squares& squares, const Rows& rows, const Fp8Activations& out,
                               const Step& s) const {
  if (rows.count == 0) return {};
  QuantiseParams q;
  q.tokens = rows.count;
  q.cols = spec_.hidden;
  q.residual = w_.At<float>(w_.residual) + int64_t{rows.first} * spec_.hidden;
  q.norm_weight = norm;
  q.square_sums = squares.sums + int64_t{rows.first} * squares.count;
  q.square_sum_count = squares.count;
  q.norm_cols = spec_.hidden;
  q.norm_eps = static_cast<float>(spec_.norm_eps);
  q.units = w_.x_stride / kUnitCols;
  q.out = out;
  return ToStatus(LaunchQuantise(q, s.stream), "quantise");
}

bool Forward::QkvInBf16(int layer, const Step& s) const {
  RopeParams prompts = RopeOf(layer, s);
  prompts.tokens -= s.singles;
  return fp8_prefill_ && HasRopeRows(prompts);
}

bool Forward::AttentionFeedsProduct(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  const TileFormat o = weights_.layer(layer).o.shape.format;
  if (!fp8_prefill_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) return false;
  return o == TileFormat::kFp8 || (o == TileFormat::kBf16 && s.own.count > kMostDecodeTokens);
}

Status Forward::PrefillFp8(const Step& s) const {
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  const int rows = s.own.count;
  Fp8Activations x = Activations(rows, weights_.layer(0).qkv.shape);
  const LinearParams first = QkvOf(0, s.own, squares);
  squares.sums = first.square_sums;
  MINIMO_TRY(QuantiseRows(first.x, first.x_stride, rows, &squares, x, s));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    Fp8LinearParams qkv = Fp8Linear(QkvOf(i, s.own, {}), x);
    if (QkvInBf16(i, s)) {
      qkv.epilogue = Epilogue::kStoreBf16;
      qkv.out_x = w_.At(w_.qkv);
      qkv.out_x_stride = qkv.out_stride;
    }
    if (rows > 0) MINIMO_CUDA_TRY(LaunchFp8Linear(qkv, s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    MINIMO_TRY(PrefillAttention(i, s));
    const LinearParams o = OutputOf(i, rows);
    x = Activations(rows, o.shape);
    if (AttentionFeedsProduct(i, s)) {
      if (s.singles > 0 && o.shape.format == TileFormat::kFp8) {
        MINIMO_TRY(QuantiseRows(o.x, o.x_stride, s.singles, nullptr, x, s));
      } else if (s.singles > 0) {
        MINIMO_CUDA_TRY(LaunchArrange({s.singles, o.x, o.shape.units, x}, s.stream));
      }
      MINIMO_TRY(RunToResidual(Fp8Linear(o, x), Of::kOwn, s));
    } else if (o.shape.format == TileFormat::kFp8) {
      MINIMO_TRY(QuantiseRows(o.x, o.x_stride, rows, nullptr, x, s));
      MINIMO_TRY(RunToResidual(Fp8Linear(o, x), Of::kOwn, s));
    } else {
      MINIMO_TRY(RunToResidual(o, Of::kOwn, s));
    }
    MINIMO_TRY(spec_.layers[i].moe ? ExpertsFp8(i, s) : DenseFp8(i, s));
    if (i + 1 < spec_.num_layers()) x = Activations(rows, weights_.layer(i + 1).qkv.shape);
  }
  return {};
}

// Leaves the next layer's input quantised; after the last layer in bf16, for the head.
Status Forward::ExpertsFp8(int layer, const Step& s) const {
  const RouterParams r = RouterOf(layer, s.tokens);
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));
  MINIMO_TRY(KeepLocalExperts(r, s));
  const int slots = s.tokens * r.top_k;
  const DeviceLayer& d = weights_.layer(layer);
  QuantiseParams q;
  q.tokens = s.tokens;
  q.cols = spec_.hidden;
  q.residual = r.residual;
  q.norm_weight = r.norm_weight;
  q.square_sums = r.token_squares;
  q.square_sum_count = 1;
  q.norm_cols = spec_.hidden;
  q.norm_eps = r.norm_eps;
  q.slot_of = r.slot_of;
  q.top_k = r.top_k;
  q.units = w_.x_stride / kUnitCols;
  q.out = Activations(slots, d.gate_up.shape);
  q.tile_tokens = std::min(Fp8TileTokens(d.gate_up.shape.format, slots, r.experts),
                           Fp8TileTokens(d.down.shape.format, slots, r.experts));
  q.num_active = r.num_active;
  q.active = r.active;
  q.offsets = r.offsets;
  q.tiles = w_.At<Fp8Tile>(w_.fp8_tiles);
  q.num_tiles = w_.At<int>(w_.fp8_num_tiles);
  MINIMO_CUDA_TRY(LaunchQuantise(q, s.stream));
  Fp8LinearParams up = Fp8Linear(GateUpOf(layer, r), q.out);
  up.tile_tokens = q.tile_tokens;
  MINIMO_CUDA_TRY(LaunchFp8Linear(up, s.stream));
  const Fp8Activations hidden = Activations(slots, d.down.shape);
  MINIMO_TRY(QuantiseRows(w_.At(w_.hidden), w_.hidden_stride_moe, slots, nullptr, hidden, s));
  Fp8LinearParams down = Fp8Linear(DownOf(layer, r), hidden);
  down.tile_tokens = q.tile_tokens;
  down.out_x = w_.At(w_.expert_out);
  down.out_x_stride = spec_.hidden;
  MINIMO_CUDA_TRY(LaunchFp8Linear(down, s.stream));
  const bool last = layer + 1 == spec_.num_layers();
  if (exchange_ != nullptr) {
    const float* norm = last ? NormAfter(layer) : nullptr;
    MINIMO_TRY(AddParts({Of::kAll, r.slot_of, true}, norm, w_.At<float>(w_.tile_squares[1]), s));
    return last ? Status() : QuantiseForNext(layer, s);
  }
  CombineParams c;
  c.tokens = s.tokens;
  c.hidden = spec_.hidden;
  c.expert_out = down.out_x;
  c.slot_of = r.slot_of;
  c.top_k = r.top_k;
  c.residual = w_.At<float>(w_.residual);
  c.next_norm = NormAfter(layer);
  c.norm_eps = r.norm_eps;
  if (!last) {
    c.out = Activations(s.tokens, weights_.layer(layer + 1).qkv.shape);
  } else {
    c.next_x = w_.At(w_.x);
    c.next_x_stride = w_.x_stride;
    c.square_sums = w_.At<float>(w_.row_squares);
    c.square_sum_count = RowParts(spec_.hidden);
  }
  return ToStatus(LaunchCombine(c, s.stream), "sum of the experts");
}

Status Forward::DenseFp8(int layer, const Step& s) const {
  const DeviceLayer& d = weights_.layer(layer);
  Fp8Activations x = Activations(s.tokens, d.gate_up.shape);
  MINIMO_TRY(QuantiseNormed(weights_.Floats(d.post_norm), SquaresAfterAttention(layer), RowsOf(Of::kAll, s), x, s));
  LinearParams up = Linear(d.gate_up, s.tokens);
  up.epilogue = Epilogue::kSwiGlu;
  up.out_x = w_.At(w_.hidden);
  up.out_x_stride = w_.hidden_stride_dense;
  MINIMO_CUDA_TRY(LaunchFp8Linear(Fp8Linear(up, x), s.stream));
  x = Activations(s.tokens, d.down.shape);
  MINIMO_TRY(QuantiseRows(w_.At(w_.hidden), w_.hidden_stride_dense, s.tokens, nullptr, x, s));
  LinearParams down = Linear(d.down, s.tokens);
  down.epilogue = Epilogue::kResidual;
  down.residual = w_.At<float>(w_.residual);
  down.next_square_sums = w_.At<float>(w_.tile_squares[1]);
  Fp8LinearParams f = Fp8Linear(down, x);
  const bool last = layer + 1 == spec_.num_layers();
  if (last) {
    f.next_norm = NormAfter(layer);
    f.next_x = w_.At(w_.x);
    f.next_x_stride = w_.x_stride;
  }
  MINIMO_TRY(RunToResidual(f, Of::kAll, s));
  return last ? Status() : QuantiseForNext(layer, s);
}

Status Forward::QuantiseForNext(int layer, const Step& s) const {
  return QuantiseNormed(NormAfter(layer), SquaresAfter(layer, s.tokens), s.own,
                        Activations(s.own.count, weights_.layer(layer + 1).qkv.shape), s);
}

}  // namespace minimo::cuda
