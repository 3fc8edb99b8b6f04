// How the ranks of an engine find to each other at start: everyone learns of everyone's errors, followers learn what
// the leader decided.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "engine/load_model.h"
#include "engine/parallel_executor.h"
#include "minimo/engine.h"
#include "models/loader.h"
#include "spec/parallel_plan.h"
#include "tensor/dtype.h"

namespace minimo {

// How many ranks the options ask for, and how they share the model; refuses in words what cannot work.
Result<ParallelPlan> PlanFor(const EngineOptions& options, const LoadedModel& model);

// Ranks of this plan that share this host's memory and cores.
int RanksOnHost(const EngineOptions& options, const ParallelPlan& plan);

// Loading and starting take longer than a step: until this is destroyed a slow rank is waited for.
class PatientRanks {
 public:
  explicit PatientRanks(const EngineOptions& options);
  ~PatientRanks();

 private:
  Communicator* comm_;  // null: one process
  int after_ms_;
};

// The leader's executor for the plan, on the CPU or on CUDA devices: one rank, thread ranks, or rank 0 of
// options.ranks, whose followers are told the layout. Every process has passed AgreeOn before. The model outlives the
// executor.
Result<RankedExecutor> MakeRankedExecutor(const EngineOptions& options, const EngineModel& model, bool cuda,
                                          const ParallelPlan& plan, const KvLayout& layout, DType kv_dtype);

}  // namespace minimo
