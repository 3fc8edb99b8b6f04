// One rank's part of a loaded model. Matrices are views of the whole one's, so ranks of one host share its pages and
// every byte is read from disk once.
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
};

// The spec of one rank: its heads and dense rows.
ModelSpec RankSpec(const ModelSpec& whole, const ParallelPlan& plan, int rank);

// `comm` may be null if the plan has one rank. It and the model's files outlive the result.
RankModel ShardModel(const LoadedModel& whole, const ParallelPlan& plan, Communicator* comm);

// A number that differs if two ranks have read different checkpoints: over the config, every tensor's name, type and
// shape, and samples of their bytes.
uint64_t Fingerprint(const LoadedModel& model);

// The same checkpoint on every rank, or an error that names those that differ from rank 0's. Collective.
Status CheckSameCheckpoint(const LoadedModel& model, Communicator& comm);

}  // namespace minimo
