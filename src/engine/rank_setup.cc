#include "engine/rank_setup.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "engine/cpu_executor.h"
#include "engine/cuda_backend.h"
#include "engine/load_model.h"
#include "models/shard.h"

namespace minimo {
namespace {

// A cold 300 GB checkpoint on shared storage (PITFALLS 44: up to 155 s a rank) and then some.
constexpr int kLoadTimeoutMs = 15 * 60 * 1000;

int TimeoutMs(const EngineOptions& options) {
  return options.rank_timeout_ms > 0 ? options.rank_timeout_ms : kDefaultCommTimeoutMs;
}

int ThreadsEach(const EngineOptions& options, int ranks_on_host) {
  return std::max(1, (options.threads > 0 ? options.threads : AvailableCores()) / ranks_on_host);
}

// What the leader decides for all: plain numbers, the same build on every rank.
struct Decisions {
  ParallelPlan plan;
  int32_t num_blocks;
  int32_t num_rings;
  int32_t ring_tokens;
  int32_t block_size;
  int32_t bytes_per_element;
  DType kv_dtype;
  bool cuda;
};

// One process's rank, on the CPU or a device.
Result<RankedExecutor> MakeLocal(const EngineOptions& options, const EngineModel& model, bool cuda,
                                 const ParallelPlan& plan, const KvLayout& layout, DType kv_dtype) {
  if (cuda) {
    MINIMO_ASSIGN(CudaParts device, MakeCudaParts(options, model, plan, layout));
    return RankedExecutor{std::move(device.executor), device.team};
  }
  Communicator* comm = plan.ranks > 1 ? options.ranks.get() : nullptr;
  const int threads = comm != nullptr ? ThreadsEach(options, RanksOnHost(options, plan)) : options.threads;
  MINIMO_ASSIGN(auto local, CpuExecutor::CreateRank(*model.model, plan, comm, layout, kv_dtype, threads,
                                                        options.numa == "distribute" ? UsableNodes()
                                                                                     : std::vector<NumaNode>()));
  ThreadTeam* team = &local->team();
  return RankedExecutor{std::move(local), team};
}

Status CheckWorld(Communicator& comm, const LoadedModel& model) {
  Status same = CheckSameCheckpoint(model, comm);
  return same.ok() ? same : Status(Errorf("rank {} of {}: {}", comm.rank(), comm.size(), same.error().message));
}

}  // namespace

PatientRanks::PatientRanks(const EngineOptions& options)
    : comm_(options.ranks.get()), after_ms_(TimeoutMs(options)) {
  if (comm_ != nullptr) comm_->set_timeout_ms(kLoadTimeoutMs);
}
PatientRanks::~PatientRanks() {
  if (comm_ != nullptr) comm_->set_timeout_ms(after_ms_);
}

Result<ParallelPlan> PlanFor(const EngineOptions& options, const LoadedModel& model) {
  const int processes = options.ranks ? options.ranks->size() : 0;
  ParallelFlags flags{options.tensor_parallel_size, options.enable_expert_parallel, options.moe_prefill,
                      options.moe_decode, options.data_parallel_size};
  const int replicas = flags.data_parallel_size;
  if (processes > 1 && replicas > 0 && processes % replicas != 0) {
    return Errorf("--data-parallel-size is {}, but {} processes were started: they do not divide", replicas, processes);
  }
  if (flags.tensor_parallel_size == 0) flags.tensor_parallel_size = processes / std::max(1, replicas);
  if (replicas > 1 && flags.tensor_parallel_size == 0) flags.tensor_parallel_size = 1;
  if (processes > 1 && flags.tensor_parallel_size * replicas != processes) {
    return Errorf("--tensor-parallel-size is {}{}, but {} processes were started; make them equal, or leave the flag "
                  "out",
                  flags.tensor_parallel_size, replicas > 1 ? fmt::format(" in each of {} replicas", replicas) : "",
                  processes);
  }
  return PlanModel(model, flags, options.max_num_seqs);
}

int RanksOnHost(const EngineOptions& options, const ParallelPlan& plan) {
  if (!options.ranks || options.ranks->size() == 1) return plan.ranks;
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}) {
    const char* local = std::getenv(name);
    if (local != nullptr) return std::clamp(std::atoi(local), 1, plan.ranks);
  }
  return plan.ranks;
}

Result<RankedExecutor> MakeRankedExecutor(const EngineOptions& options, const EngineModel& model, bool cuda,
                                          const ParallelPlan& plan, const KvLayout& layout, DType kv_dtype) {
  for (const std::string& line : Describe(model.model->spec, plan, {})) LogInfo("{}", line);
  if (!options.ranks || options.ranks->size() == 1) {
    if (plan.ranks == 1) return MakeLocal(options, model, cuda, plan, layout, kv_dtype);
    return MakeThreadRanksExecutor(*model.model, plan, layout, kv_dtype, ThreadsEach(options, plan.ranks),
                                   TimeoutMs(options));
  }
  Communicator& comm = *options.ranks;
  MINIMO_TRY(AgreeOn(&comm, CheckWorld(comm, *model.model)));
  Decisions d{plan, layout.num_blocks, layout.num_rings, layout.ring_tokens, layout.block_size,
              layout.bytes_per_element, kv_dtype, cuda};
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&d, 1)), 0));
  MINIMO_TRY(AgreeOn(&comm, {}));  // followers can do what was decided
  auto local = MakeLocal(options, model, cuda, plan, layout, kv_dtype);
  MINIMO_TRY(AgreeOn(&comm, local.ok() ? Status() : Status(local.error())));
  return RankedExecutor{std::make_unique<ParallelExecutor>(std::move(local->executor), comm), local->team};
}

namespace {

// The follower's half of MakeRankedExecutor.
Result<std::unique_ptr<Executor>> MakeFollower(const EngineOptions& options, const EngineModel& model,
                                               Communicator& comm) {
  MINIMO_TRY(AgreeOn(&comm, CheckWorld(comm, *model.model)));
  Decisions d{};
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&d, 1)), 0));
  Status able;
  if (d.cuda != WantsCuda(options)) {
    able = Errorf("rank 0 runs on {}, this one {}; give --backend cuda or --backend cpu", d.cuda ? "a GPU" : "the CPU",
                  d.cuda ? "finds none" : "has a GPU");
  }
  MINIMO_TRY(AgreeOn(&comm, able));
  KvLayout layout;
  layout.num_blocks = d.num_blocks;
  layout.num_rings = d.num_rings;
  layout.ring_tokens = d.ring_tokens;
  layout.block_size = d.block_size;
  layout.bytes_per_element = d.bytes_per_element;
  auto local = MakeLocal(options, model, d.cuda, d.plan, layout, d.kv_dtype);
  MINIMO_TRY(AgreeOn(&comm, local.ok() ? Status() : Status(local.error())));
  return std::move(local->executor);
}

}  // namespace

Status FollowEngine(const EngineOptions& options) {
  Communicator& comm = *options.ranks;
  std::unique_ptr<Executor> local;
  EngineModel model;
  {
    const PatientRanks patience(options);
    auto loaded = LoadEngineModel(options);
    Status ready = loaded.ok() ? Status() : Status(loaded.error());
    if (ready.ok()) {
      model = std::move(*loaded);
      const auto plan = PlanFor(options, *model.model);
      if (!plan.ok()) ready = plan.error();
    }
    MINIMO_TRY(AgreeOn(&comm, ready));
    MINIMO_ASSIGN(local, MakeFollower(options, model, comm));
  }
  return FollowSteps(*local, comm);
}

}  // namespace minimo
