// The engine's parts on CUDA devices: one, or one a rank.
#pragma once

#include <memory>

#include "base/thread_team.h"
#include "comm/communicator.h"
#include "engine/executor.h"
#include "engine/kv_plan.h"
#include "engine/load_model.h"
#include "minimo/engine.h"
#include "minimo/result.h"
#include "spec/parallel_plan.h"

namespace minimo {

struct CudaParts {
  std::unique_ptr<Executor> executor;
  ThreadTeam* team = nullptr;  // the executor's own
};

// True if the options ask for devices, or leave the choice and this process has one. Ranks that are threads of one
// process run on the CPU.
bool WantsCuda(const EngineOptions& options);

// Tokens of a step at most.
int CudaBatchedTokens(const EngineOptions& options);

// How many blocks and rings fit this process's device beside its part of the model. A budget of 0 in `kv` is replaced
// by what the device has left.
Result<KvPlan> PlanCudaKv(const EngineOptions& options, const EngineModel& model, const ParallelPlan& plan,
                          KvPlanOptions kv);

// The model, or this rank's part of it, on this process's device, its weights uploaded or made there. Collective over
// options.ranks. The model outlives the executor.
Result<CudaParts> MakeCudaParts(const EngineOptions& options, const EngineModel& model, const ParallelPlan& plan,
                                KvLayout layout);

}  // namespace minimo
