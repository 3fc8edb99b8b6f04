// One rank's file set, mapped and bound.
#include <filesystem>
#include <set>

#include "base/error.h"
#include "models/shard.h"
#include "models/tensor_share.h"
#include "models/weight_binding.h"
#include "models/weight_slots.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

Result<Checkpoint> OpenFiles(const LoadedModel& whole, int rank) {
  const ShardLayout& layout = *whole.shards;
  const std::string folder = (fs::path(whole.folder) / RankFolderName(rank, layout.ranks)).string();
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    return Errorf("{}: the files of rank {} are not there; copy them, or make them again with minimo convert", folder,
                  rank);
  }
  MINIMO_ASSIGN(Checkpoint files, Checkpoint::Open(folder));
  const auto wanted = RankMetadata(layout, rank);
  for (const SafetensorsFile& file : files.shards()) {
    if (file.metadata() == wanted) continue;
    return Errorf("{}: is not of rank {} of the model that {} describes; make the files of the ranks again",
                  file.path(), rank, kShardLayoutFile);
  }
  return files;
}

}  // namespace

Status OpenRankWeights(const LoadedModel& whole, int rank, RankModel* part) {
  const ShardLayout& layout = *whole.shards;
  MINIMO_ASSIGN(Checkpoint files, OpenFiles(whole, rank));
  part->files = std::make_shared<const Checkpoint>(std::move(files));
  part->weights = EmptyWeights(whole.spec);
  BindingFaults faults;
  WeightBinder binder(*part->files, &faults);
  for (const TensorSpec& t : RankManifest(whole.family->manifest(whole.spec), whole.spec, layout.ranks, layout.experts,
                                          rank, layout.row_grain)) {
    if (t.mtp) continue;
    if (Vector* vector = VectorSlot(t, &part->weights)) *vector = binder.Floats(t);
    if (Weight* matrix = MatrixSlot(t, &part->weights)) *matrix = binder.Matrix(t);
  }
  if (whole.spec.tied_embeddings) part->weights.lm_head = part->weights.embedding;
  return faults.AsStatus(part->files->folder());
}

}  // namespace minimo
