#include "models/tensor_share.h"

#include "base/check.h"
#include "tensor/scale_blocks.h"

namespace minimo {
namespace {

Range Scaled(const Range& range, int64_t unit) { return {range.begin * unit, range.count * unit}; }

// An MTP layer has the geometry of the sliding layers.
const AttentionSpec& AttentionOf(const TensorSpec& t, const ModelSpec& spec) {
  if (!t.mtp) return spec.layers[t.layer].attention;
  const LayerSpec* last = &spec.layers.back();
  for (const LayerSpec& layer : spec.layers) {
    if (layer.attention.window > 0) last = &layer;
  }
  return last->attention;
}

// Rows of a feed-forward: of an expert those of the layout, of a dense one an even share.
Range FfnRows(const TensorSpec& t, int64_t intermediate, const ModelSpec& spec, int ranks, const MoeLayout& experts,
              int rank, int64_t row_grain) {
  if (t.expert < 0) return ShareOf(intermediate, ranks, rank, ShareGrain(intermediate, ranks));
  const MoeShare share = ShareExperts(spec.moe, experts, rank, row_grain);
  const bool mine = t.expert >= share.experts.begin && t.expert < share.experts.end();
  return mine ? share.rows : Range{};
}

}  // namespace

TensorShare ShareTensor(const TensorSpec& t, const ModelSpec& spec, int ranks, const MoeLayout& experts, int rank,
                        int64_t row_grain, int replicas) {
  TensorShare share{{0, t.shape[0]}, {0, t.IsMatrix() ? t.shape[1] : 1}};
  if (ranks == 1 || t.shard == ShardRule::kReplicate) return share;
  if (t.layer < 0) {
    CHECK(t.shard == ShardRule::kRows);  // embedding and head
    share.rows = ShareOf(t.shape[0], ranks, rank);
    return share;
  }
  if (t.shard == ShardRule::kRows) {
    share.rows = FfnRows(t, t.shape[0], spec, ranks, experts, rank, row_grain);
    return share;
  }
  if (t.shard == ShardRule::kCols) {
    share.cols = FfnRows(t, t.shape[1], spec, ranks, experts, rank, row_grain);
    return share;
  }
  const AttentionSpec& a = AttentionOf(t, spec);
  const HeadShare heads = ShareHeads(a.heads, a.kv_heads, ranks / replicas, rank % (ranks / replicas));
  if (t.shard == ShardRule::kHeads) share.rows = Scaled(heads.heads, t.shape[0] / a.heads);
  if (t.shard == ShardRule::kKvHeads) share.rows = Scaled(heads.kv_heads, t.shape[0] / a.kv_heads);
  if (t.shard == ShardRule::kHeadCols) share.cols = Scaled(heads.heads, t.shape[1] / a.heads);
  return share;
}

Manifest RankManifest(const Manifest& manifest, const ModelSpec& whole, int ranks, const MoeLayout& experts, int rank,
                      int64_t row_grain) {
  Manifest mine;
  for (const TensorSpec& t : manifest) {
    const TensorShare share = ShareTensor(t, whole, ranks, experts, rank, row_grain);
    if (share.empty()) continue;
    TensorSpec part = t;
    part.shape[0] = share.rows.count;
    if (t.IsMatrix()) part.shape[1] = share.cols.count;
    part.part_of_rank = true;
    part.first_row = share.rows.begin;
    part.first_col = share.cols.begin;
    mine.push_back(std::move(part));
  }
  return mine;
}

int64_t CoveringBlocks(int64_t first, int64_t count) { return ScaleBlocks(first % kScaleBlock + count); }

}  // namespace minimo
