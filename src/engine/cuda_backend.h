// The engine's parts on a CUDA device.
#pragma once

#include <memory>

#include "base/thread_team.h"
#include "engine/executor.h"
#include "engine/kv_plan.h"
#include "engine/load_model.h"
#include "minimo/engine.h"
#include "minimo/result.h"

namespace minimo {

struct CudaParts {
  std::unique_ptr<Executor> executor;
  ThreadTeam* team = nullptr;  // the executor's own
  KvPlan plan;
  int max_batched_tokens = 0;
};

// True if the options ask for one process on a device, or leave the choice and there is one.
bool WantsCuda(const EngineOptions& options);

// The model on device 0, its weights uploaded or made there. A budget of 0 in `kv` is replaced by what the device has
// left.
Result<CudaParts> MakeCudaParts(const EngineOptions& options, const EngineModel& model, KvPlanOptions kv);

}  // namespace minimo
