#include "engine/cpu_executor.h"

#include <new>

#include "base/error.h"

namespace minimo {

namespace {

KvLayout WithGroupsOf(const ModelSpec& spec, KvLayout layout) {
  layout.groups = GroupKv(spec).groups;
  return layout;
}

}  // namespace

CpuExecutor::CpuExecutor(RankModel model, const KvLayout& layout, DType kv_dtype, int threads)
    : model_(std::move(model)),
      team_(threads),
      decoder_(model_.spec, model_.weights, team_, model_.share),
      kv_(GroupKv(model_.spec), WithGroupsOf(model_.spec, layout), kv_dtype) {}

Result<std::unique_ptr<CpuExecutor>> CpuExecutor::Create(const LoadedModel& model, const KvLayout& layout,
                                                         DType kv_dtype, int threads) {
  return CreateRank(model, {}, nullptr, layout, kv_dtype, threads);
}

Result<std::unique_ptr<CpuExecutor>> CpuExecutor::CreateRank(const LoadedModel& model, const ParallelPlan& plan,
                                                             Communicator* comm, const KvLayout& layout,
                                                             DType kv_dtype, int threads) {
  MINIMO_ASSIGN(RankModel part, ShardModel(model, plan, comm));
  try {
    return std::unique_ptr<CpuExecutor>(new CpuExecutor(std::move(part), layout, kv_dtype, threads));
  } catch (const std::bad_alloc&) {
    return Errorf("the KV cache of {} blocks and {} rings takes {} bytes, more memory than there is; ask for less",
                  layout.num_blocks, layout.num_rings,
                  layout.num_blocks * layout.BytesPerBlock() + layout.num_rings * layout.BytesPerRing());
  }
}

Status CpuExecutor::Run(const StepRecord& step, StepOutput* output) {
  const bool leads = model_.share.alone() || model_.share.comm->rank() == 0;
  const int rows = leads ? step.NumLogits() : 0;
  logits_.resize(static_cast<size_t>(rows) * static_cast<size_t>(model_.spec.vocab));
  MINIMO_TRY(decoder_.Forward(step, kv_, logits_.data(), nullptr));
  output->logits = logits_;
  return {};
}

Engine::ExpertLoad CpuExecutor::GetExpertLoad() const {
  Engine::ExpertLoad load;
  load.experts = model_.spec.moe.experts;
  for (size_t i = 0; i < model_.spec.layers.size(); ++i) {
    if (!model_.spec.layers[i].moe) continue;
    const std::vector<int64_t>& counts = decoder_.expert_load()[i];
    load.counts.insert(load.counts.end(), counts.begin(), counts.end());
    ++load.layers;
  }
  return load;
}

}  // namespace minimo
