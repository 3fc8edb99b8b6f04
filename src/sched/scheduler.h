// Decides what each step computes: one token for sequences that decode, chunks of prompts for those that do not yet,
// under one token budget.
//
// Order. Waiting and running sequences are ordered by priority, then by arrival; admission never skips the head of the
// queue. Decoding sequences come first, but while a prompt waits they leave it `prefill_share` of the budget, and where
// the budget is smaller than what decodes, those scheduled longest ago come first. So neither side starves the other,
// and under equal priority the oldest sequence always moves.
//
// Memory. A sequence gets blocks for all its known tokens when it is admitted, and one more block each time its output
// fills one. When none is left, the last in the order is preempted: its blocks are given back (those that are full stay
// cached) and it waits, at its old place in the order, to compute its tokens again. A sequence that is itself the last
// stands still until blocks come back.
//
// Thread rule: the engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "base/clock.h"
#include "kv/kv_cache.h"
#include "kv/step.h"
#include "minimo/result.h"
#include "sched/sequence.h"

namespace minimo {

struct SchedulerOptions {
  int max_num_seqs = 256;
  int max_num_batched_tokens = 2048;
  int max_model_len = 0;
  bool chunked_prefill = true;  // false: a prompt is computed in one step, whatever the budget
  double prefill_share = 0.25;  // of the budget, kept for prompts while there are any
  int lookahead = 0;            // tokens for which a decoding sequence takes blocks early, where there are plenty
  double watermark = 0.01;      // of the blocks, left free by admission so that decoding does not preempt at once
};

struct ScheduledSequence {
  Sequence* sequence;
  int32_t num_tokens;
  int32_t num_logits;
};

// One step: the record for the executor, and whose part is whose. sequences[i] belongs to record.sequences[i].
struct StepPlan {
  StepRecord record;
  std::vector<ScheduledSequence> sequences;
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int32_t preempted = 0;
};

class Scheduler {
 public:
  // `cache` and `clock` outlive the scheduler.
  Scheduler(const SchedulerOptions& options, KvCache* cache, const Clock* clock);

  // Whether a sequence of `prompt_tokens` that may grow to `total_tokens` can run when it is alone; else why not.
  Status CheckFits(int64_t prompt_tokens, int64_t total_tokens) const;

  void Add(Sequence* sequence);  // new: it waits

  // Fills the plan of the next step; empty sequences if nothing can run. Storage of the plan is reused.
  void Plan(StepPlan* plan);

  // The step has run and `kept` of the sequence's scheduled tokens count (all of them unless drafts were rejected).
  // To be called for every scheduled sequence, before its new tokens are appended; then EndStep once.
  void Advance(const ScheduledSequence& scheduled, int32_t kept);
  void EndStep() { cache_->EndStep(); }

  // `child` has the parent's tokens and continues from what the parent has computed; it runs at once if there is room
  // for it, else it waits. Between EndStep and Plan.
  void Fork(const Sequence& parent, Sequence* child);

  // Takes a sequence out, wherever it is. Between EndStep and Plan.
  void Remove(Sequence* sequence);

  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_running() const { return static_cast<int>(running_.size()); }
  int64_t preemptions() const { return preemptions_; }
  const SchedulerOptions& options() const { return options_; }

  // Order, states, budget and the cache's books; an empty string, or the first thing that is wrong. For tests.
  std::string Verify(const StepPlan* last_plan) const;

 private:
  struct BeforePointer {
    bool operator()(const Sequence* a, const Sequence* b) const { return Before(*a, *b); }
  };
  struct Budget {
    int decode;
    int prefill;
  };

  Budget SplitBudget();
  void ScheduleRunning(Budget* budget, StepPlan* plan);
  void Admit(Budget* budget, StepPlan* plan);
  void ScheduleSkipped(Budget* budget, StepPlan* plan);
  bool ScheduleDecode(Sequence* sequence, StepPlan* plan);
  int SchedulePrefill(Sequence* sequence, int budget, StepPlan* plan);
  void Schedule(Sequence* sequence, int num_tokens, StepPlan* plan);
  void Preempt(Sequence* sequence, StepPlan* plan);
  void BuildRecord(StepPlan* plan);
  void InsertRunning(Sequence* sequence);

  SchedulerOptions options_;
  KvCache* cache_;
  const Clock* clock_;
  int64_t step_ = 0;
  int64_t preemptions_ = 0;
  int64_t decode_horizon_ = 0;  // decoding sequences last scheduled before this step come first
  std::set<Sequence*, BeforePointer> waiting_;
  std::vector<Sequence*> running_;  // in the order of Before
  std::vector<Sequence*> skipped_;  // scratch: decoding sequences that the budget left out
  std::vector<int64_t> ages_;       // scratch
};

}  // namespace minimo
