#include "engine/engine_core.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/admission.h"
#include "engine/choice_output.h"

namespace minimo {
namespace {

// Up to here a step is short, and the next is begun before its tokens are known: who arrives waits for one more. With
// more rows it is begun when they are known and nobody has arrived.
constexpr size_t kMostRowsAhead = 8;
// Below it waking the team costs more than choosing from candidates.
constexpr size_t kRowsWorthTheTeam = 16;
// Rows are answered in groups: the tokens of one are written to their clients while the next are chosen. With 8 the
// writers are woken too often, with 64 the last token waits for all (server_bench, 2 cores).
constexpr size_t kRowsAtOnce = 16;

}  // namespace

void Outbox::Clear() {
  deliveries.clear();
  ended.clear();
  finished.clear();
}

EngineCore::EngineCore(const Parts& parts, const SchedulerOptions& scheduler, const KvCacheOptions& kv)
    : executor_(parts.executor),
      tokenizer_(parts.tokenizer),
      clock_(parts.clock),
      team_(parts.team),
      mail_(parts.mail),
      replicas_(parts.replicas, parts.executor->kv_layout(), scheduler, kv, parts.clock) {}

void EngineCore::Add(std::unique_ptr<LiveRequest> request) {
  LiveChoice* choice = request->choices[0].get();
  choice->order = next_order_++;
  choice->timing.arrival_us = request->arrival_us;
  replicas_.Add(choice);
  const std::string id = request->request.id;
  requests_.emplace(id, std::move(request));
}

void EngineCore::Cancel(const std::string& id, Outbox* outbox) {
  const auto it = requests_.find(id);
  if (it != requests_.end()) EndRequest(it->second.get(), FinishReason::kCancelled, "", outbox);
}

void EngineCore::EndAll(FinishReason reason, const std::string& error, Outbox* outbox) {
  while (!requests_.empty()) EndRequest(requests_.begin()->second.get(), reason, error, outbox);
}

Status EngineCore::Step() {
  start_us_ = clock_->NowUs();
  replicas_.Plan(&plan_);
  if (plan_.sequences.empty()) {
    return Errorf("{} requests wait and none can run: the scheduler has lost its way", requests_.size());
  }
  const bool candidates = executor_->OffersCandidates();
  if (candidates) RequestRows();
  planned_us_ = clock_->NowUs();
  output_ = {};
  const bool goes_on = LikelyToGoOn();
  output_.goes_on = goes_on && plan_.sequences.size() <= kMostRowsAhead && AllTakeTheBest();
  MINIMO_TRY(executor_->Run(plan_.record, &output_));
  run_us_ = clock_->NowUs();
  replicas_.Advance(plan_);
  CollectRows();
  if (candidates) MINIMO_TRY(SampleRows(rows_.size()));
  return goes_on && !output_.goes_on ? StartNext() : Status();
}

Status EngineCore::Answer(Outbox* outbox) {
  const size_t end = std::min(answered_ + kRowsAtOnce, rows_.size());
  MINIMO_TRY(SampleRows(end));
  while (answered_ < end) TakeRow(answered_++, outbox);
  if (Answered()) FillStepStats();
  return {};
}

void EngineCore::RequestRows() {
  for (const ScheduledSequence& scheduled : plan_.sequences) {
    const auto* choice = static_cast<const LiveChoice*>(scheduled.sequence);
    // Prompt log-probabilities and choices that fork read the row themselves.
    const bool forks = choice->OutputTokens() == 0 && choice->choice == 0 && choice->request->request.n > 1;
    CandidateNeed need;
    if (choice->max_logit_rows == 0 && scheduled.num_logits == 1 && !forks) need = choice->sampler.Need();
    plan_.record.row_requests.insert(plan_.record.row_requests.end(), scheduled.num_logits,
                                     RowRequest{need.count, need.temperature});
  }
}

Status EngineCore::SampleRows(size_t end) {
  if (sampled_ >= end) return {};
  const std::span<SampleRow> rows = std::span(rows_).subspan(sampled_, end - sampled_);
  SampleBatch(rows, rows.size() < kRowsWorthTheTeam && output_.logits.empty() ? nullptr : team_);
  std::vector<int32_t> places;
  std::vector<SampleRow> again;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].needs_logits) continue;
    places.push_back(row_places_[sampled_ + i]);
    again.push_back({{}, rows[i].sequence});
  }
  if (!places.empty()) {
    MINIMO_TRY(executor_->FetchLogits(places, &output_));
    const size_t vocab = static_cast<size_t>(executor_->vocab_size());
    for (size_t i = 0; i < again.size(); ++i) again[i].logits = output_.logits.subspan(i * vocab, vocab);
    SampleBatch(again, team_);
    auto from = again.begin();
    for (SampleRow& row : rows) {
      if (row.needs_logits) row = std::move(*from++);
    }
  }
  sampled_ = end;
  sampled_us_ = clock_->NowUs();
  return {};
}

