#include "engine/cuda_backend.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "cuda/cuda_executor.h"
#include "models/kv_layout.h"

namespace minimo {
namespace {

constexpr int kBatchedTokens = 2048;        // of a step: a prompt of 2048 tokens keeps decoding waiting 50 to 100 ms
constexpr double kShareOfFreeMemory = 0.94;  // for weights, buffers and KV cache

constexpr int kDummyInt4Group = 64;          // 4.25 bits a weight

class OnDevice final : public Executor {
 public:
  OnDevice(std::unique_ptr<ThreadTeam> team, std::unique_ptr<cuda::CudaExecutor> device)
      : team_(std::move(team)), device_(std::move(device)) {}
  const KvLayout& kv_layout() const override { return device_->kv_layout(); }
  int vocab_size() const override { return device_->vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override { return device_->Run(step, &output->logits); }
  Engine::ExpertLoad GetExpertLoad() const override {
    cuda::CudaExpertLoad load = device_->GetExpertLoad();
    return {load.layers, load.experts, std::move(load.counts)};
  }

 private:
  std::unique_ptr<ThreadTeam> team_;  // loads weights, then samples
  std::unique_ptr<cuda::CudaExecutor> device_;
};

}  // namespace

bool WantsCuda(const EngineOptions& options) {
  if (options.ranks != nullptr || options.tensor_parallel_size > 1) return false;
  return options.backend == "cuda" || (options.backend == "auto" && cuda::FindCudaDevice(0).ok());
}

Result<CudaParts> MakeCudaParts(const EngineOptions& options, const EngineModel& model, KvPlanOptions kv) {
  const ModelSpec& spec = model.model->spec;
  const DecoderWeights* weights = model.on_device ? nullptr : &model.model->weights;
  const int dummy_int4_group = model.int4_experts ? kDummyInt4Group : 0;
  MINIMO_ASSIGN(const cuda::CudaDevice device, cuda::FindCudaDevice(0));
  cuda::CudaOptions o;
  o.f32 = options.dtype == "f32";
  const std::string kv_dtype = o.f32 ? "f32" : "bf16";
  if (options.kv_cache_dtype != "auto" && options.kv_cache_dtype != kv_dtype) {
    return Errorf("kv_cache_dtype \"{}\" is not supported on CUDA with dtype \"{}\"; use {}", options.kv_cache_dtype,
                  options.dtype, kv_dtype);
  }
  o.max_tokens = options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : kBatchedTokens;
  o.max_tokens = std::max(o.max_tokens, options.max_num_seqs);
  o.random_weights = weights == nullptr;
  o.random_int4_group = dummy_int4_group;
  o.random_fp8_head = dummy_int4_group > 0;
  if (kv.budget_bytes == 0) {
    MINIMO_ASSIGN(const int64_t beside, cuda::CudaExecutor::BytesBesideKv(spec, weights, o));
    // At least a block or two is planned, so that Create can say in words what does not fit.
    kv.budget_bytes = std::max(static_cast<int64_t>(kShareOfFreeMemory * device.free_bytes) - beside, int64_t{256} << 20);
  }
  CudaParts parts;
  const DType dtype = o.f32 ? DType::kF32 : DType::kBf16;
  MINIMO_ASSIGN(parts.plan, PlanKv(MakeKvLayout(spec, dtype, options.block_size), kv));
  auto team = std::make_unique<ThreadTeam>(options.threads);
  MINIMO_ASSIGN(auto device_executor, cuda::CudaExecutor::Create(spec, weights, parts.plan.layout, o, *team));
  parts.team = team.get();
  parts.executor = std::make_unique<OnDevice>(std::move(team), std::move(device_executor));
  parts.max_batched_tokens = o.max_tokens;
  return parts;
}

}  // namespace minimo
