#include "sched/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace minimo {

Scheduler::Scheduler(const SchedulerOptions& options, KvCache* cache, const Clock* clock)
    : options_(options), cache_(cache), clock_(clock) {
  // Two tokens, so that a prompt and a decoding sequence can both move in every step.
  CHECK(options.max_num_seqs > 0 && options.max_num_batched_tokens >= 2);
}

Status Scheduler::CheckFits(int64_t prompt_tokens, int64_t total_tokens) const {
  if (options_.max_model_len > 0 && total_tokens > options_.max_model_len) {
    return Errorf("the prompt has {} tokens and up to {} are to follow, the context holds {}: shorten the prompt or "
                  "lower max_tokens", prompt_tokens, total_tokens - prompt_tokens, options_.max_model_len);
  }
  const int64_t capacity = int64_t{cache_->num_blocks()} * cache_->block_size();
  if (total_tokens > capacity) {
    return Errorf("the prompt has {} tokens and up to {} are to follow, the KV cache holds {} in all: shorten the "
                  "prompt, lower max_tokens or give the cache more memory",
                  prompt_tokens, total_tokens - prompt_tokens, capacity);
  }
  return {};
}

void Scheduler::Add(Sequence* sequence) {
  CHECK(sequence->state == SequenceState::kNew && sequence->Remaining() > 0);
  sequence->state = SequenceState::kWaiting;
  CHECK(waiting_.insert(sequence).second);
}

void Scheduler::Plan(StepPlan* plan) {
  plan->sequences.clear();
  plan->prefill_tokens = plan->decode_tokens = plan->preempted = 0;
  skipped_.clear();
  Budget budget = SplitBudget();
  ScheduleRunning(&budget, plan);
  // Blocks that a preemption has just freed are for those that run.
  if (plan->preempted == 0) Admit(&budget, plan);
  if (!skipped_.empty()) ScheduleSkipped(&budget, plan);
  BuildRecord(plan);
  if (!plan->sequences.empty()) ++step_;
}

Scheduler::Budget Scheduler::SplitBudget() {
  const int total = options_.max_num_batched_tokens;
  ages_.clear();
  for (const Sequence* sequence : running_) {
    if (sequence->Remaining() == 1) ages_.push_back(sequence->last_step);
  }
  const int decoding = static_cast<int>(ages_.size());
  const bool prompts = !waiting_.empty() || decoding < num_running();
  const int share = prompts ? std::clamp(static_cast<int>(total * options_.prefill_share), 1, total - 1) : 0;
  const int decode = std::min(decoding, total - share);
  if (decode == decoding) {
    decode_horizon_ = step_ + 1;
  } else {
    std::nth_element(ages_.begin(), ages_.begin() + decode, ages_.end());
    decode_horizon_ = ages_[decode];
  }
  return {decode, total - decode};
}

void Scheduler::ScheduleRunning(Budget* budget, StepPlan* plan) {
  // Preemption shortens running_ from its end, never before i.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    if (sequence->Remaining() > 1) {
      budget->prefill -= SchedulePrefill(sequence, budget->prefill, plan);
    } else if (sequence->last_step < decode_horizon_) {
      budget->decode -= ScheduleDecode(sequence, plan) ? 1 : 0;
    } else {
      skipped_.push_back(sequence);
    }
  }
}

void Scheduler::Admit(Budget* budget, StepPlan* plan) {
  while (!waiting_.empty() && num_running() < options_.max_num_seqs && budget->prefill > 0) {
    Sequence* sequence = *waiting_.begin();
    const int watermark = std::max(1, static_cast<int>(options_.watermark * cache_->num_blocks()));
    if (!cache_->Start(&sequence->kv, sequence->tokens, sequence->cache_salt, sequence->use_prefix_cache,
                       running_.empty() ? 0 : watermark)) {
      return;
    }
    waiting_.erase(waiting_.begin());
    InsertRunning(sequence);
    if (sequence->first_scheduled_us < 0) {
      sequence->first_scheduled_us = clock_->NowUs();
      sequence->cached_tokens = std::min(sequence->kv.computed, sequence->prompt_tokens);
    }
    budget->prefill -= SchedulePrefill(sequence, budget->prefill, plan);
  }
}

void Scheduler::ScheduleSkipped(Budget* budget, StepPlan* plan) {
  std::sort(skipped_.begin(), skipped_.end(),
            [](const Sequence* a, const Sequence* b) { return a->last_step < b->last_step; });
  int left = budget->decode + budget->prefill;
  for (Sequence* sequence : skipped_) {
    if (left <= 0) return;
    if (sequence->state == SequenceState::kRunning && ScheduleDecode(sequence, plan)) --left;
  }
}

bool Scheduler::ScheduleDecode(Sequence* sequence, StepPlan* plan) {
  const int size = static_cast<int>(sequence->tokens.size());
  const bool early = options_.lookahead > 0 && cache_->free_blocks() > 2 * num_running() &&
                     cache_->Extend(&sequence->kv, size + options_.lookahead);
  while (!early && !cache_->Extend(&sequence->kv, size)) {
    Sequence* last = running_.back();
    if (last == sequence || last->last_step == step_) return false;
    Preempt(last, plan);
  }
  ++plan->decode_tokens;
  Schedule(sequence, 1, plan);
  return true;
}

