#include "apps/logits_cuda.h"

#include <algorithm>
#include <numeric>

#include "base/thread_team.h"
#include "cuda/cuda_executor.h"
#include "models/kv_layout.h"

namespace minimo {

Result<std::vector<float>> LogitsOnCuda(const LoadedModel& model, std::span<const int32_t> ids, int chunk, bool f32,
                                        int threads) {
  const int tokens = static_cast<int>(ids.size());
  KvLayout layout = MakeKvLayout(model.spec, f32 ? DType::kF32 : DType::kBf16, 16);
  layout.num_blocks = (tokens + layout.block_size - 1) / layout.block_size;
  layout.num_rings = layout.ring_tokens > 0 ? 1 : 0;
  cuda::CudaOptions options;
  options.f32 = f32;
  options.max_tokens = std::min(chunk, tokens);
  ThreadTeam team(threads);
  MINIMO_ASSIGN(const auto executor, cuda::CudaExecutor::Create(model.spec, &model.weights, layout, options, team));
  std::vector<float> logits;
  for (int past = 0; past < tokens; past += chunk) {
    const int count = std::min(chunk, tokens - past);
    StepRecord step;
    step.tokens.assign(ids.begin() + past, ids.begin() + past + count);
    step.block_tables.resize(static_cast<size_t>(layout.num_blocks));
    std::iota(step.block_tables.begin(), step.block_tables.end(), 0);
    SequenceStep s;
    s.num_tokens = s.num_logits = count;
    s.past = past;
    s.num_blocks = static_cast<int32_t>(layout.num_blocks);
    s.ring = layout.num_rings > 0 ? 0 : -1;
    step.sequences = {s};
    std::span<float> rows;
    MINIMO_TRY(executor->Run(step, &rows));
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  return logits;
}

}  // namespace minimo
