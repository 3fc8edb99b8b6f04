#include "engine/replicas.h"

#include <algorithm>

#include "kv/replica_step.h"

namespace minimo {

SchedulerOptions ShareOfReplica(SchedulerOptions options, int replicas) {
  options.max_num_seqs = std::max(1, (options.max_num_seqs + replicas - 1) / replicas);
  options.max_num_batched_tokens = std::max(2, options.max_num_batched_tokens / replicas);
  return options;
}

Replicas::Replicas(int count, const KvLayout& layout, const SchedulerOptions& options, const KvCacheOptions& kv,
                   const Clock* clock) {
  const SchedulerOptions share = ShareOfReplica(options, count);
  for (int i = 0; i < count; ++i) all_.push_back(std::make_unique<Replica>(layout, share, kv, clock));
}

void Replicas::Add(LiveChoice* choice) {
  const auto load = [](const std::unique_ptr<Replica>& r) {
    return r->scheduler.num_waiting() + r->scheduler.num_running();
  };
  const auto least = std::min_element(all_.begin(), all_.end(),
                                      [&](const auto& a, const auto& b) { return load(a) < load(b); });
  choice->replica = static_cast<int32_t>(least - all_.begin());
  (*least)->scheduler.Add(choice);
}

void Replicas::Fork(const LiveChoice& parent, LiveChoice* child) {
  child->replica = parent.replica;
  Of(parent).Fork(parent, child);
}

void Replicas::Remove(LiveChoice* choice) { Of(*choice).Remove(choice); }

void Replicas::Plan(StepPlan* plan) {
  if (all_.size() == 1) return all_[0]->scheduler.Plan(plan);
  *plan = {};
  for (const auto& replica : all_) {
    StepPlan& part = replica->plan;
    replica->scheduler.Plan(&part);
    AppendReplica(part.record, &plan->record);
    plan->sequences.insert(plan->sequences.end(), part.sequences.begin(), part.sequences.end());
    plan->prefill_tokens += part.prefill_tokens;
    plan->decode_tokens += part.decode_tokens;
    plan->preempted += part.preempted;
  }
  plan->record.id = ++steps_;
}

void Replicas::Advance(const StepPlan& plan) {
  for (const ScheduledSequence& scheduled : plan.sequences) {
    Of(*static_cast<const LiveChoice*>(scheduled.sequence)).Advance(scheduled, scheduled.num_tokens);
  }
  for (const auto& replica : all_) replica->scheduler.EndStep();
}

int Replicas::num_waiting() const {
  int sum = 0;
  for (const auto& replica : all_) sum += replica->scheduler.num_waiting();
  return sum;
}

int Replicas::num_running() const {
  int sum = 0;
  for (const auto& replica : all_) sum += replica->scheduler.num_running();
  return sum;
}

bool Replicas::RoomForMore() const {
  return std::any_of(all_.begin(), all_.end(), [](const auto& replica) {
    return replica->scheduler.num_running() < replica->scheduler.options().max_num_seqs;
  });
}

int64_t Replicas::preemptions() const {
  int64_t sum = 0;
  for (const auto& replica : all_) sum += replica->scheduler.preemptions();
  return sum;
}

int64_t Replicas::kv_capacity_tokens() const {
  const KvCache& cache = all_[0]->cache;
  return int64_t{cache.num_blocks()} * cache.block_size() * count();
}

double Replicas::kv_usage() const {
  double most = 0;
  for (const auto& replica : all_) {
    const KvCache& cache = replica->cache;
    const double blocks = 1.0 - static_cast<double>(cache.free_blocks()) / std::max(cache.num_blocks(), 1);
    const double rings = cache.has_rings() ? 1.0 - static_cast<double>(cache.free_rings()) / cache.num_rings() : 0.0;
    most = std::max({most, blocks, rings});
  }
  return most;
}

KvCounters Replicas::counters() const {
  KvCounters sum;
  for (const auto& replica : all_) {
    const KvCounters& c = replica->cache.counters();
    sum.prefix_queries += c.prefix_queries;
    sum.prefix_hits += c.prefix_hits;
  }
  return sum;
}

std::string Replicas::Verify() const {
  for (const auto& replica : all_) {
    std::string fault = replica->scheduler.Verify(nullptr);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace minimo