int Scheduler::SchedulePrefill(Sequence* sequence, int budget, StepPlan* plan) {
  const int start = sequence->kv.computed;
  const int tokens = static_cast<int>(sequence->tokens.size());
  int end = tokens;
  if (options_.chunked_prefill || sequence->max_logit_rows > 0) {
    end = std::min(end, start + budget);
    if (sequence->max_logit_rows > 0) end = std::min(end, start + sequence->max_logit_rows);
    end = cache_->ChunkEnd(sequence->kv, end, sequence->prompt_tokens, tokens);
  } else if (end - start > budget && plan->prefill_tokens > 0) {
    end = start;  // one prompt a step may exceed the budget
  }
  if (end <= start) return 0;
  plan->prefill_tokens += end - start;
  Schedule(sequence, end - start, plan);  // its blocks were taken at admission
  return end - start;
}

void Scheduler::Schedule(Sequence* sequence, int num_tokens, StepPlan* plan) {
  const bool last = num_tokens == sequence->Remaining();
  sequence->last_step = step_;
  plan->sequences.push_back({sequence, num_tokens, sequence->max_logit_rows > 0 ? num_tokens : (last ? 1 : 0)});
}

void Scheduler::Preempt(Sequence* sequence, StepPlan* plan) {
  CHECK(running_.back() == sequence);
  running_.pop_back();
  cache_->Stop(&sequence->kv);
  sequence->state = SequenceState::kWaiting;
  ++sequence->preemptions;
  ++preemptions_;
  ++plan->preempted;
  waiting_.insert(sequence);
}

void Scheduler::BuildRecord(StepPlan* plan) {
  StepRecord& record = plan->record;
  record.id = static_cast<uint64_t>(step_);
  record.tokens.clear();
  record.sequences.clear();
  record.block_tables.clear();
  record.row_requests.clear();
  record.block_copies.clear();
  record.ring_restores.clear();
  record.ring_snapshots.clear();
  if (plan->sequences.empty()) return;

  std::stable_partition(plan->sequences.begin(), plan->sequences.end(),
                        [](const ScheduledSequence& s) { return s.num_tokens == 1; });
  for (const ScheduledSequence& scheduled : plan->sequences) {
    Sequence& sequence = *scheduled.sequence;
    const int past = sequence.kv.computed;
    const int end = past + scheduled.num_tokens;
    SequenceStep step;
    step.first_token = static_cast<int32_t>(record.tokens.size());
    step.num_tokens = scheduled.num_tokens;
    step.past = past;
    step.block_table = static_cast<int32_t>(record.block_tables.size());
    step.num_blocks =
        std::min(cache_->BlocksFor(end + options_.lookahead), static_cast<int>(sequence.kv.blocks.size()));
    step.ring = sequence.kv.ring;
    step.num_logits = scheduled.num_logits;
    record.sequences.push_back(step);
    record.tokens.insert(record.tokens.end(), sequence.tokens.begin() + past, sequence.tokens.begin() + end);
    record.block_tables.insert(record.block_tables.end(), sequence.kv.blocks.begin(),
                               sequence.kv.blocks.begin() + step.num_blocks);
    cache_->PlanSnapshot(&sequence.kv, end, sequence.prompt_tokens);
  }
  cache_->TakeCopies(&record);
}

void Scheduler::Advance(const ScheduledSequence& scheduled, int32_t kept) {
  Sequence& sequence = *scheduled.sequence;
  cache_->Advance(&sequence.kv, sequence.tokens, sequence.cache_salt, scheduled.num_tokens, kept);
}

void Scheduler::Fork(const Sequence& parent, Sequence* child) {
  CHECK(child->state == SequenceState::kNew && parent.state == SequenceState::kRunning);
  if (num_running() >= options_.max_num_seqs || !cache_->Fork(parent.kv, &child->kv)) {
    Add(child);
    return;
  }
  child->first_scheduled_us = parent.first_scheduled_us;
  child->last_step = parent.last_step;
  InsertRunning(child);
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->state == SequenceState::kWaiting) {
    waiting_.erase(sequence);
  } else if (sequence->state == SequenceState::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
    cache_->Stop(&sequence->kv);
  }
  sequence->state = SequenceState::kStopped;
}

void Scheduler::InsertRunning(Sequence* sequence) {
  sequence->state = SequenceState::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, BeforePointer()), sequence);
}

std::string Scheduler::Verify(const StepPlan* last_plan) const {
  if (!std::is_sorted(running_.begin(), running_.end(), BeforePointer())) return "the running order is broken";
  if (num_running() > options_.max_num_seqs) return "too many sequences run";
  std::vector<const SequenceKv*> live;
  for (const Sequence* sequence : running_) {
    if (sequence->state != SequenceState::kRunning) return "a running sequence does not know it";
    if (sequence->Remaining() < 1) return "a running sequence has nothing to compute";
    live.push_back(&sequence->kv);
  }
  for (const Sequence* sequence : waiting_) {
    if (sequence->state != SequenceState::kWaiting) return "a waiting sequence does not know it";
    if (!sequence->kv.blocks.empty() || sequence->kv.ring >= 0) return "a waiting sequence holds memory";
  }
  if (last_plan != nullptr && options_.chunked_prefill &&
      static_cast<int>(last_plan->record.tokens.size()) > options_.max_num_batched_tokens) {
    return "the step exceeds the token budget";
  }
  return cache_->Verify(live);
}

}  // namespace minimo
