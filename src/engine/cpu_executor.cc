#include "engine/cpu_executor.h"

#include <new>

#include "base/error.h"

namespace minimo {

CpuExecutor::CpuExecutor(const LoadedModel& model, const KvLayout& layout, DType kv_dtype, int threads)
    : model_(model),
      team_(threads),
      decoder_(model.spec, model.weights, team_),
      kv_(GroupKv(model.spec), layout, kv_dtype) {}

Result<std::unique_ptr<CpuExecutor>> CpuExecutor::Create(const LoadedModel& model, const KvLayout& layout,
                                                         DType kv_dtype, int threads) {
  try {
    return std::unique_ptr<CpuExecutor>(new CpuExecutor(model, layout, kv_dtype, threads));
  } catch (const std::bad_alloc&) {
    return Errorf("the KV cache of {} blocks and {} rings takes {} bytes, more memory than there is; ask for less",
                  layout.num_blocks, layout.num_rings,
                  layout.num_blocks * layout.BytesPerBlock() + layout.num_rings * layout.BytesPerRing());
  }
}

Status CpuExecutor::Run(const StepRecord& step, StepOutput* output) {
  logits_.resize(static_cast<size_t>(step.NumLogits()) * static_cast<size_t>(model_.spec.vocab));
  decoder_.Forward(step, kv_, logits_.data(), nullptr);
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
