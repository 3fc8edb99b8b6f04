// One rank's part of a loaded model. Matrices are views of the whole one's, so ranks of one host share its pages and
// every byte is read from disk once; or, where the checkpoint is written as one file set a rank, of that set.
#pragma once

#include "layers/rank_share.h"
#include "layers/weight.h"
#include "models/loader.h"
#include "spec/parallel_plan.h"

namespace minimo {

struct RankModel {
  ModelSpec spec;  // heads and dense rows of this rank; hidden, vocab and experts of the whole
  DecoderWeights weights;
  RankShare share;
  std::shared_ptr<const Checkpoint> files;  // of this rank alone; null: views of the whole model's
};

// PlanRanks for this model; tensor_parallel_size 0: one rank. Of files written for ranks the plan is theirs, and flags
// that ask for another are refused.
Result<ParallelPlan> PlanModel(const LoadedModel& model, ParallelFlags flags, int max_num_seqs);

// The spec of one rank: its heads and dense rows.
ModelSpec RankSpec(const ModelSpec& whole, const ParallelPlan& plan, int rank);

// Rows of an expert that a share must be a multiple of, so that no scale group of the down projection is cut.
int64_t RowGrain(const DecoderWeights& whole);

// What the layers need to know of one rank's share, each expert's rows cut at multiples of `expert_row_grain`.
RankShare MakeRankShare(const ModelSpec& whole, const ParallelPlan& plan, Communicator* comm, int64_t expert_row_grain);

// `comm` may be null if the plan has one rank. It and the model's files outlive the result. Fails only where the rank
// has files of its own and they are not as they should be.
Result<RankModel> ShardModel(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm);

// Fills in the weights from the files of one rank; whole.shards says how they are laid out.
Status OpenRankWeights(const LoadedModel& whole, int rank, RankModel* part);

// A number that differs if two ranks have read different checkpoints: over the config, every tensor's name, type and
// shape, and samples of their bytes.
uint64_t Fingerprint(const LoadedModel& model);

// The same checkpoint on every rank, or an error that names those that differ from rank 0's. Collective.
Status CheckSameCheckpoint(const LoadedModel& model, Communicator& comm);

}  // namespace minimo