// A step of decoding: no sequence will end for its length, and none is to join.
bool EngineCore::LikelyToGoOn() const {
  if (!executor_->OffersCandidates()) return false;
  if (replicas_.num_waiting() > 0 && replicas_.RoomForMore()) return false;
  return std::all_of(plan_.sequences.begin(), plan_.sequences.end(), [](const ScheduledSequence& scheduled) {
    const auto* choice = static_cast<const LiveChoice*>(scheduled.sequence);
    return scheduled.num_tokens == 1 && scheduled.num_logits == 1 &&
           choice->OutputTokens() + 1 < choice->request->max_tokens;
  });
}

// The rows are not looked at beyond their best token.
bool EngineCore::AllTakeTheBest() const {
  return std::all_of(plan_.sequences.begin(), plan_.sequences.end(), [](const ScheduledSequence& scheduled) {
    return static_cast<const LiveChoice*>(scheduled.sequence)->sampler.TakesTheBest();
  });
}

// Before the answers are written: the device computes meanwhile.
Status EngineCore::StartNext() {
  if (mail_ != nullptr && mail_->load(std::memory_order_relaxed)) return {};
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const LiveRequest& request = *row_choices_[i]->request;
    const int32_t token = rows_[i].token.token;
    const auto is = [&](const std::vector<int32_t>& ids) {
      return std::find(ids.begin(), ids.end(), token) != ids.end();
    };
    if (!rows_[i].status.ok() || is(request.eos_ids) || is(request.request.params.stop_token_ids)) return {};
    tokens.push_back(token);
  }
  if (tokens.size() != plan_.sequences.size()) return {};  // some have forked
  return executor_->StartNext(plan_.record, tokens);
}

void EngineCore::CollectRows() {
  rows_.clear();
  sampled_ = answered_ = 0;
  row_places_.clear();
  row_choices_.clear();
  row_parents_.clear();
  fork_logits_.clear();
  time_to_first_token_us_.clear();
  inter_token_us_.clear();
  const size_t vocab = static_cast<size_t>(executor_->vocab_size());
  float* row = output_.logits.data();
  int32_t place = 0;
  size_t listed = 0;  // candidates taken
  for (const ScheduledSequence& scheduled : plan_.sequences) {
    auto* choice = static_cast<LiveChoice*>(scheduled.sequence);
    place += scheduled.num_logits;
    if (scheduled.num_logits > 0 && !plan_.record.row_requests.empty() &&
        plan_.record.row_requests[static_cast<size_t>(place) - 1].candidates > 0) {
      const RowCandidates* candidates = &output_.candidates[listed++];
      if (choice->Remaining() > 0) continue;
      rows_.push_back({{}, &choice->sampler, candidates, {}, {}});
      row_choices_.push_back(choice);
      row_parents_.push_back(nullptr);
      row_places_.push_back(place - 1);
      continue;
    }
    if (choice->max_logit_rows > 0) AddPromptLogprobs(choice, scheduled, row);
    row += vocab * static_cast<size_t>(scheduled.num_logits);
    if (choice->Remaining() > 0) continue;  // inside its prompt
    const std::span<float> last(row - vocab, vocab);
    if (choice->OutputTokens() == 0 && choice->choice == 0) ForkRows(choice, last);
    rows_.push_back({last, &choice->sampler});
    row_choices_.push_back(choice);
    row_parents_.push_back(nullptr);
    row_places_.push_back(place - 1);
  }
}

