#include "engine/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
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
constexpr int kDummyInt4Group = 64;          // 4.25 bits a weight

bool ManyProcesses(const EngineOptions& options) { return options.ranks != nullptr && options.ranks->size() > 1; }

// Ranks of one host take its devices in order, or what MINIMO_CUDA_DEVICE says: a launcher may show each one alone.
int DeviceOf(const EngineOptions& options) {
  if (const char* device = std::getenv("MINIMO_CUDA_DEVICE")) return std::max(0, std::atoi(device));
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
  DType kv_dtype = DType::kBf16;
};

Result<std::unique_ptr<DeviceModel>> Describe(const EngineOptions& options, const EngineModel& model,
                                              const ParallelPlan& plan) {
  auto d = std::make_unique<DeviceModel>();
  cuda::CudaOptions& o = d->options;
  o.f32 = options.dtype == "f32";
  const std::string kv_dtype = o.f32 ? "f32" : "bf16";
  if (options.kv_cache_dtype != "auto" && options.kv_cache_dtype != kv_dtype && options.kv_cache_dtype != "fp8") {
    return Errorf("kv_cache_dtype \"{}\" is not supported on CUDA with dtype \"{}\"; use {} or fp8",
                  options.kv_cache_dtype, options.dtype, kv_dtype);
  }
  d->kv_dtype = options.kv_cache_dtype == "fp8" ? DType::kF8E4M3 : o.f32 ? DType::kF32 : DType::kBf16;
  o.device = DeviceOf(options);
  // Replicas' shares of both are rounded up (ShareOfReplica).
  o.max_tokens = std::max({CudaBatchedTokens(options), options.max_num_seqs + plan.replicas - 1, 2 * plan.replicas});
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
    if (d->part->decode_experts) o.decode_experts = &*d->part->decode_experts;
  }
  return d;
}

RowCandidates CandidatesOf(const cuda::RowDigest& digest, int32_t wanted) {
  RowCandidates row;
  row.bad = digest.bad != 0;
  if (row.bad) return row;
  row.sum = digest.sum;
  row.tempered_sum = digest.mass;
  const int32_t count = std::min(wanted, digest.count);
  for (int32_t i = 0; i < count; ++i) row.best.push_back({digest.values[i], digest.tokens[i]});
  if (count == 0) row.best.push_back({digest.max, digest.argmax});
  // What is left out is no greater than the last that is here; what the device left out is below its floor.
  row.floor = count > 0 && count == digest.count
                  ? std::nextafter(digest.floor, -std::numeric_limits<float>::infinity())
                  : row.best.back().logit;
  return row;
}

class OnDevice final : public Executor {
 public:
  OnDevice(std::unique_ptr<ThreadTeam> team, std::unique_ptr<DeviceModel> model,
           std::unique_ptr<cuda::CudaExecutor> device)
      : team_(std::move(team)), model_(std::move(model)), device_(std::move(device)) {}
  const KvLayout& kv_layout() const override { return device_->kv_layout(); }
  int vocab_size() const override { return device_->vocab_size(); }
  bool OffersCandidates() const override { return true; }
  bool BeginsAhead() const override { return true; }
  Status Run(const StepRecord& step, StepOutput* output) override {
    on_host_ = step.row_requests.size() > static_cast<size_t>(device_->MostDigests());
    if (!on_host_ && !step.row_requests.empty()) return RunDigests(step, output);
    MINIMO_TRY(device_->Run(step, &output->logits));
    return on_host_ && Leads() ? ListOnHost(step, output) : Status();
  }
  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override {
    if (!on_host_) return device_->ReadLogits(rows, &output->logits);
    if (!Leads()) return {};
    const auto vocab = static_cast<size_t>(vocab_size());
    logits_.clear();
    for (const int32_t row : rows) {
      const auto from = all_logits_.subspan(static_cast<size_t>(row) * vocab, vocab);
      logits_.insert(logits_.end(), from.begin(), from.end());
    }
    output->logits = logits_;
    return {};
  }
  Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) override {
    return device_->StartNext(step, tokens);
  }
  Engine::ExpertLoad GetExpertLoad() const override {
    cuda::CudaExpertLoad load = device_->GetExpertLoad();
    return {load.layers, load.experts, std::move(load.counts)};
  }

 private:
  bool Leads() const { return model_->options.share == nullptr || model_->options.share->comm->rank() == 0; }

  Status RunDigests(const StepRecord& step, StepOutput* output) {
    scales_.clear();
    whole_.clear();
    for (const RowRequest& r : step.row_requests) {
      if (r.candidates == 0) whole_.push_back(static_cast<int32_t>(scales_.size()));
      scales_.push_back(r.candidates > 1 ? 1 / r.temperature : 0.0f);
    }
    MINIMO_TRY(device_->RunDigests(step, scales_, output->goes_on && whole_.empty(), &digests_));
    output->candidates.clear();
    for (size_t i = 0; i < digests_.size(); ++i) {
      const int32_t wanted = step.row_requests[i].candidates;
      if (wanted > 0) output->candidates.push_back(CandidatesOf(*digests_[i], wanted));
    }
    output->logits = {};
    return whole_.empty() ? Status() : device_->ReadLogits(whole_, &output->logits);
  }

  // More rows than there is room for digests, as log-probabilities of a prompt take.
  Status ListOnHost(const StepRecord& step, StepOutput* output) {
    all_logits_ = output->logits;
    const auto vocab = static_cast<size_t>(vocab_size());
    output->candidates.clear();
    whole_.clear();
    for (size_t row = 0; row < step.row_requests.size(); ++row) {
      const CandidateNeed need{step.row_requests[row].candidates, step.row_requests[row].temperature};
      if (need.count == 0) {
        whole_.push_back(static_cast<int32_t>(row));
        continue;
      }
      std::vector<std::byte> listed(CandidateBytes(need, vocab));
      PutCandidates(all_logits_.subspan(row * vocab, vocab), 0, need, &scratch_, listed.data());
      const std::byte* part = listed.data();
      output->candidates.push_back(MergeCandidates({&part, 1}, {&vocab, 1}, need));
    }
    return FetchLogits(whole_, output);
  }

  std::vector<float> scales_;
  std::vector<int32_t> whole_;  // rows of the step that are wanted whole
  std::vector<const cuda::RowDigest*> digests_;
  std::vector<float> logits_;
  bool on_host_ = false;               // the step was run without digests; of several ranks, rank 0 has
  std::span<const float> all_logits_;  // the device's
  DrawScratch scratch_;
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
    const auto ours = static_cast<int64_t>(options.gpu_memory_utilization * static_cast<double>(device.free_bytes));
    kv.budget_bytes = std::max(ours - beside, int64_t{256} << 20);
  }
  return PlanKv(MakeKvLayout(*d.spec, d.kv_dtype, options.block_size), kv);
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
