#include "cuda/forward_cuda.h"

#include <algorithm>
#include <cmath>

#include "cuda/kernels/router.cuh"
#include "cuda/kernels/tile_linear.cuh"

namespace minimo::cuda {
namespace {

constexpr int kMultiprocessors = 132;  // of an H100 and an H200

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

Status DeviceKv::Allocate(const ModelSpec& spec, const KvLayout& layout, int element_bytes) {
  element_bytes_ = element_bytes;
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    const bool ring = a.window > 0;
    const int rows = ring ? layout.ring_tokens : layout.block_size;
    const int64_t units = ring ? layout.num_rings : layout.num_blocks;
    for (const bool key : {true, false}) {
      const int dim = key ? a.head_dim : a.v_head_dim;
      DeviceMemory memory;
      MINIMO_TRY(memory.AllocateZeroed(units * a.kv_heads * rows * dim * element_bytes));
      (key ? k_ : v_).push_back({memory.As(), dim, a.kv_heads, rows, ring});
      memory_.push_back(std::move(memory));
    }
  }
  return {};
}

Workspace::Workspace(const ModelSpec& spec, bool f32, int max_tokens, int max_logit_rows) {
  const int64_t t = max_tokens, act = f32 ? 4 : 2;
  int64_t qkv_rows = 0, q_size = 0, o_stride = 0, k_size = 0, v_size = 0, kv_heads = 0, dense = 0, v_dim = 0;
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    qkv_rows = std::max<int64_t>(qkv_rows, PadTo(a.q_size(), 16) + PadTo(a.k_size(), 16) + PadTo(a.v_size(), 16));
    q_size = std::max<int64_t>(q_size, a.q_size());
    o_stride = std::max<int64_t>(o_stride, PadTo(a.o_size(), kUnitCols));
    k_size = std::max<int64_t>(k_size, a.k_size());
    v_size = std::max<int64_t>(v_size, a.v_size());
    kv_heads = std::max<int64_t>(kv_heads, a.kv_heads);
    v_dim = std::max<int64_t>(v_dim, a.v_head_dim);
    if (!l.moe) dense = std::max<int64_t>(dense, l.intermediate);
  }
  const int64_t slots = t * spec.moe.top_k, experts = spec.moe.experts;
  x_stride = PadTo(spec.hidden, kUnitCols);
  hidden_stride_moe = PadTo(spec.moe.intermediate, kUnitCols);
  hidden_stride_dense = PadTo(static_cast<int>(dense), kUnitCols);
  residual = Take(t * spec.hidden * 4);
  x = Take(t * x_stride * act);
  qkv = Take(t * qkv_rows * 4);
  q = Take(t * q_size * act);
  attended = Take(t * o_stride * act);
  hidden = Take(std::max(slots * hidden_stride_moe, t * hidden_stride_dense) * act);
  expert_out = Take(slots * spec.hidden * 4);
  fresh_k = Take(t * k_size * act);
  fresh_v = Take(t * v_size * act);
  row_squares = Take(t * 4);
  token_squares = Take(t * 4);
  qkv_squares = Take(t * (qkv_rows / kTileRows) * 4);
  const int64_t tiles = (spec.hidden + kTileRows - 1) / kTileRows;
  for (int64_t& squares : tile_squares) squares = Take(t * tiles * 4);
  router_logits = Take(kRouterSplits * t * experts * 4);
  router_counter = Take(4);
  chosen = Take(slots * 4);
  chosen_weight = Take(slots * 4);
  num_active = Take(4);
  active = Take((experts + slots) * 4);
  offsets = Take((experts + slots + 1) * 4);
  slot_token = Take(slots * 4);
  slot_weight = Take(slots * 4);
  slot_of = Take(slots * 4);
  expert_load = Take(spec.num_layers() * experts * 8);
  // Runs of all tokens and KV heads: splits only grow while they do not fill the device twice over.
  int64_t least_heads = kv_heads;
  for (const LayerSpec& l : spec.layers) least_heads = std::min<int64_t>(least_heads, l.attention.kv_heads);
  const int64_t rows = (std::max<int64_t>(t, 4 * kMultiprocessors / least_heads + kMaxSplits)) * kv_heads;
  partial = Take(rows * 16 * v_dim * 4);
  partial_max = Take(rows * 16 * 4);
  partial_sum = Take(rows * 16 * 4);
  attention_counters = Take(t * kv_heads * 4);
  logits = Take(int64_t{max_logit_rows} * spec.vocab * 4);
}

