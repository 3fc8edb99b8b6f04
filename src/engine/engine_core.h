// The step loop without its thread: requests go in, Step runs the model once, what clients are to hear comes out as
// values. Everything happens on the caller's thread, so tests drive it with a fake clock and a fake executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/thread_team.h"
#include "engine/executor.h"
#include "engine/live_request.h"
#include "engine/replicas.h"
#include "minimo/engine.h"
#include "minimo/engine_observer.h"
#include "minimo/result.h"
#include "minimo/tokenizer.h"

namespace minimo {

struct Delivery {
  LiveRequest* request;
  Event event;
};

// What some rows of a step, a cancel or a fault have produced. A request in `ended` is no longer the core's; its
// deliveries are still to be made before it is destroyed.
struct Outbox {
  std::vector<Delivery> deliveries;
  std::vector<std::unique_ptr<LiveRequest>> ended;
  std::vector<FinishedStats> finished;

  void Clear();
};

class EngineCore {
 public:
  struct Parts {
    Executor* executor;
    const Tokenizer* tokenizer;  // null: events carry ids alone
    const Clock* clock;
    ThreadTeam* team;  // for sampling; may be null
    const std::atomic<bool>* mail = nullptr;  // true: requests or cancels wait to be given to the core; may be null
    int replicas = 1;  // of attention: each has the executor's kv_layout() to itself, and a scheduler of its own
  };

  // The parts outlive the core.
  EngineCore(const Parts& parts, const SchedulerOptions& scheduler, const KvCacheOptions& kv);

  void Add(std::unique_ptr<LiveRequest> request);
  void Cancel(const std::string& id, Outbox* outbox);
  bool HasWork() const { return !requests_.empty(); }

  // Plans and runs one step. An error, of Answer too, is a fault that the engine cannot survive; EndAll is all that is
  // left.
  Status Step();

  // Answers the next few rows of the step, so that their tokens are on their way while others are still chosen. Called
  // until the step is answered, at least once.
  Status Answer(Outbox* outbox);
  bool Answered() const { return answered_ == rows_.size(); }
  const StepStats& last_step() const { return last_step_; }  // once it is answered; valid until the next

  // Answers everything that lives.
  void EndAll(FinishReason reason, const std::string& error, Outbox* outbox);

  EngineStats Stats() const;
  int num_waiting() const { return replicas_.num_waiting(); }
  int64_t kv_capacity_tokens() const { return replicas_.kv_capacity_tokens(); }
  std::string Verify() const { return replicas_.Verify(); }  // for tests

 private:
  // What each row of logits of the plan is wanted for, where the executor offers candidates.
  void RequestRows();
  bool LikelyToGoOn() const;
  bool AllTakeTheBest() const;
  Status StartNext();
  void CollectRows();
  // Chooses a token for every row before `end`; whole rows are fetched for those that candidates do not decide.
  Status SampleRows(size_t end);
  void AddPromptLogprobs(LiveChoice* choice, const ScheduledSequence& scheduled, const float* rows);
  void ForkRows(LiveChoice* parent, std::span<float> row);
  void TakeRow(size_t index, Outbox* outbox);
  void EndRequest(LiveRequest* request, FinishReason reason, const std::string& error, Outbox* outbox);
  void Deliver(LiveChoice* choice, Event event, Outbox* outbox);
  void FillStepStats();

  Executor* executor_;
  const Tokenizer* tokenizer_;
  const Clock* clock_;
  ThreadTeam* team_;
  const std::atomic<bool>* mail_;
  Replicas replicas_;
  std::unordered_map<std::string, std::unique_ptr<LiveRequest>> requests_;
  int64_t next_order_ = 0;
  StepPlan plan_;
  EngineStats stats_;  // the counters; Stats adds the gauges

  // Of the step being answered.
  int64_t start_us_ = 0, planned_us_ = 0, run_us_ = 0;
  StepOutput output_;
  std::vector<SampleRow> rows_;  // a row of logits, and in row_choices_ its choice, for each that gets a token
  size_t sampled_ = 0;           // rows that have a token
  int64_t sampled_us_ = 0;       // when the last of them got it
  size_t answered_ = 0;          // rows
  std::vector<int32_t> row_places_;              // its row of the step
  std::vector<LiveChoice*> row_choices_;
  std::vector<LiveChoice*> row_parents_;         // for a choice that forks in this step: from whom; else null
  std::vector<std::vector<float>> fork_logits_;  // [forks][vocab]: the sampler changes rows in place
  std::vector<int64_t> time_to_first_token_us_, inter_token_us_;
  StepStats last_step_;  // its spans are the two lists above
};

}  // namespace minimo
