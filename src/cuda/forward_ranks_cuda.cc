// What several GPUs say to each other within a layer.
#include "cuda/forward_cuda.h"

namespace minimo::cuda {

Status Forward::RunToResidual(LinearParams p, Of of, const Step& s) const {
  if (exchange_ == nullptr) return Run(p, s.stream);
  const float* next_norm = p.next_norm;
  float* squares = p.next_square_sums;
  p.epilogue = Epilogue::kStore;
  // [slots, hidden]: more rows than tokens.
  p.out = w_.At<float>(w_.expert_out) + int64_t{RowsOf(of, s).first} * spec_.hidden;
  p.out_stride = spec_.hidden;
  p.next_square_sums = nullptr;
  MINIMO_TRY(Run(p, s.stream));
  return AddParts({of}, next_norm, squares, s);
}

Status Forward::RunToResidual(Fp8LinearParams p, Of of, const Step& s) const {
  if (exchange_ == nullptr) return ToStatus(LaunchFp8Linear(p, s.stream), "linear");
  float* squares = p.next_square_sums;
  p.epilogue = Epilogue::kStore;
  p.out = w_.At<float>(w_.expert_out) + int64_t{RowsOf(of, s).first} * spec_.hidden;
  p.out_stride = spec_.hidden;
  p.next_square_sums = nullptr;
  if (p.tokens > 0) MINIMO_CUDA_TRY(LaunchFp8Linear(p, s.stream));
  return AddParts({of}, p.next_norm, squares, s);
}

Status Forward::AddParts(const Parts& parts, const float* next_norm, float* squares, const Step& s) const {
  SumRowsParams p;
  p.tokens = s.tokens;
  p.hidden = spec_.hidden;
  p.partial = w_.At(w_.expert_out);
  p.partial_bf16 = parts.bf16;
  SetParts(parts.of, s, &p);
  p.slot_of = parts.slot_of;
  p.top_k = parts.slot_of != nullptr ? spec_.moe.top_k : 1;
  p.residual = w_.At<float>(w_.residual);
  p.next_norm = next_norm;
  p.next_x = w_.At(w_.x);
  p.next_x_stride = w_.x_stride;
  p.square_sums = squares;
  return exchange_->SumRows(p, f32_, !s.decode, s.stream);
}

// Of attention only the ranks of a row's replica have a part.
void Forward::SetParts(Of of, const Step& s, SumRowsParams* p) const {
  if (of == Of::kAll || exchange_->share().replicas == 1) return;
  p->part = {s.own.first, s.own.first + s.own.count};
  for (int r = 0; r < exchange_->ranks(); ++r) {
    const auto replica = static_cast<size_t>(r / exchange_->share().attention_ranks());
    Rows rows;
    if (replica < s.replicas.size()) rows = s.replicas[replica];
    if (replica == 0 && s.replicas.empty()) rows = RowsOf(Of::kAll, s);
    p->sent[r] = rows.count > 0 ? RankRows{rows.first, rows.first + rows.count} : RankRows{0, 1};
  }
}

// The partial sums of a token's product, those of all ranks, into the residual.
Status Forward::AddPartials(const OneParams& product, Of of, const Step& s) const {
  SumRowsParams p;
  p.tokens = 1;
  p.hidden = spec_.hidden;
  p.partial = product.out;
  SetParts(of, s, &p);
  p.top_k = product.splits;
  p.residual = w_.At<float>(w_.residual);
  return exchange_->SumRows(p, f32_, !s.decode, s.stream);
}

// DecodeOne with a sum over ranks where one GPU hands partial sums to the next kernel.
Status Forward::DecodeOneOnRanks(const Step& s) const {
  Squares squares;
  MINIMO_TRY(Embed(s, &squares));
  const float* residual = w_.At<float>(w_.residual);
  for (int i = 0; i < spec_.num_layers(); ++i) {
    OneParams qkv = QkvOne(i);
    qkv.input = residual;
    const OneParams o = OutputOne(i);
    const bool here = s.own.count > 0;
    if (here) MINIMO_CUDA_TRY(LaunchStreamToken(qkv, s.stream));
    MINIMO_TRY(ShareNorms(i, s));
    if (here) MINIMO_TRY(AttentionOne(i, s));
    if (here) MINIMO_CUDA_TRY(LaunchStreamToken(o, s.stream));
    MINIMO_TRY(AddPartials(o, Of::kOwn, s));
    OneParams up = GateUpOne(i);
    up.input = residual;
    if (spec_.layers[i].moe) MINIMO_CUDA_TRY(LaunchRouterOne(RouterOne(i, up), s.stream));
    MINIMO_CUDA_TRY(LaunchStreamToken(up, s.stream));
    const OneParams down = DownOne(i);
    MINIMO_CUDA_TRY(LaunchStreamToken(down, s.stream));
    MINIMO_TRY(AddPartials(down, Of::kAll, s));
  }
  return {};
}

Status Forward::ShareNorms(int layer, const Step& s) const {
  const DeviceLayer& d = weights_.layer(layer);
  if (exchange_ == nullptr || d.q_norm.offset < 0 || exchange_->share().attention_ranks() == 1) return {};
  SumNormsParams p;
  p.tokens = s.tokens;
  p.tile_squares = w_.At<float>(w_.qkv_squares);
  p.stride = d.qkv.shape.tiles;
  p.q_tiles = d.k_row / kTileRows;
  p.k_tiles = (d.v_row - d.k_row) / kTileRows;
  p.counts_k = exchange_->share().heads[layer].counts_kv;
  p.part = {s.own.first, s.own.first + s.own.count};
  return exchange_->SumNorms(p, s.stream);
}

Status Forward::KeepLocalExperts(const RouterParams& r, const Step& s) const {
  if (weights_.experts_here() == r.experts) return {};
  KeepLocalParams p;
  p.first = weights_.first_expert();
  p.count = weights_.experts_here();
  p.entries = r.tokens * r.top_k;
  p.chosen = r.chosen;
  p.num_active = r.num_active;
  p.active = r.active;
  p.offsets = r.offsets;
  p.slot_of = r.slot_of;
  return ToStatus(LaunchKeepLocal(p, s.stream), "experts of this rank");
}

}  // namespace minimo::cuda