Status Forward::Prepare(cudaStream_t stream) {
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
  if (spec_.layers[layer].moe && tokens > 1) return {w_.At<float>(w_.row_squares), 1};
  return {w_.At<float>(w_.tile_squares[1]), weights_.layer(layer).down.shape.tiles};
}

LinearParams Forward::Linear(const DeviceMatrix& m, int tokens) const {
  LinearParams p;
  p.shape = m.shape;
  p.weights = weights_.At(m.weights);
  p.scales = weights_.At(m.scales);
  p.expert_weight_bytes = m.expert_weight_bytes;
  p.expert_scale_bytes = m.expert_scale_bytes;
  p.tokens = tokens;
  p.norm_cols = spec_.hidden;
  p.norm_eps = static_cast<float>(spec_.norm_eps);
  p.out_rows = m.rows;
  return p;
}

Status Forward::Run(const LinearParams& p, cudaStream_t stream) const {
  if (!f32_ && CanStreamOne(p)) return ToStatus(LaunchStreamOne(p, stream), "linear");
  if (!f32_ && PrefersTiles(p, spec_.moe.experts)) return ToStatus(LaunchTileLinear(p, stream), "linear");
  return ToStatus(LaunchStreamLinear(p, f32_, stream), "linear");
}

Status Forward::Layers(const int32_t* packed, int tokens, int decode_splits, const std::vector<int>& tiles,
                       cudaStream_t stream) const {
  const auto meta = [&](int64_t at) { return packed + at; };
  const Step s{packed, tokens, decode_splits, tiles, stream,
               {meta(layout_.Positions()), meta(layout_.BlockTableOf()), meta(layout_.RingOf()),
                meta(layout_.BlockTables()), meta(layout_.Past()), meta(layout_.Last())}};
  RowParams row;
  row.tokens = tokens;
  row.hidden = spec_.hidden;
  row.token_ids = meta(layout_.TokenIds());
  row.embedding = weights_.embedding();
  row.embedding_f32 = weights_.embedding_f32();
  row.residual = w_.At<float>(w_.residual);
  row.next_norm = weights_.Floats(weights_.layer(0).input_norm);
  row.next_x = w_.At(w_.x);
  row.next_x_stride = w_.x_stride;
  row.square_sums = w_.At<float>(w_.row_squares);
  MINIMO_CUDA_TRY(LaunchRow(row, f32_, stream));
  Squares squares = {row.square_sums, 1};
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const DeviceLayer& d = weights_.layer(i);
    LinearParams qkv = Linear(d.qkv, s.tokens);
    qkv.epilogue = Epilogue::kStore;
    qkv.x = w_.At(w_.x);
    qkv.x_stride = w_.x_stride;
    qkv.square_sums = squares.sums;
    qkv.square_sum_count = squares.count;
    qkv.out = w_.At<float>(w_.qkv);
    qkv.out_stride = d.qkv_rows;
    if (d.q_norm.offset >= 0) qkv.next_square_sums = w_.At<float>(w_.qkv_squares);
    MINIMO_TRY(Run(qkv, s.stream));
    MINIMO_TRY(Attention(i, s));
    LinearParams o = Linear(d.o, s.tokens);
    o.epilogue = Epilogue::kResidual;
    o.x = w_.At(w_.attended);
    o.x_stride = PadTo(spec_.layers[i].attention.o_size(), kUnitCols);
    o.residual = w_.At<float>(w_.residual);
    o.next_norm = weights_.Floats(d.post_norm);
    o.next_x = w_.At(w_.x);
    o.next_x_stride = w_.x_stride;
    o.next_square_sums = w_.At<float>(w_.tile_squares[0]);
    MINIMO_TRY(Run(o, s.stream));
    MINIMO_TRY(spec_.layers[i].moe ? Experts(i, s) : Dense(i, s));
    squares = SquaresAfter(i, tokens);
  }
  return {};
}