// Position p's row predicts token p + 1.
void EngineCore::AddPromptLogprobs(LiveChoice* choice, const ScheduledSequence& scheduled, const float* rows) {
  LiveRequest& request = *choice->request;
  const size_t vocab = static_cast<size_t>(executor_->vocab_size());
  const int32_t first = choice->kv.computed - scheduled.num_logits;
  for (int32_t i = 0; i < scheduled.num_logits; ++i) {
    const int32_t next = first + i + 1;
    // A preempted sequence passes what it has already given.
    if (next != static_cast<int32_t>(request.prompt_logprobs.size()) || next >= choice->prompt_tokens) continue;
    Result<OutputToken> token = RawLogprobs({rows + vocab * static_cast<size_t>(i), vocab}, choice->tokens[next],
                                            request.request.params.prompt_logprobs);
    request.prompt_logprobs.push_back(token.ok() ? std::move(*token) : OutputToken{choice->tokens[next], 0, {}});
  }
  if (static_cast<int32_t>(request.prompt_logprobs.size()) == choice->prompt_tokens) choice->max_logit_rows = 0;
}

// The other choices of a request whose prompt is computed get its row too. They come before their parent, which must
// still hold its blocks when they fork.
void EngineCore::ForkRows(LiveChoice* parent, std::span<float> row) {
  LiveRequest* request = parent->request;
  for (int32_t index = 1; index < request->request.n; ++index) {
    auto child = MakeChoice(request, index, parent->sampler.Fork(index), tokenizer_);
    child->order = parent->order;
    child->tokens = parent->tokens;
    child->prompt_tokens = parent->prompt_tokens;
    child->first_scheduled_us = parent->first_scheduled_us;
    child->cached_tokens = parent->cached_tokens;
    child->timing.arrival_us = parent->timing.arrival_us;
    fork_logits_.emplace_back(row.begin(), row.end());
    rows_.push_back({fork_logits_.back(), &child->sampler});
    row_places_.push_back(-1);  // its row is here
    row_choices_.push_back(child.get());
    row_parents_.push_back(parent);
    request->choices.push_back(std::move(child));
  }
}

void EngineCore::TakeRow(size_t index, Outbox* outbox) {
  SampleRow& row = rows_[index];
  LiveChoice* choice = row_choices_[index];
  Event event;
  if (!row.status.ok()) {
    event.error = row.status.error().message;
    EndChoice(choice, FinishReason::kError, &event);
  } else {
    Timing& timing = choice->timing;
    if (choice->OutputTokens() == 0) {
      timing.first_token_us = sampled_us_;
      time_to_first_token_us_.push_back(sampled_us_ - timing.arrival_us);
      stats_.prompt_tokens += choice->prompt_tokens;
    } else {
      inter_token_us_.push_back(sampled_us_ - timing.last_token_us);
    }
    timing.last_token_us = sampled_us_;
    ++stats_.generation_tokens;
    TakeToken(choice, std::move(row.token), &event);
  }
  if (row_parents_[index] != nullptr && event.finish == FinishReason::kNone) {
    replicas_.Fork(*row_parents_[index], choice);
  }
  if (choice->choice == 0 && choice->OutputTokens() <= 1) {
    event.prompt_logprobs = std::move(choice->request->prompt_logprobs);
  }
  Deliver(choice, std::move(event), outbox);
}

