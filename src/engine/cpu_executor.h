// The Executor on the CPU: one decoder, one KV storage, one thread team. Of several ranks, one rank's part.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/thread_team.h"
#include "engine/executor.h"
#include "layers/decoder.h"
#include "layers/touch_weights.h"
#include "models/loader.h"
#include "models/shard.h"

namespace minimo {

class CpuExecutor final : public Executor {
 public:
  // Allocates the blocks and rings that `layout` counts, and lays the weights out if the model asks for int8
  // activations. The model outlives the executor.
  static Result<std::unique_ptr<CpuExecutor>> Create(const LoadedModel& model, const KvLayout& layout, DType kv_dtype,
                                                     int threads);
  // One rank of `plan`: `layout` tells counts and is otherwise replaced by the rank's own geometry. Every rank makes
  // the same calls of Run; only rank 0 gets logits. `comm` outlives the executor. `nodes`: two and more memory nodes to
  // spread over, for whoever is the machine's only rank.
  static Result<std::unique_ptr<CpuExecutor>> CreateRank(const LoadedModel& model, const ParallelPlan& plan,
                                                         Communicator* comm, const KvLayout& layout, DType kv_dtype,
                                                         int threads, std::vector<NumaNode> nodes = {});

  const KvLayout& kv_layout() const override { return kv_.layout(); }
  int vocab_size() const override { return model_.spec.vocab; }
  Status Run(const StepRecord& step, StepOutput* output) override;
  bool OffersCandidates() const override { return !model_.share.alone(); }
  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override;

  Engine::ExpertLoad GetExpertLoad() const override;

  ThreadTeam& team() { return team_; }

 private:
  CpuExecutor(RankModel model, const KvLayout& layout, DType kv_dtype, int threads,
              std::vector<NumaNode> nodes);
  Status GatherCandidates(std::span<const RowRequest> requests, StepOutput* output);

  RankModel model_;
  ThreadTeam team_;
  Decoder decoder_;
  KvStorage kv_;
  std::vector<float> logits_;
  std::vector<std::byte> sent_, received_;  // candidates
  DrawScratch scratch_;
  std::optional<WeightToucher> toucher_;  // of model_'s mapped weights
};

}  // namespace minimo