Status Forward::Head(const int32_t* packed, int tokens, int first, int count, cudaStream_t stream) const {
  const Squares squares = SquaresAfter(spec_.num_layers() - 1, tokens);
  LinearParams head = Linear(weights_.head(), count);
  head.epilogue = Epilogue::kStore;
  head.x = w_.At(w_.x);
  head.x_stride = w_.x_stride;
  head.slot_token = packed + layout_.LogitRows() + first;
  head.square_sums = squares.sums;
  head.square_sum_count = squares.count;
  head.out = w_.At<float>(w_.logits);
  head.out_stride = spec_.vocab;
  return Run(head, stream);
}

Status Forward::Attention(int layer, const Step& s) const {
  const AttentionSpec& a = spec_.layers[layer].attention;
  const DeviceLayer& d = weights_.layer(layer);
  // New tokens of a ring layer may overrun the rows that earlier ones of the same step still need.
  const bool fresh = a.window > 0 && s.decode_splits == 0;
  RopeParams rope;
  rope.tokens = s.tokens;
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
  rope.inverse_frequency = frequencies_.As<const float>(frequency_of_layer_[layer]);
  rope.value_scale = a.value_scale;
  rope.q = w_.At(w_.q);
  rope.k = kv_.k(layer);
  rope.v = kv_.v(layer);
  rope.fresh_k = fresh ? w_.At(w_.fresh_k) : nullptr;
  rope.fresh_v = fresh ? w_.At(w_.fresh_v) : nullptr;
  rope.meta = s.meta;
  MINIMO_CUDA_TRY(LaunchRope(rope, f32_, s.stream));

  AttentionParams p;
  p.tokens = s.tokens;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.v_head_dim = a.v_head_dim;
  p.window = a.window;
  p.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  p.sinks = weights_.Floats(d.sinks);
  p.q = w_.At(w_.q);
  p.k = rope.k;
  p.v = rope.v;
  p.fresh_k = rope.fresh_k;
  p.fresh_v = rope.fresh_v;
  p.out = w_.At(w_.attended);
  p.out_stride = PadTo(a.o_size(), kUnitCols);
  p.meta = s.meta;
  if (f32_ || !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim)) {
    MINIMO_CUDA_TRY(LaunchAttentionSimple(p, f32_, s.stream));
  } else if (s.decode_splits > 0) {
    p.splits = SplitsOf(a, s.decode_splits);
    p.partial = w_.At<float>(w_.partial);
    p.partial_max = w_.At<float>(w_.partial_max);
    p.partial_sum = w_.At<float>(w_.partial_sum);
    p.counters = w_.At<int>(w_.attention_counters);
    MINIMO_CUDA_TRY(LaunchAttentionDecode(p, s.stream));
  } else {
    const auto group = std::find(layout_.groups.begin(), layout_.groups.end(), a.heads / a.kv_heads);
    const int index = static_cast<int>(group - layout_.groups.begin());
    p.tiles = reinterpret_cast<const PrefillTile*>(s.packed + layout_.Tiles(index));
    p.num_tiles = s.tiles[index];
    MINIMO_CUDA_TRY(LaunchAttentionPrefill(p, s.stream));
  }
  if (!fresh) return {};
  MINIMO_CUDA_TRY(LaunchRingWrite(p.k, p.fresh_k, kv_.element_bytes(), s.tokens, s.meta, s.stream));
  return ToStatus(LaunchRingWrite(p.v, p.fresh_v, kv_.element_bytes(), s.tokens, s.meta, s.stream), "ring write");
}