void EngineCore::EndRequest(LiveRequest* request, FinishReason reason, const std::string& error, Outbox* outbox) {
  // Choices that have not forked yet are owed an end as well.
  while (static_cast<int32_t>(request->choices.size()) < request->request.n) {
    const LiveChoice& first = *request->choices[0];
    auto child = MakeChoice(request, static_cast<int32_t>(request->choices.size()), first.sampler.Fork(0), tokenizer_);
    child->prompt_tokens = 0;
    child->timing.arrival_us = request->arrival_us;
    request->choices.push_back(std::move(child));
  }
  // The last end takes the request out of requests_ and moves it to the outbox.
  const size_t count = request->choices.size();
  for (size_t i = 0; i < count; ++i) {
    LiveChoice* choice = request->choices[i].get();
    if (choice->ended) continue;
    Event event;
    event.error = error;
    EndChoice(choice, reason, &event);
    Deliver(choice, std::move(event), outbox);
  }
}

void EngineCore::Deliver(LiveChoice* choice, Event event, Outbox* outbox) {
  LiveRequest* request = choice->request;
  Timing& timing = choice->timing;
  timing.first_scheduled_us = std::max<int64_t>(choice->first_scheduled_us, 0);
  event.choice = choice->choice;
  event.usage.prompt_tokens = static_cast<int32_t>(request->request.prompt_ids.size());
  event.usage.cached_prompt_tokens = choice->cached_tokens;
  event.usage.completion_tokens = std::max(choice->OutputTokens(), 0);
  event.timing = timing;
  const bool ends = event.finish != FinishReason::kNone;
  if (ends) {
    replicas_.Remove(choice);
    choice->ended = true;
    FinishedStats stats;
    stats.finish = event.finish;
    stats.usage = event.usage;
    stats.n = request->request.n;
    stats.max_tokens = request->max_tokens;
    stats.preemptions = choice->preemptions;
    if (choice->first_scheduled_us >= 0) stats.queue_us = timing.first_scheduled_us - timing.arrival_us;
    if (timing.first_token_us > 0) {
      stats.prefill_us = timing.first_token_us - timing.first_scheduled_us;
      stats.decode_us = timing.last_token_us - timing.first_token_us;
      stats.inference_us = timing.last_token_us - timing.first_scheduled_us;
    }
    stats.e2e_us = clock_->NowUs() - timing.arrival_us;
    outbox->finished.push_back(stats);
  }
  outbox->deliveries.push_back({request, std::move(event)});
  if (ends && ++request->ended_choices == request->request.n) {
    const auto it = requests_.find(request->request.id);
    outbox->ended.push_back(std::move(it->second));
    requests_.erase(it);
  }
}

void EngineCore::FillStepStats() {
  const int64_t now_us = clock_->NowUs();
  StepStats& step = last_step_;
  step.step = static_cast<int64_t>(plan_.record.id);
  step.sequences = static_cast<int32_t>(plan_.sequences.size());
  step.prefill_tokens = plan_.prefill_tokens;
  step.decode_tokens = plan_.decode_tokens;
  step.generated_tokens = static_cast<int32_t>(rows_.size());
  step.preempted = plan_.preempted;
  step.running = replicas_.num_running();
  step.waiting = replicas_.num_waiting();
  step.kv_usage = replicas_.kv_usage();
  step.schedule_us = planned_us_ - start_us_;
  step.model_us = run_us_ - planned_us_;
  step.output_us = now_us - run_us_;
  step.time_to_first_token_us = time_to_first_token_us_;
  step.inter_token_us = inter_token_us_;
  ++stats_.steps;
  stats_.last_step_us = now_us - start_us_;
  stats_.last_step_tokens = static_cast<int64_t>(plan_.record.tokens.size());
}

EngineStats EngineCore::Stats() const {
  EngineStats stats = stats_;
  stats.running = replicas_.num_running();
  stats.waiting = replicas_.num_waiting();
  stats.kv_usage = replicas_.kv_usage();
  stats.kv_capacity_tokens = kv_capacity_tokens();
  stats.preemptions = replicas_.preemptions();
  stats.prefix_queries = replicas_.counters().prefix_queries;
  stats.prefix_hits = replicas_.counters().prefix_hits;
  return stats;
}

}  // namespace minimo
