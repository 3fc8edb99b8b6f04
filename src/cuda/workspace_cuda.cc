#include "cuda/workspace_cuda.h"

#include <algorithm>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/fp8_quantise.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/split_rows.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/tokens.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

Workspace::Workspace(const ModelSpec& spec, bool f32, bool fp8_prefill, int max_tokens, int max_logit_rows) {
  const int64_t t = max_tokens, act = f32 ? 4 : 2;
  int64_t qkv_rows = 0, q_size = 0, o_stride = 0, k_size = 0, v_size = 0, dense = 0;
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    qkv_rows = std::max<int64_t>(qkv_rows, PadTo(a.q_size(), 16) + PadTo(a.k_size(), 16) + PadTo(a.v_size(), 16));
    q_size = std::max<int64_t>(q_size, a.q_size());
    o_stride = std::max<int64_t>(o_stride, PadTo(a.o_size(), kUnitCols));
    k_size = std::max<int64_t>(k_size, a.k_size());
    v_size = std::max<int64_t>(v_size, a.v_size());
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
  row_squares = Take(t * RowParts(spec.hidden) * 4);
  token_squares = Take(t * 4);
  qkv_squares = Take(t * (qkv_rows / kTileRows) * 4);
  const int64_t tiles = (spec.hidden + kTileRows - 1) / kTileRows;
  for (int64_t& squares : tile_squares) squares = Take(t * tiles * 4);
  const int64_t batch = std::min<int64_t>(t, kMostDecodeTokens);
  router_logits = Take(std::max(kRouterSplits * t, kBatchSplits * batch) * experts * 4);
  router_counter = Take(8);
  attention_work = Take(8);
  router_counts = Take(fp8_prefill ? RouterCounts(t) * 4 : 0);
  chosen = Take(slots * 4);
  chosen_weight = Take(slots * 4);
  num_active = Take(4);
  active = Take((experts + slots) * 4);
  offsets = Take((experts + slots + 1) * 4);
  slot_token = Take(slots * 4);
  slot_weight = Take(slots * 4);
  slot_of = Take(slots * 4);
  expert_load = Take(spec.num_layers() * experts * 8);
  const int64_t widest = std::max({int64_t{x_stride}, o_stride, int64_t{hidden_stride_dense}});
  split = Take(f32 ? 0 : PadTo(static_cast<int>(batch), 8) * (widest / kUnitCols) * kSplitTokenBytes);
  expert_rows = Take(batch * ExpertRow{x_stride / kUnitCols, true}.bytes());
  decode_hidden = Take(batch * spec.moe.top_k * hidden_stride_moe * 4);
  one_residual = Take(int64_t{spec.hidden} * 4);
  one_operands = Take(int64_t{PadTo(x_stride / kUnitCols, 4)} * kMostOperandBytes);
  one_squares = Take(4);
  one_attended = Take(o_stride * 4);
  one_hidden = Take(std::max<int64_t>(int64_t{spec.moe.top_k} * hidden_stride_moe, hidden_stride_dense) * 4);
  one_attention_partial = Take(int64_t{kMaxPartials} * spec.hidden * 4);
  one_expert_partial = Take(int64_t{kMaxPartials} * spec.hidden * 4);
  logits = Take(int64_t{max_logit_rows} * spec.vocab * 4);
  if (!fp8_prefill) return;
  const auto rows_units = [](int64_t rows, int64_t stride) {  // offsets are there for whole chunks
    const int units = PadTo(static_cast<int>(stride / kUnitCols), kChunkUnits);
    return (PadTo(static_cast<int>(rows), 8) + Fp8Activations::kSlack) * units;
  };
  const int64_t most = std::max({rows_units(slots, std::max(x_stride, hidden_stride_moe)), rows_units(t, x_stride),
                                 2 * rows_units(t, o_stride), rows_units(t, hidden_stride_dense)});
  fp8_values = Take(most * 128);
  fp8_scales = Take(most * 4);
  fp8_offsets = Take(most * 8);
  fp8_tiles = Take(MostFp8Tiles(slots, experts) * static_cast<int64_t>(sizeof(Fp8Tile)));
  fp8_num_tiles = Take(4);
}

}  // namespace minimo::cuda
