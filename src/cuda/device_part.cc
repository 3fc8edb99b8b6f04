#include "cuda/device_part.h"

#include <cstring>

#include "base/error.h"
#include "models/shard.h"

namespace minimo::cuda {
namespace {

Status CheckPlan(const ModelSpec& spec, const ParallelPlan& plan, int64_t grain) {
  for (int rank = 0; rank < plan.ranks; ++rank) {
    const ModelSpec part = RankSpec(spec, plan, rank);
    bool holds = true;
    for (const MoeLayout& layout : {plan.prefill, plan.decode}) {
      const MoeShare experts = ShareExperts(spec.moe, layout, rank, grain);
      holds = holds && experts.experts.count > 0 && experts.rows.count > 0;
    }
    for (const LayerSpec& layer : part.layers) {
      holds = holds && layer.attention.heads > 0 && (layer.moe || layer.intermediate > 0);
    }
    if (!holds) {
      return Errorf("{} GPUs are too many for this model: GPU {} would hold no attention heads or no experts",
                    plan.ranks, rank);
    }
  }
  return {};
}

// The table of a checkpoint cut for ranks, whose files each hold some of its rows, put together in memory until it is
// uploaded.
Result<Weight> WholeEmbedding(const LoadedModel& whole, const ParallelPlan& plan) {
  Weight table;
  std::shared_ptr<std::vector<std::byte>> bytes;
  int64_t at = 0;
  for (int rank = 0; rank < plan.ranks; ++rank) {
    RankModel part;
    MINIMO_TRY(OpenRankWeights(whole, rank, &part));
    const WeightView& rows = part.weights.embedding.view;
    if (rank == 0) {
      table.view = rows;
      table.view.rows = whole.spec.vocab;
      bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows.row_bytes) * whole.spec.vocab);
      table.view.data = bytes->data();
      table.owners = {bytes};
    }
    if (rows.format != table.view.format || rows.row_bytes != table.view.row_bytes || rows.scales != nullptr) {
      return Errorf("{}: the ranks' embeddings differ in format", whole.folder);
    }
    std::memcpy(bytes->data() + at, rows.data, static_cast<size_t>(rows.rows * rows.row_bytes));
    at += rows.rows * rows.row_bytes;
  }
  return table;
}

}  // namespace

Result<DevicePart> MakeDevicePart(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm,
                                  int64_t expert_row_grain) {
  const bool weights = whole.shards.has_value() || !whole.weights.layers.empty();
  const int64_t grain = whole.shards ? whole.shards->row_grain : weights ? RowGrain(whole.weights) : expert_row_grain;
  MINIMO_TRY(CheckPlan(whole.spec, plan, grain));
  DevicePart part;
  if (weights) {
    MINIMO_ASSIGN(RankModel model, ShardModel(whole, plan, comm));
    part.weights = std::move(model.weights);
    part.files = std::move(model.files);
    part.weights.embedding = whole.weights.embedding;
    if (whole.shards) {
      MINIMO_ASSIGN(part.weights.embedding, WholeEmbedding(whole, plan));
    }
  }
  part.spec = RankSpec(whole.spec, plan, comm->rank());
  part.share = MakeRankShare(whole.spec, plan, comm, grain);
  part.spec.moe.intermediate = static_cast<int>(part.share.experts.rows.count);
  if (plan.hybrid()) part.decode_experts = ShareExperts(whole.spec.moe, plan.decode, comm->rank(), grain);
  return part;
}

}  // namespace minimo::cuda
