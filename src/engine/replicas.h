// The replicas of attention that an engine leads: each has KV memory and a scheduler of its own and a part of the
// requests, and one step of all of them runs together, because they share the experts. One replica is the ordinary
// case.
//
// A request goes to the replica with the fewest requests, its choices with it; it stays there. The step's budgets are
// shared evenly. A replica with nothing to run has no sequences in the step.
//
// Thread rule: the engine thread only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/live_request.h"
#include "kv/kv_cache.h"
#include "sched/scheduler.h"

namespace minimo {

// One replica's part of the flags for all: at least what a scheduler needs.
SchedulerOptions ShareOfReplica(SchedulerOptions options, int replicas);

class Replicas {
 public:
  // `layout` is each one's own; `clock` outlives this.
  Replicas(int count, const KvLayout& layout, const SchedulerOptions& options, const KvCacheOptions& kv,
           const Clock* clock);

  void Add(LiveChoice* choice);  // new: it waits
  void Fork(const LiveChoice& parent, LiveChoice* child);
  void Remove(LiveChoice* choice);

  void Plan(StepPlan* plan);  // of all, as one
  // The planned step has run: every scheduled sequence keeps its tokens.
  void Advance(const StepPlan& plan);

  int num_waiting() const;
  int num_running() const;
  bool RoomForMore() const;      // a replica runs fewer sequences than it may
  int64_t preemptions() const;
  int64_t kv_capacity_tokens() const;
  double kv_usage() const;       // of the fullest pool
  KvCounters counters() const;
  std::string Verify() const;
  int count() const { return static_cast<int>(all_.size()); }

 private:
  struct Replica {
    Replica(const KvLayout& layout, const SchedulerOptions& options, const KvCacheOptions& kv, const Clock* clock)
        : cache(layout, kv), scheduler(options, &cache, clock) {}
    KvCache cache;
    Scheduler scheduler;
    StepPlan plan;
  };
  Scheduler& Of(const LiveChoice& choice) { return all_[static_cast<size_t>(choice.replica)]->scheduler; }

  std::vector<std::unique_ptr<Replica>> all_;
  uint64_t steps_ = 0;
};

}  // namespace minimo
