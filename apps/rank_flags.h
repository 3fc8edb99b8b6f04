// Flags and start of commands that run a model on many ranks. Without mpirun the ranks are threads of this process;
// under mpirun (or minimo launch) every process runs the same command, rank 0 leads and the others follow.
#pragma once

#include <functional>
#include <string>

#include "apps/commands.h"
#include "minimo/engine.h"

namespace minimo {

struct RankFlags {
  int tensor_parallel_size = 0;
  int data_parallel_size = 1;
  bool enable_expert_parallel = false;
  std::string moe_prefill;
  std::string moe_decode;
  double rank_timeout_s = 8;

  void AddTo(CLI::App& command);
  // Also joins the processes that mpirun started, if any.
  Status Fill(EngineOptions* options) const;
};

// True on a process whose part is to follow: it opens no port, prints no result and reads no prompt.
bool Follows(const EngineOptions& options);

// A follower's whole run. What the ranks agree on that cannot be is the leader's to say: here an error without words.
// After a lost rank it lingers, so that the leader can answer its clients before the launcher ends all processes.
Status Follow(const EngineOptions& options);

// True if this process leads others and one of them is lost: the command should end with an error.
bool LostRank(const EngineOptions& options);

}  // namespace minimo
