#include "engine/rank_setup.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "engine/cpu_executor.h"
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
  int32_t num_layers;
  DType kv_dtype;
};

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
                      options.moe_decode};
  if (flags.tensor_parallel_size == 0) flags.tensor_parallel_size = processes;
  if (processes > 1 && flags.tensor_parallel_size != processes) {
    return Errorf("--tensor-parallel-size is {}, but {} processes were started; make them equal, or leave the flag out",
                  flags.tensor_parallel_size, processes);
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

Status AgreeOn(Communicator* comm, const Status& mine) {
  if (comm == nullptr || comm->size() == 1) return mine;
  const std::string text = mine.ok() ? "" : mine.error().message;
  MINIMO_ASSIGN(const auto all, comm->AllGatherBytes(std::as_bytes(std::span(text))));
  std::string faults;
  for (int r = 0; r < comm->size(); ++r) {
    if (all[r].empty()) continue;
    const std::string fault(reinterpret_cast<const char*>(all[r].data()), all[r].size());
    faults += fmt::format("{}rank {} of {}: {}", faults.empty() ? "" : "; ", r, comm->size(), fault);
  }
  return faults.empty() ? Status() : Status(Error{faults});
}

Result<RankedExecutor> MakeRankedExecutor(const EngineOptions& options, const LoadedModel& model,
                                          const ParallelPlan& plan, const KvLayout& layout, DType kv_dtype) {
  for (const std::string& line : Describe(model.spec, plan, {})) LogInfo("{}", line);
  if (!options.ranks || options.ranks->size() == 1) {
    if (plan.ranks > 1) {
      return MakeThreadRanksExecutor(model, plan, layout, kv_dtype, ThreadsEach(options, plan.ranks),
                                     TimeoutMs(options));
    }
    MINIMO_ASSIGN(auto executor, CpuExecutor::Create(model, layout, kv_dtype, options.threads));
    ThreadTeam* team = &executor->team();
    return RankedExecutor{std::move(executor), team};
  }
  Communicator& comm = *options.ranks;
  MINIMO_TRY(AgreeOn(&comm, CheckWorld(comm, model)));
  Decisions d{plan, layout.num_blocks, layout.num_rings, layout.ring_tokens, layout.block_size,
              layout.bytes_per_element, model.spec.num_layers(), kv_dtype};
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&d, 1)), 0));
  auto local = CpuExecutor::CreateRank(model, plan, &comm, layout, kv_dtype,
                                       ThreadsEach(options, RanksOnHost(options, plan)));
  MINIMO_TRY(AgreeOn(&comm, local.ok() ? Status() : Status(local.error())));
  ThreadTeam* team = &(*local)->team();
  return RankedExecutor{std::make_unique<ParallelExecutor>(std::move(*local), comm), team};
}

namespace {

// The follower's half of MakeRankedExecutor.
Result<std::unique_ptr<CpuExecutor>> MakeFollower(const EngineOptions& options, const LoadedModel& model,
                                                  Communicator& comm) {
  MINIMO_TRY(AgreeOn(&comm, CheckWorld(comm, model)));
  Decisions d{};
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&d, 1)), 0));
  KvLayout layout;
  layout.num_blocks = d.num_blocks;
  layout.num_rings = d.num_rings;
  layout.ring_tokens = d.ring_tokens;
  layout.block_size = d.block_size;
  layout.bytes_per_element = d.bytes_per_element;
  auto local = CpuExecutor::CreateRank(model, d.plan, &comm, layout, d.kv_dtype,
                                       ThreadsEach(options, RanksOnHost(options, d.plan)));
  MINIMO_TRY(AgreeOn(&comm, local.ok() ? Status() : Status(local.error())));
  return local;
}

}  // namespace

Status FollowEngine(const EngineOptions& options) {
  Communicator& comm = *options.ranks;
  std::unique_ptr<CpuExecutor> local;
  std::shared_ptr<const LoadedModel> model;
  {
    const PatientRanks patience(options);
    auto loaded = LoadEngineModel(options);
    Status ready = loaded.ok() ? Status() : Status(loaded.error());
    if (ready.ok()) {
      model = std::move(loaded->model);
      const auto plan = PlanFor(options, *model);
      if (!plan.ok()) ready = plan.error();
    }
    MINIMO_TRY(AgreeOn(&comm, ready));
    MINIMO_ASSIGN(local, MakeFollower(options, *model, comm));
  }
  return FollowSteps(*local, comm);
}

}  // namespace minimo
