#include "models/shard.h"

#include <algorithm>

#include "base/error.h"

namespace minimo {
namespace {

constexpr int64_t kSampleBytes = 64;   // of a tensor in the fingerprint, from its middle
constexpr int64_t kMaxSamples = 4096;  // tensors sampled: each touches one page

Weight Rows(const Weight& weight, const Range& range) {
  return {weight.view.SliceRows(range.begin, range.count), weight.owners};
}
Weight Cols(const Weight& weight, const Range& range) {
  return {weight.view.SliceCols(range.begin, range.count), weight.owners};
}
Vector Part(const Vector& vector, int64_t begin, int64_t count) {
  if (vector.empty()) return {};
  return {vector.begin() + begin, vector.begin() + begin + count};
}
Range Scaled(const Range& range, int64_t unit) { return {range.begin * unit, range.count * unit}; }

FfnWeights PartOf(const FfnWeights& ffn, const Range& rows) {
  return {Rows(ffn.gate, rows), Rows(ffn.up, rows), Cols(ffn.down, rows)};
}

Range DenseRows(int64_t intermediate, int ranks, int rank) {
  return ShareOf(intermediate, ranks, rank, ShareGrain(intermediate, ranks));
}

// Rows that a share must be a multiple of: a scale group of the down projection's columns.
int64_t RowGrain(const std::vector<FfnWeights>& experts) {
  return std::max(1, experts.empty() ? 1 : experts.front().down.view.group_size);
}

std::vector<FfnWeights> PartOf(const std::vector<FfnWeights>& experts, const MoeShare& share) {
  std::vector<FfnWeights> part(experts.size());
  if (share.rows.count == 0) return part;
  for (int64_t e = share.experts.begin; e < share.experts.end(); ++e) part[e] = PartOf(experts[e], share.rows);
  return part;
}

void ShardAttention(const LayerWeights& from, const AttentionSpec& a, const HeadShare& share, LayerWeights* to) {
  const Range q = Scaled(share.heads, a.head_dim), k = Scaled(share.kv_heads, a.head_dim);
  to->q = Rows(from.q, q);
  to->k = Rows(from.k, k);
  to->v = Rows(from.v, Scaled(share.kv_heads, a.v_head_dim));
  to->o = Cols(from.o, Scaled(share.heads, a.v_head_dim));
  to->q_norm = Part(from.q_norm, q.begin, q.count);
  to->k_norm = Part(from.k_norm, k.begin, k.count);
  to->sinks = Part(from.sinks, share.heads.begin, share.heads.count);
}

struct Hash {
  uint64_t value = 0xcbf29ce484222325u;
  void Add(const void* data, size_t bytes) {  // FNV-1a
    for (size_t i = 0; i < bytes; ++i) {
      value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
    }
  }
};

}  // namespace

ModelSpec RankSpec(const ModelSpec& whole, const ParallelPlan& plan, int rank) {
  ModelSpec part = whole;
  if (plan.ranks == 1) return part;
  for (LayerSpec& layer : part.layers) {
    const HeadShare heads = ShareHeads(layer.attention.heads, layer.attention.kv_heads, plan.ranks, rank);
    layer.attention.heads = static_cast<int>(heads.heads.count);
    layer.attention.kv_heads = static_cast<int>(heads.kv_heads.count);
    if (!layer.moe) layer.intermediate = static_cast<int>(DenseRows(layer.intermediate, plan.ranks, rank).count);
  }
  return part;
}

RankModel ShardModel(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm) {
  RankModel part;
  part.spec = whole.spec;
  part.weights = whole.weights;
  if (plan.ranks == 1) return part;
  const int rank = comm->rank();
  part.spec = RankSpec(whole.spec, plan, rank);
  part.share.comm = comm;
  part.share.vocab = ShareOf(whole.spec.vocab, plan.ranks, rank);
  part.weights.embedding = Rows(whole.weights.embedding, part.share.vocab);
  part.weights.lm_head = Rows(whole.weights.lm_head, part.share.vocab);
  for (int i = 0; i < whole.spec.num_layers(); ++i) {
    const LayerSpec& layer = whole.spec.layers[i];
    const LayerWeights& from = whole.weights.layers[i];
    LayerWeights& to = part.weights.layers[i];
    const HeadShare heads = ShareHeads(layer.attention.heads, layer.attention.kv_heads, plan.ranks, rank);
    part.share.heads.push_back(heads);
    part.share.whole.push_back({layer.attention.q_size(), layer.attention.k_size()});
    ShardAttention(from, layer.attention, heads, &to);
    if (layer.moe) {
      const auto part_in = [&](const MoeLayout& layout) {
        return PartOf(from.experts, ShareExperts(whole.spec.moe, layout, rank, RowGrain(from.experts)));
      };
      to.experts = part_in(plan.prefill);
      if (plan.hybrid()) to.decode_experts = part_in(plan.decode);
    } else {
      to.dense = PartOf(from.dense, DenseRows(layer.intermediate, plan.ranks, rank));
    }
  }
  return part;
}

uint64_t Fingerprint(const LoadedModel& model) {
  Hash hash;
  const ModelSpec& s = model.spec;
  const int64_t sizes[] = {s.hidden, s.vocab, s.num_layers(), s.moe.experts, s.moe.top_k, s.moe.intermediate, s.mtp_layers};
  hash.Add(sizes, sizeof sizes);
  hash.Add(&s.norm_eps, sizeof s.norm_eps);
  hash.Add(s.model_type.data(), s.model_type.size());
  if (model.checkpoint == nullptr) return hash.value;
  const auto& tensors = model.checkpoint->tensors();
  const int64_t every = std::max<int64_t>(1, std::ssize(tensors) / kMaxSamples);
  int64_t index = 0;
  for (const auto& [name, view] : tensors) {
    hash.Add(name.data(), name.size());
    hash.Add(view.shape.data(), view.shape.size() * sizeof(int64_t));
    hash.Add(&view.dtype, sizeof view.dtype);
    if (index++ % every != 0) continue;
    const int64_t begin = std::max<int64_t>(0, view.bytes() / 2 - kSampleBytes / 2);
    hash.Add(view.data + begin, static_cast<size_t>(std::min(kSampleBytes, view.bytes() - begin)));
  }
  return hash.value;
}

Status CheckSameCheckpoint(const LoadedModel& model, Communicator& comm) {
  const uint64_t mine = Fingerprint(model);
  std::vector<uint64_t> all(comm.size());
  MINIMO_TRY(comm.AllGather<uint64_t>(std::span(&mine, 1), all));
  std::vector<int> others;
  for (int r = 1; r < comm.size(); ++r) {
    if (all[r] != all[0]) others.push_back(r);
  }
  if (others.empty()) return {};
  return Errorf("the checkpoint of rank{} {} is not that of rank 0 (on rank {} it is {}); give all ranks the same files",
                others.size() == 1 ? "" : "s", fmt::join(others, ", "), comm.rank(),
                model.checkpoint ? model.checkpoint->folder() : "random");
}

}  // namespace minimo
