#include "models/shard.h"

#include <algorithm>

#include "base/error.h"
#include "checkpoint/mapped_file.h"
#include "models/tensor_share.h"
#include "models/weight_slots.h"

namespace minimo {
namespace {

constexpr int64_t kSampleBytes = 64;   // of a tensor in the fingerprint, from its middle
constexpr int64_t kMaxSamples = 4096;  // tensors sampled: each touches one page

Weight Part(const Weight& weight, const TensorShare& share) {
  return {weight.view.SliceRows(share.rows.begin, share.rows.count).SliceCols(share.cols.begin, share.cols.count),
          weight.owners};
}
Vector Part(const Vector& vector, const Range& range) {
  if (vector.empty()) return {};
  return {vector.begin() + range.begin, vector.begin() + range.end()};
}

void SliceWeights(const LoadedModel& model, const ParallelPlan& plan, int rank, DecoderWeights* part) {
  DecoderWeights whole = model.weights;  // views and small vectors
  const int64_t grain = RowGrain(whole);
  *part = EmptyWeights(model.spec);
  for (size_t i = 0; plan.hybrid() && i < part->layers.size(); ++i) {
    part->layers[i].decode_experts.resize(part->layers[i].experts.size());
  }
  for (const TensorSpec& t : model.family->manifest(model.spec)) {
    if (t.mtp) continue;
    const TensorShare share = ShareTensor(t, model.spec, plan.ranks, plan.prefill, rank, grain, plan.replicas);
    if (Vector* vector = VectorSlot(t, part)) *vector = Part(*VectorSlot(t, &whole), share.rows);
    Weight* matrix = MatrixSlot(t, part);
    if (matrix == nullptr) continue;
    const Weight& from = *MatrixSlot(t, &whole);
    if (!share.empty()) *matrix = Part(from, share);
    if (t.expert < 0 || !plan.hybrid()) continue;
    const TensorShare decode = ShareTensor(t, model.spec, plan.ranks, plan.decode, rank, grain, plan.replicas);
    FfnWeights& expert = part->layers[t.layer].decode_experts[t.expert];
    if (!decode.empty()) *FfnSlot(t.part, &expert) = Part(from, decode);
  }
  if (model.spec.tied_embeddings) part->lm_head = part->embedding;
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
    const HeadShare heads = HeadsOf(layer.attention, plan, rank);
    layer.attention.heads = static_cast<int>(heads.heads.count);
    layer.attention.kv_heads = static_cast<int>(heads.kv_heads.count);
    if (!layer.moe) {
      const int64_t grain = ShareGrain(layer.intermediate, plan.ranks);
      layer.intermediate = static_cast<int>(ShareOf(layer.intermediate, plan.ranks, rank, grain).count);
    }
  }
  return part;
}

Result<ParallelPlan> PlanModel(const LoadedModel& model, ParallelFlags flags, int max_num_seqs) {
  if (!model.shards) {
    flags.tensor_parallel_size = std::max(1, flags.tensor_parallel_size);
    return PlanRanks(model.spec, flags, max_num_seqs);
  }
  const ShardLayout& layout = *model.shards;
  if (flags.data_parallel_size > 1) {
    return Errorf("{}: holds the files of {} ranks that share attention, asked for {} replicas of it; leave out "
                  "--data-parallel-size, or use the checkpoint they were made from", model.folder, layout.ranks,
                  flags.data_parallel_size);
  }
  if (flags.tensor_parallel_size != 0 && flags.tensor_parallel_size != layout.ranks) {
    return Errorf(
        "{}: holds the files of {} ranks, asked for {}; use --tensor-parallel-size {}, or the checkpoint they "
        "were made from",
        model.folder, layout.ranks, flags.tensor_parallel_size, layout.ranks);
  }
  if (!flags.enable_expert_parallel && flags.moe_prefill.empty() && flags.moe_decode.empty()) return layout.Plan();
  flags.tensor_parallel_size = layout.ranks;
  if (!flags.enable_expert_parallel) {
    const std::string experts = fmt::format("{}x{}", layout.experts.tensor, layout.experts.expert);
    if (flags.moe_prefill.empty()) flags.moe_prefill = experts;
    if (flags.moe_decode.empty()) flags.moe_decode = experts;
  }
  MINIMO_ASSIGN(const ParallelPlan plan, PlanRanks(model.spec, flags, max_num_seqs));
  if (plan.prefill == layout.experts && plan.decode == layout.experts) return plan;
  return Errorf("{}: its files share the experts as {}, asked for {} in prefill and {} in decode; leave the flags out, "
                "or use the checkpoint they were made from", model.folder, ToString(layout.experts),
                ToString(plan.prefill), ToString(plan.decode));
}

int64_t RowGrain(const DecoderWeights& whole) {
  int32_t grain = 1;
  for (const LayerWeights& layer : whole.layers) {
    if (!layer.experts.empty()) grain = std::max(grain, layer.experts.front().down.view.group_size);
  }
  return grain;
}

RankShare MakeRankShare(const ModelSpec& whole, const ParallelPlan& plan, Communicator* comm,
                        int64_t expert_row_grain) {
  RankShare share;
  share.comm = comm;
  share.replicas = plan.replicas;
  const int rank = comm == nullptr ? 0 : comm->rank();
  share.vocab = ShareOf(whole.vocab, plan.ranks, rank);
  share.experts = ShareExperts(whole.moe, plan.prefill, rank, expert_row_grain);
  for (const LayerSpec& layer : whole.layers) {
    const AttentionSpec& a = layer.attention;
    share.heads.push_back(HeadsOf(a, plan, rank));
    share.whole.push_back({a.q_size(), a.k_size()});
  }
  return share;
}

Result<RankModel> ShardModel(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm) {
  RankModel part;
  part.spec = whole.spec;
  const int rank = plan.ranks == 1 ? 0 : comm->rank();
  if (whole.shards) {
    MINIMO_TRY(OpenRankWeights(whole, rank, &part));
  } else if (plan.ranks == 1) {
    part.weights = whole.weights;
  } else {
    SliceWeights(whole, plan, rank, &part.weights);
  }
  if (plan.ranks == 1) return part;
  part.spec = RankSpec(whole.spec, plan, rank);
  part.share = MakeRankShare(whole.spec, plan, comm, whole.shards ? whole.shards->row_grain : RowGrain(whole.weights));
  return part;
}

uint64_t Fingerprint(const LoadedModel& model) {
  Hash hash;
  const ModelSpec& s = model.spec;
  const int64_t sizes[] = {s.hidden,    s.vocab,            s.num_layers(), s.moe.experts,
                           s.moe.top_k, s.moe.intermediate, s.mtp_layers};
  hash.Add(sizes, sizeof sizes);
  hash.Add(&s.norm_eps, sizeof s.norm_eps);
  hash.Add(s.model_type.data(), s.model_type.size());
  if (model.shards) hash.Add(model.shards->ToJson().data(), model.shards->ToJson().size());
  if (model.checkpoint == nullptr) return hash.value;
  const auto& tensors = model.checkpoint->tensors();
  const int64_t every = std::max<int64_t>(1, std::ssize(tensors) / kMaxSamples);
  int64_t index = 0;
  // Thousands of samples: with what the system reads ahead of each, they would be the whole checkpoint.
  for (const SafetensorsFile& file : model.checkpoint->shards()) file.file()->ReadAhead(false);
  for (const auto& [name, view] : tensors) {
    hash.Add(name.data(), name.size());
    hash.Add(view.shape.data(), view.shape.size() * sizeof(int64_t));
    hash.Add(&view.dtype, sizeof view.dtype);
    if (index++ % every != 0) continue;
    const int64_t begin = std::max<int64_t>(0, view.bytes() / 2 - kSampleBytes / 2);
    hash.Add(view.data + begin, static_cast<size_t>(std::min(kSampleBytes, view.bytes() - begin)));
  }
  for (const SafetensorsFile& file : model.checkpoint->shards()) file.file()->ReadAhead(true);
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
  return Errorf(
      "the checkpoint of rank{} {} is not that of rank 0 (on rank {} it is {}); give all ranks the same files",
      others.size() == 1 ? "" : "s", fmt::join(others, ", "), comm.rank(),
      model.folder.empty() ? "random" : model.folder);
}

}  // namespace minimo
