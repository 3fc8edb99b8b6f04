#include "apps/rank_flags.h"

#include <unistd.h>

#include <csignal>

#include "apps/flag_checks.h"
#include "comm/communicator.h"
#include "comm/mpi.h"

namespace minimo {
namespace {

// The leader notices a lost rank at about the same time, ends its requests and exits within this.
constexpr int kLingerSeconds = 5;

}  // namespace

void RankFlags::AddTo(CLI::App& command) {
  command.add_option("--tensor-parallel-size", tensor_parallel_size,
                     "Ranks that share the model: threads, or the processes of mpirun; 0: all of those, else 1")
      ->check(CLI::Range(0, 1024))->capture_default_str();
  command
      .add_option("--data-parallel-size", data_parallel_size,
                  "Replicas of attention, of --tensor-parallel-size ranks each: each has its own part of the requests "
                  "and their KV cache, all ranks share the experts")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_flag("--enable-expert-parallel", enable_expert_parallel, "Whole experts on each rank, not rows of all");
  const std::string layouts = "tp (rows of every expert), ep (whole experts) or TxE";
  command.add_option("--moe-prefill", moe_prefill, "How ranks share experts in steps with prompts: " + layouts);
  command.add_option("--moe-decode", moe_decode, "The same in decode steps; where they differ both are held");
  command.add_option("--rank-timeout", rank_timeout_s, "Seconds after which a silent rank is lost")
      ->check(NumberIn(0.1, 86400))->capture_default_str();
}

Status RankFlags::Fill(EngineOptions* options) const {
  options->tensor_parallel_size = tensor_parallel_size;
  options->data_parallel_size = data_parallel_size;
  options->enable_expert_parallel = enable_expert_parallel;
  options->moe_prefill = moe_prefill;
  options->moe_decode = moe_decode;
  options->rank_timeout_ms = static_cast<int>(rank_timeout_s * 1000);
  if (!StartedByMpi()) return {};
  MINIMO_ASSIGN(std::unique_ptr<Communicator> world, OpenMpiWorld());
  if (world->size() > 1) options->ranks = std::move(world);
  return {};
}

bool Follows(const EngineOptions& options) { return options.ranks && options.ranks->rank() > 0; }

Status Follow(const EngineOptions& options) {
  std::signal(SIGUSR1, SIG_IGN);  // mpirun forwards it to all: the leader drains and then sends the followers home
  std::signal(SIGINT, SIG_IGN);
  sigset_t end;
  sigemptyset(&end);
  sigaddset(&end, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &end, nullptr);
  Status status = FollowEngine(options);
  if (status.ok()) return status;
  if (!options.ranks->failed()) return Error{};  // all ranks know of it: the leader says it
  sleep(kLingerSeconds);
  return status;
}

bool LostRank(const EngineOptions& options) { return options.ranks && options.ranks->Lost(); }

}  // namespace minimo
