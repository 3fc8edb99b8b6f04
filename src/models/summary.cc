#include "models/summary.h"

#include <filesystem>
#include <span>

#include "base/error.h"
#include "models/kv_layout.h"
#include "models/shard.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

const char* PartName(const TensorSpec& t) {
  if (t.mtp) return "mtp";
  switch (t.part) {
    case TensorPart::kEmbedding: return "embedding";
    case TensorPart::kLmHead: return "lm head";
    case TensorPart::kQ:
    case TensorPart::kK:
    case TensorPart::kV:
    case TensorPart::kO:
    case TensorPart::kSinks: return "attention";
    case TensorPart::kRouter:
    case TensorPart::kRouterBias: return "router";
    case TensorPart::kGate:
    case TensorPart::kUp:
    case TensorPart::kDown: return "dense ffn";
    case TensorPart::kExpertGate:
    case TensorPart::kExpertUp:
    case TensorPart::kExpertDown: return "experts";
    default: return "norms";
  }
}

ModelSummary SummarizeFiles(const LoadedModel& model, std::span<const Checkpoint* const> files) {
  ModelSummary s;
  const ModelSpec& spec = model.spec;
  for (const TensorSpec& t : model.family->manifest(spec)) {
    int64_t bytes = 0;
    const PackedNames packed = PackedNamesOf(t.name);
    for (const std::string& name : {t.name, ScaleName(t.name), packed.packed, packed.scale, packed.shape}) {
      for (const Checkpoint* checkpoint : files) {
        const TensorView* view = checkpoint->Find(name);
        if (view == nullptr) continue;
        bytes += view->bytes();
        s.bytes_by_dtype[std::string(NameOf(view->dtype))] += view->bytes();
      }
    }
    const int64_t count = NumElements(t.shape);
    PartSize& part = s.parts[PartName(t)];
    part.parameters += count;
    part.bytes += bytes;
    if (t.mtp) {
      s.mtp_parameters += count;
      continue;
    }
    // One token reads one row of the embedding, and top_k of the experts.
    const bool expert = t.expert >= 0;
    const int64_t share = t.part == TensorPart::kEmbedding ? spec.vocab : expert ? spec.moe.experts : 1;
    const int64_t times = expert ? spec.moe.top_k : 1;
    part.active += count * times / share;
    s.weight_bytes_per_token += bytes * times / share;
    s.total.parameters += count;
    s.total.bytes += bytes;
  }
  for (const auto& [name, part] : s.parts) s.total.active += part.active;
  const KvLayout kv = MakeKvLayout(spec, DType::kBf16, 16);
  s.kv_bytes_per_token = kv.BytesPerToken();
  s.kv_bytes_per_sequence = kv.BytesPerRing();
  return s;
}

}  // namespace

ModelSummary Summarize(const LoadedModel& model) {
  const Checkpoint* whole = model.checkpoint.get();
  return SummarizeFiles(model, {&whole, 1});
}

Result<ModelSummary> SummarizeRanks(const LoadedModel& model, std::vector<int>* missing) {
  std::vector<RankModel> ranks;
  for (int rank = 0; rank < model.shards->ranks; ++rank) {
    std::error_code ignored;
    if (!fs::is_directory(fs::path(model.folder) / RankFolderName(rank, model.shards->ranks), ignored)) {
      missing->push_back(rank);
      continue;
    }
    MINIMO_TRY(OpenRankWeights(model, rank, &ranks.emplace_back()));
  }
  std::vector<const Checkpoint*> files;
  for (const RankModel& rank : ranks) files.push_back(rank.files.get());
  return SummarizeFiles(model, files);
}

}  // namespace minimo
