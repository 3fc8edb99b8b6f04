// One device's part of a model on several, by the same plan as the CPU's ranks.
#pragma once

#include <optional>

#include "comm/communicator.h"
#include "layers/rank_share.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "models/loader.h"
#include "spec/parallel_plan.h"

namespace minimo::cuda {

struct DevicePart {
  // Heads, dense rows and (of prefill) expert rows of this rank; hidden, vocab and experts of the whole.
  ModelSpec spec;
  DecoderWeights weights;  // views; the embedding whole. Without layers where the model has no weights
  std::shared_ptr<const Checkpoint> files;  // where the rank has files of its own
  RankShare share;
  std::optional<MoeShare> decode_experts;  // where decode steps share the experts in another way than prefill
};

// Refuses what devices cannot do: ranks that would hold no heads or no experts. The model's files and `comm` outlive
// the result. expert_row_grain: of random weights; else the weights' own.
Result<DevicePart> MakeDevicePart(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm,
                                  int64_t expert_row_grain = 1);

}  // namespace minimo::cuda
