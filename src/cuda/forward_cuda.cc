#include "cuda/forward_cuda.h"

#include <algorithm>
#include <cmath>

#include "cuda/kernels/batch_linear.cuh"
#include "cuda/kernels/tile_linear.cuh"

namespace minimo::cuda {

Status Forward::Prepare(cudaStream_t stream) {
  decode_one_ = CanDecodeOne();
  // inverse_frequency[i] = theta^(-2i / rotary_dim), one table a layer.
  std::vector<float> table;
  for (const LayerSpec& l : spec_.layers) {
    frequency_of_layer_.push_back(static_cast<int64_t>(table.size()) * 4);
    const AttentionSpec& a = l.attention;
    for (int i = 0; i < a.rotary_dim / 2; ++i) {
      table.push_back(static_cast<float>(1.0 / std::pow(a.rope_theta, 2.0 * i / a.rotary_dim)));
    }
  }
  MINIMO_TRY(frequencies_.Allocate(static_cast<int64_t>(table.size()) * 4 + 4));
  MINIMO_CUDA_TRY(
      cudaMemcpyAsync(frequencies_.As(), table.data(), table.size() * 4, cudaMemcpyHostToDevice, stream));
  return ToStatus(cudaStreamSynchronize(stream), "preparing tables");
}

const float* Forward::NormAfter(int layer) const {
  return weights_.Floats(layer + 1 < spec_.num_layers() ? weights_.layer(layer + 1).input_norm
                                                        : weights_.final_norm());
}

Forward::Squares Forward::SquaresAfter(int layer, int tokens) const {
  if (exchange_ != nullptr) return {w_.At<float>(w_.tile_squares[1]), ExchangeParts(spec_.hidden)};
  if (spec_.layers[layer].moe && tokens > 1) return {w_.At<float>(w_.row_squares), RowParts(spec_.hidden)};
  return {w_.At<float>(w_.tile_squares[1]), weights_.layer(layer).down.shape.tiles};
}

Forward::Squares Forward::SquaresAfterAttention(int layer) const {
  const int parts = exchange_ != nullptr ? ExchangeParts(spec_.hidden) : weights_.layer(layer).o.shape.tiles;
  return {w_.At<float>(w_.tile_squares[0]), parts};
}

LinearParams Forward::Linear(const DeviceMatrix& m, int tokens) const {
  LinearParams p;
  SetWeights(m, &p);
  p.tokens = tokens;
  if (!f32_) p.split = {w_.At<uint8_t>(w_.split), m.shape.units, m.cols};
  p.norm_cols = spec_.hidden;
  p.norm_eps = static_cast<float>(spec_.norm_eps);
  p.out_rows = m.rows;
  return p;
}

// The product joins the residual stream; the RMSNorm after it begins in its epilogue.
void Forward::ToResidual(const float* next_norm, float* next_square_sums, LinearParams* p) const {
  p->epilogue = Epilogue::kResidual;
  p->residual = w_.At<float>(w_.residual);
  p->next_norm = next_norm;
  p->next_x = w_.At(w_.x);
  p->next_x_stride = w_.x_stride;
  p->next_square_sums = next_square_sums;
}

Status Forward::Run(const LinearParams& p, cudaStream_t stream) const {
  if (p.tokens == 0) return {};  // of a replica that has nothing to run
  // stream_one takes all of a token's experts to be here.
  const bool all_here = p.mode == LinearMode::kDense || weights_.experts_here() == spec_.moe.experts;
  if (!f32_ && all_here && CanStreamOne(p)) return ToStatus(LaunchStreamOne(p, stream), "linear");
  if (!f32_ && PrefersBatchSplit(p)) return ToStatus(LaunchBatchSplit(p, stream), "linear");
  if (!f32_ && CanBatchLinear(p)) return ToStatus(LaunchBatchLinear(p, stream), "linear");
  if (!f32_ && PrefersTiles(p, spec_.moe.experts)) return ToStatus(LaunchTileLinear(p, stream), "linear");
  return ToStatus(LaunchStreamLinear(p, f32_, stream), "linear");
}

Status Forward::Layers(const int32_t* packed, const StepPlan& plan, bool decode, int splits,
                       cudaStream_t stream) const {
  const auto meta = [&](int64_t at) { return packed + at + plan.own.first; };
  const Step s{packed, plan.tokens, plan.own, plan.replicas, decode, plan.singles, splits, plan.tiles, stream,
               {meta(layout_.Positions()), meta(layout_.BlockTableOf()), meta(layout_.RingOf()),
                packed + layout_.BlockTables(), meta(layout_.Past()), meta(layout_.Last())}};
  if (decode) return Decode(s);
  return fp8_prefill_ ? PrefillFp8(s) : Prefill(s);
}

Status Forward::Embed(const Step& s, Squares* squares) const {
  RowParams row;
  row.tokens = s.tokens;
  row.hidden = spec_.hidden;
  row.token_ids = s.packed + layout_.TokenIds();
  row.embedding = weights_.embedding();
  row.embedding_f32 = weights_.embedding_f32();
  row.residual = w_.At<float>(w_.residual);
  row.next_norm = weights_.Floats(weights_.layer(0).input_norm);
  row.next_x = w_.At(w_.x);
  row.next_x_stride = w_.x_stride;
  row.square_sums = w_.At<float>(w_.row_squares);
  if (SplitsInput(0, s)) row.split = QkvOf(0, s.own, {}).split;
  *squares = {row.square_sums, RowParts(spec_.hidden)};
  return ToStatus(LaunchRow(row, f32_, s.stream), "embedding");
}

Status Forward::Head(const int32_t* packed, int tokens, int first, int count, cudaStream_t stream) const {
  if (tokens == 1 && decode_one_) return HeadOne(stream);
  const Squares squares = SquaresAfter(spec_.num_layers() - 1, tokens);
  LinearParams head = Linear(weights_.head(), count);
  head.epilogue = Epilogue::kStore;
  head.x = w_.At(w_.x);
  head.x_stride = w_.x_stride;
  head.slot_token = packed + layout_.LogitRows() + first;
  head.square_sums = squares.sums;
  head.square_sum_count = squares.count;
  head.out = exchange_ != nullptr ? exchange_->local_logits() : w_.At<float>(w_.logits);
  head.out_stride = weights_.head().rows;
  return Run(head, stream);
}

LinearParams Forward::QkvOf(int layer, const Rows& rows, Squares squares) const {
  const DeviceLayer& d = weights_.layer(layer);
  LinearParams qkv = Linear(d.qkv, rows.count);
  qkv.epilogue = Epilogue::kStore;
  qkv.x = w_.At<uint8_t>(w_.x) + int64_t{rows.first} * w_.x_stride * (f32_ ? 4 : 2);
  qkv.x_stride = w_.x_stride;
  if (squares.sums != nullptr) qkv.square_sums = squares.sums + int64_t{rows.first} * squares.count;
  qkv.square_sum_count = squares.count;
  qkv.out = w_.At<float>(w_.qkv);
  qkv.out_stride = d.qkv_rows;
  if (d.q_norm.offset >= 0) qkv.next_square_sums = w_.At<float>(w_.qkv_squares);
  return qkv;
}

RopeParams Forward::RopeOf(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  const DeviceLayer& d = weights_.layer(layer);
  RopeParams rope;
  rope.tokens = s.own.count;
  rope.heads = a.heads;
  rope.kv_heads = a.kv_heads;
  rope.head_dim = a.head_dim;
  rope.v_head_dim = a.v_head_dim;
  rope.rotary_dim = a.rotary_dim;
  rope.qkv = w_.At<float>(w_.qkv);
  rope.qkv_stride = d.qkv_rows;
  rope.k_offset = d.k_row;
  rope.v_offset = d.v_row;
  rope.q_norm = weights_.Floats(d.q_norm);
  rope.k_norm = weights_.Floats(d.k_norm);
  rope.norm_eps = static_cast<float>(spec_.norm_eps);
  rope.square_sums = w_.At<float>(w_.qkv_squares);
  rope.square_sum_count = d.qkv.shape.tiles;
  if (exchange_ != nullptr && exchange_->share().attention_ranks() > 1) {
    const auto& whole = exchange_->share().whole[layer];
    rope.norm_sums = exchange_->norm_sums() + int64_t{s.own.first} * 2;
    rope.whole_q = static_cast<int>(whole.q), rope.whole_k = static_cast<int>(whole.k);
  }
  rope.inverse_frequency = frequencies_.As<const float>(frequency_of_layer_[layer]);
  rope.value_scale = a.value_scale;
  rope.q = w_.At(w_.q);
  rope.k = kv_.k(layer);
  rope.v = kv_.v(layer);
  rope.meta = s.meta;
  return rope;
}

AttentionParams Forward::AttentionOf(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  AttentionParams p;
  p.tokens = s.own.count;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.v_head_dim = a.v_head_dim;
  p.window = a.window;
  p.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  p.sinks = weights_.Floats(weights_.layer(layer).sinks);
  p.q = w_.At(w_.q);
  p.k = kv_.k(layer);
  p.v = kv_.v(layer);
  p.out = w_.At(w_.attended);
  p.out_stride = PadTo(a.o_size(), kUnitCols);
  p.meta = s.meta;
  return p;
}

LinearParams Forward::OutputOf(int layer, int tokens) const {
  const DeviceLayer& d = weights_.layer(layer);
  LinearParams o = Linear(d.o, tokens);
  o.x = w_.At(w_.attended);
  o.x_stride = PadTo(spec_.layers[layer].attention.o_size(), kUnitCols);
  ToResidual(weights_.Floats(d.post_norm), w_.At<float>(w_.tile_squares[0]), &o);
  return o;
}

RouterParams Forward::RouterOf(int layer, int tokens) const {
  const DeviceLayer& d = weights_.layer(layer);
  RouterParams r;
  r.tokens = tokens;
  r.experts = spec_.moe.experts;
  r.top_k = spec_.moe.top_k;
  r.hidden = spec_.hidden;
  r.groups = spec_.moe.groups;
  r.top_groups = spec_.moe.top_groups;
  r.residual = w_.At<float>(w_.residual);
  r.norm_weight = weights_.Floats(d.post_norm);
  r.square_sums = SquaresAfterAttention(layer).sums;
  r.square_sum_count = SquaresAfterAttention(layer).count;
  r.norm_eps = static_cast<float>(spec_.norm_eps);
  r.weights = weights_.Floats(d.router);
  r.bias = weights_.Floats(d.router_bias);
  r.renormalise = spec_.moe.renormalise;
  r.renormalise_epsilon = static_cast<float>(spec_.moe.renormalise_epsilon);
  r.scale = static_cast<float>(spec_.moe.scale);
  r.logits = w_.At<float>(w_.router_logits);
  r.counter = w_.At<int>(w_.router_counter);
  if (fp8_prefill_ && d.split_router >= 0) r.split_weights = weights_.At(d.split_router);
  r.counts = w_.At<int>(w_.router_counts);
  r.token_squares = w_.At<float>(w_.token_squares);
  r.chosen = w_.At<int>(w_.chosen);
  r.chosen_weight = w_.At<float>(w_.chosen_weight);
  r.num_active = w_.At<int>(w_.num_active);
  r.active = w_.At<int>(w_.active);
  r.offsets = w_.At<int>(w_.offsets);
  r.slot_token = w_.At<int>(w_.slot_token);
  r.slot_weight = w_.At<float>(w_.slot_weight);
  r.slot_of = w_.At<int>(w_.slot_of);
  r.expert_load = w_.At<long long>(w_.expert_load) + int64_t{layer} * spec_.moe.experts;
  if (probe_ != nullptr) probe_->Join(layer, &r);
  return r;
}

// One of the experts' two products, over the lists that the router left.
LinearParams Forward::OfExperts(const DeviceMatrix& m, const RouterParams& r) const {
  LinearParams p = Linear(m, r.tokens);
  p.mode = LinearMode::kExperts;
  p.num_active = r.num_active;
  p.active = r.active;
  p.offsets = r.offsets;
  p.slot_weight = r.slot_weight;
  p.top_k = r.top_k;
  p.max_active = static_cast<int>(std::min<int64_t>(weights_.experts_here(), int64_t{r.tokens} * r.top_k));
  return p;
}

LinearParams Forward::GateUpOf(int layer, const RouterParams& r) const {
  LinearParams up = OfExperts(weights_.layer(layer).gate_up, r);
  up.epilogue = Epilogue::kSwiGlu;
  up.x = w_.At(w_.x);
  up.x_stride = w_.x_stride;
  up.square_sums = r.token_squares;
  up.square_sum_count = 1;
  up.slot_token = r.slot_token;
  up.out_x = w_.At(w_.hidden);
  up.out_x_stride = w_.hidden_stride_moe;
  return up;
}

LinearParams Forward::DownOf(int layer, const RouterParams& r) const {
  LinearParams down = OfExperts(weights_.layer(layer).down, r);
  down.epilogue = Epilogue::kSlot;
  down.x = w_.At(w_.hidden);
  down.x_stride = w_.hidden_stride_moe;
  down.out = w_.At<float>(w_.expert_out);
  down.out_stride = spec_.hidden;
  return down;
}

RowParams Forward::SumOf(int layer, const RouterParams& r) const {
  RowParams row;
  row.tokens = r.tokens;
  row.hidden = spec_.hidden;
  row.expert_out = w_.At<float>(w_.expert_out);
  row.slot_of = r.slot_of;
  row.top_k = r.top_k;
  row.residual = w_.At<float>(w_.residual);
  row.next_norm = NormAfter(layer);
  row.next_x = w_.At(w_.x);
  row.next_x_stride = w_.x_stride;
  row.square_sums = w_.At<float>(w_.row_squares);
  return row;
}

Status Forward::Dense(int layer, const Step& s) const {
  const DeviceLayer& d = weights_.layer(layer);
  LinearParams up = Linear(d.gate_up, s.tokens);
  up.epilogue = Epilogue::kSwiGlu;
  up.x = w_.At(w_.x);
  up.x_stride = w_.x_stride;
  up.square_sums = SquaresAfterAttention(layer).sums;
  up.square_sum_count = SquaresAfterAttention(layer).count;
  up.out_x = w_.At(w_.hidden);
  up.out_x_stride = w_.hidden_stride_dense;
  MINIMO_TRY(Run(up, s.stream));
  LinearParams down = Linear(d.down, s.tokens);
  down.x = w_.At(w_.hidden);
  down.x_stride = w_.hidden_stride_dense;
  ToResidual(NormAfter(layer), w_.At<float>(w_.tile_squares[1]), &down);
  return RunToResidual(down, Of::kAll, s);
}

}  // namespace minimo::cuda