Status Forward::Experts(int layer, const Step& s) const {
  const DeviceLayer& d = weights_.layer(layer);
  RouterParams r;
  r.tokens = s.tokens;
  r.experts = spec_.moe.experts;
  r.top_k = spec_.moe.top_k;
  r.hidden = spec_.hidden;
  r.groups = spec_.moe.groups;
  r.top_groups = spec_.moe.top_groups;
  r.residual = w_.At<float>(w_.residual);
  r.norm_weight = weights_.Floats(d.post_norm);
  r.square_sums = w_.At<float>(w_.tile_squares[0]);
  r.square_sum_count = d.o.shape.tiles;
  r.norm_eps = static_cast<float>(spec_.norm_eps);
  r.weights = weights_.Floats(d.router);
  r.bias = weights_.Floats(d.router_bias);
  r.renormalise = spec_.moe.renormalise;
  r.renormalise_epsilon = static_cast<float>(spec_.moe.renormalise_epsilon);
  r.scale = static_cast<float>(spec_.moe.scale);
  r.logits = w_.At<float>(w_.router_logits);
  r.counter = w_.At<int>(w_.router_counter);
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
  MINIMO_CUDA_TRY(LaunchRouter(r, s.stream));

  LinearParams up = Linear(d.gate_up, s.tokens);
  up.mode = LinearMode::kExperts;
  up.epilogue = Epilogue::kSwiGlu;
  up.x = w_.At(w_.x);
  up.x_stride = w_.x_stride;
  up.square_sums = r.token_squares;
  up.square_sum_count = 1;
  up.num_active = r.num_active;
  up.active = r.active;
  up.offsets = r.offsets;
  up.slot_token = r.slot_token;
  up.slot_weight = r.slot_weight;
  up.top_k = r.top_k;
  up.max_active = static_cast<int>(std::min<int64_t>(r.experts, int64_t{s.tokens} * r.top_k));
  up.out_x = w_.At(w_.hidden);
  up.out_x_stride = w_.hidden_stride_moe;
  MINIMO_TRY(Run(up, s.stream));

  LinearParams down = Linear(d.down, s.tokens);
  down.x = w_.At(w_.hidden);
  down.x_stride = w_.hidden_stride_moe;
  down.num_active = r.num_active;
  down.active = r.active;
  down.offsets = r.offsets;
  down.slot_weight = r.slot_weight;
  down.top_k = r.top_k;
  if (s.tokens == 1) {
    down.mode = LinearMode::kFusedDown;
    down.epilogue = Epilogue::kResidual;
    down.residual = w_.At<float>(w_.residual);
    down.next_norm = NormAfter(layer);
    down.next_x = w_.At(w_.x);
    down.next_x_stride = w_.x_stride;
    down.next_square_sums = w_.At<float>(w_.tile_squares[1]);
    return Run(down, s.stream);
  }
  down.mode = LinearMode::kExperts;
  down.epilogue = Epilogue::kSlot;
  down.max_active = up.max_active;
  down.out = w_.At<float>(w_.expert_out);
  down.out_stride = spec_.hidden;
  MINIMO_TRY(Run(down, s.stream));
  RowParams row;
  row.tokens = s.tokens;
  row.hidden = spec_.hidden;
  row.expert_out = down.out;
  row.slot_of = r.slot_of;
  row.top_k = r.top_k;
  row.residual = w_.At<float>(w_.residual);
  row.next_norm = NormAfter(layer);
  row.next_x = w_.At(w_.x);
  row.next_x_stride = w_.x_stride;
  row.square_sums = w_.At<float>(w_.row_squares);
  return ToStatus(LaunchRow(row, f32_, s.stream), "sum of the experts");
}

Status Forward::Dense(int layer, const Step& s) const {
  const DeviceLayer& d = weights_.layer(layer);
  LinearParams up = Linear(d.gate_up, s.tokens);
  up.epilogue = Epilogue::kSwiGlu;
  up.x = w_.At(w_.x);
  up.x_stride = w_.x_stride;
  up.square_sums = w_.At<float>(w_.tile_squares[0]);
  up.square_sum_count = d.o.shape.tiles;
  up.out_x = w_.At(w_.hidden);
  up.out_x_stride = w_.hidden_stride_dense;
  MINIMO_TRY(Run(up, s.stream));
  LinearParams down = Linear(d.down, s.tokens);
  down.epilogue = Epilogue::kResidual;
  down.x = w_.At(w_.hidden);
  down.x_stride = w_.hidden_stride_dense;
  down.residual = w_.At<float>(w_.residual);
  down.next_norm = NormAfter(layer);
  down.next_x = w_.At(w_.x);
  down.next_x_stride = w_.x_stride;
  down.next_square_sums = w_.At<float>(w_.tile_squares[1]);
  return Run(down, s.stream);
}

}  // namespace minimo::cuda
