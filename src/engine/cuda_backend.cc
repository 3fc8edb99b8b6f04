#include "engine/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "cuda/cuda_executor.h"
#include "cuda/device_part.h"
#include "layers/kv_storage.h"
#include "models/kv_layout.h"

namespace minimo {
namespace {

constexpr int kBatchedTokens = 2048;        // of a step: a prompt of 2048 tokens keeps decoding waiting 50 to 100 ms
constexpr double kShareOfFreeMemory = 0.94;  // for weights, buffers and KV cache
constexpr int kDummyInt4Group = 64;          // 4.25 bits a weight

bool ManyProcesses(const EngineOptions& options) { return options.ranks != nullptr && options.ranks->size() > 1; }

// Ranks of one host take its devices in order.
int DeviceOf(const EngineOptions& options) {
  if (!ManyProcesses(options)) return 0;
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"}) {
    if (const char* local = std::getenv(name)) return std::max(0, std::atoi(local));
  }
  return options.ranks->rank();
}

// What one process's device holds, and how.
struct DeviceModel {
  std::optional<cuda::DevicePart> part;  // of several ranks
  const ModelSpec* spec = nullptr;
  const DecoderWeights* weights = nullptr;  // null: made on the device
  cuda::CudaOptions options;
};

Result<std::unique_ptr<DeviceModel>> Describe(const EngineOptions& options, const EngineModel& model,
                                              const ParallelPlan& plan) {
  auto d = std::make_unique<DeviceModel>();
  cuda::CudaOptions& o = d->options;
  o.f32 = options.dtype == "f32";
  const std::string kv_dtype = o.f32 ? "f32" : "bf16";
  if (options.kv_cache_dtype != "auto" && options.kv_cache_dtype != kv_dtype) {
    return Errorf("kv_cache_dtype \"{}\" is not supported on CUDA with dtype \"{}\"; use {}", options.kv_cache_dtype,
                  options.dtype, kv_dtype);
  }
  o.device = DeviceOf(options);
  o.max_tokens = std::max(CudaBatchedTokens(options), options.max_num_seqs);
  o.random_weights = model.on_device;
  o.random_int4_group = model.on_device && model.int4_experts ? kDummyInt4Group : 0;
  o.random_fp8_head = o.random_int4_group > 0;
  o.fp8_prefill = options.prefill_activations == "fp8";
  if (options.rank_timeout_ms > 0) o.rank_timeout_ms = options.rank_timeout_ms;
  d->spec = &model.model->spec;
  d->weights = model.on_device ? nullptr : &model.model->weights;
  if (ManyProcesses(options)) {
    MINIMO_ASSIGN(d->part, cuda::MakeDevicePart(*model.model, plan, options.ranks.get(),
                                                std::max(1, o.random_int4_group)));
    d->spec = &d->part->spec;
    if (d->weights != nullptr) d->weights = &d->part->weights;
    o.share = &d->part->share;
  }
  return d;
}

class OnDevice final : public Executor {
 public:
  OnDevice(std::unique_ptr<ThreadTeam> team, std::unique_ptr<DeviceModel> model,
           std::unique_ptr<cuda::CudaExecutor> device)
      : team_(std::move(team)), model_(std::move(model)), device_(std::move(device)) {}
  const KvLayout& kv_layout() const override { return device_->kv_layout(); }
  int vocab_size() const override { return device_->vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override { return device_->Run(step, &output->logits); }
  Engine::ExpertLoad GetExpertLoad() const override {
    cuda::CudaExpertLoad load = device_->GetExpertLoad();
    return {load.layers, load.experts, std::move(load.counts)};
  }

 private:
  std::unique_ptr<ThreadTeam> team_;  // loads weights, then samples
  std::unique_ptr<DeviceModel> model_;
  std::unique_ptr<cuda::CudaExecutor> device_;
};

}  // namespace

bool WantsCuda(const EngineOptions& options) {
  if (!ManyProcesses(options) && options.tensor_parallel_size > 1) return false;
  return options.backend == "cuda" || (options.backend == "auto" && cuda::FindCudaDevice(DeviceOf(options)).ok());
}

int CudaBatchedTokens(const EngineOptions& options) {
  return options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : kBatchedTokens;
}

Result<KvPlan> PlanCudaKv(const EngineOptions& options, const EngineModel& model, const ParallelPlan& plan,
                          KvPlanOptions kv) {
  MINIMO_ASSIGN(const auto described, Describe(options, model, plan));
  const DeviceModel& d = *described;
  MINIMO_ASSIGN(const cuda::CudaDevice device, cuda::FindCudaDevice(d.options.device));
  if (kv.budget_bytes == 0) {
    MINIMO_ASSIGN(const int64_t beside, cuda::CudaExecutor::BytesBesideKv(*d.spec, d.weights, d.options));
    // At least a block or two is planned, so that Create can say in words what does not fit.
    kv.budget_bytes = std::max(static_cast<int64_t>(kShareOfFreeMemory * device.free_bytes) - beside, int64_t{256} << 20);
  }
  const DType dtype = d.options.f32 ? DType::kF32 : DType::kBf16;
  return PlanKv(MakeKvLayout(*d.spec, dtype, options.block_size), kv);
}

Result<CudaParts> MakeCudaParts(const EngineOptions& options, const EngineModel& model, const ParallelPlan& plan,
                                KvLayout layout) {
  MINIMO_ASSIGN(auto d, Describe(options, model, plan));
  layout.groups = GroupKv(*d->spec).groups;  // of this rank's heads
  const int ranks_on_host = ManyProcesses(options) ? plan.ranks : 1;
  const int threads = options.threads > 0 ? options.threads : AvailableCores();
  auto team = std::make_unique<ThreadTeam>(std::max(1, threads / ranks_on_host));
  MINIMO_ASSIGN(auto device, cuda::CudaExecutor::Create(*d->spec, d->weights, layout, d->options, *team));
  CudaParts parts;
  parts.team = team.get();
  parts.executor = std::make_unique<OnDevice>(std::move(team), std::move(d), std::move(device));
  return parts;
}

}  // namespace minimo
