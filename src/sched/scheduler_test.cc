#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

namespace minimo {
namespace {

KvLayout Layout(int num_blocks, int num_rings = 0) {
  KvLayout layout;
  layout.groups.push_back({0, 1, 1, 8, 8});
  if (num_rings > 0) layout.groups.push_back({8, 1, 1, 8, 8});
  layout.block_size = 4;
  layout.ring_tokens = num_rings > 0 ? 8 : 0;
  layout.num_blocks = num_blocks;
  layout.num_rings = num_rings;
  return layout;
}

// A scheduler, a fake clock that counts 1000 us a step, and a model that always says 7.
class Machine {
 public:
  Machine(int num_blocks, SchedulerOptions options)
      : cache_(Layout(num_blocks), {}), scheduler_(options, &cache_, &clock_) {}

  Sequence* Add(int prompt, int first_token = 0, int priority = 0) {
    auto sequence = std::make_unique<Sequence>();
    sequence->order = static_cast<int64_t>(sequences_.size());
    sequence->priority = priority;
    sequence->tokens.resize(prompt);
    std::iota(sequence->tokens.begin(), sequence->tokens.end(), first_token);
    sequence->prompt_tokens = prompt;
    scheduler_.Add(sequence.get());
    sequences_.push_back(std::move(sequence));
    return sequences_.back().get();
  }

  void Step() {
    scheduler_.Plan(&plan_);
    EXPECT_EQ(scheduler_.Verify(&plan_), "");
    clock_.AdvanceUs(1000);
    for (const ScheduledSequence& s : plan_.sequences) scheduler_.Advance(s, s.num_tokens);
    scheduler_.EndStep();
    for (const ScheduledSequence& s : plan_.sequences) {
      if (s.num_logits > 0) s.sequence->tokens.push_back(7);
    }
  }

  static int Output(const Sequence* s) { return static_cast<int>(s->tokens.size()) - s->prompt_tokens; }

  FakeClock clock_;
  KvCache cache_;
  Scheduler scheduler_;
  StepPlan plan_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

SchedulerOptions Options(int max_num_seqs, int budget) {
  SchedulerOptions options;
  options.max_num_seqs = max_num_seqs;
  options.max_num_batched_tokens = budget;
  return options;
}

TEST(Scheduler, MixesChunksOfPromptsIntoDecodeSteps) {
  Machine m(64, Options(8, 8));
  m.Add(6);
  Sequence* b = m.Add(20, 1000);
  m.Step();
  EXPECT_EQ(m.plan_.prefill_tokens, 8);  // 6 of a, 2 of b
  EXPECT_EQ(m.plan_.record.NumLogits(), 1);
  m.Step();
  ASSERT_EQ(m.plan_.record.sequences.size(), 2u);
  EXPECT_EQ(m.plan_.record.sequences[0].num_tokens, 1);
  EXPECT_EQ(m.plan_.record.sequences[1].num_tokens, 7);
  EXPECT_EQ(m.plan_.record.sequences[1].past, 2);
  EXPECT_EQ(m.plan_.record.sequences[1].num_logits, 0);
  m.Step();
  m.Step();
  m.Step();
  EXPECT_GE(Machine::Output(b), 1);
}

TEST(Scheduler, ServesPriorityThenArrival) {
  Machine m(64, Options(1, 64));
  Sequence* late = m.Add(4, 0, 1);
  Sequence* first = m.Add(4, 100, 0);
  Sequence* second = m.Add(4, 200, 0);
  m.Step();
  EXPECT_EQ(first->state, SequenceState::kRunning);
  m.scheduler_.Remove(first);
  m.Step();
  EXPECT_EQ(second->state, SequenceState::kRunning);
  m.scheduler_.Remove(second);
  m.Step();
  EXPECT_EQ(late->state, SequenceState::kRunning);
}

TEST(Scheduler, PreemptsTheYoungestAndBringsItBack) {
  Machine m(8, Options(4, 64));  // 32 tokens in all
  Sequence* a = m.Add(10);
  Sequence* b = m.Add(10, 100);
  while (m.scheduler_.preemptions() == 0) m.Step();
  EXPECT_EQ(a->state, SequenceState::kRunning);
  EXPECT_EQ(b->state, SequenceState::kWaiting);
  EXPECT_EQ(b->kv.blocks.size(), 0u);
  const int output = Machine::Output(b);
  EXPECT_GT(output, 0);
  m.scheduler_.Remove(a);
  m.Step();
  EXPECT_EQ(b->state, SequenceState::kRunning);
  EXPECT_EQ(Machine::Output(b), output + 1) << "what it had said is kept and computed again in one chunk";
}

TEST(Scheduler, PrioritySavesFromPreemption) {
  Machine m(8, Options(4, 64));
  Sequence* a = m.Add(10, 0, 5);
  Sequence* b = m.Add(10, 100, 0);
  while (m.scheduler_.preemptions() == 0) m.Step();
  EXPECT_EQ(a->state, SequenceState::kWaiting);
  EXPECT_EQ(b->state, SequenceState::kRunning);
}

TEST(Scheduler, DecodeDoesNotStarvePrompts) {
  Machine m(4096, Options(64, 16));
  for (int i = 0; i < 40; ++i) m.Add(2, i * 10);  // more than the budget once they decode
  for (int i = 0; i < 20; ++i) m.Step();
  Sequence* late = m.Add(40, 5000);
  const int64_t start_us = m.clock_.NowUs();
  while (Machine::Output(late) == 0) {
    m.Step();
    ASSERT_LE(m.clock_.NowUs() - start_us, 10'000 + 1000) << "4 of 16 tokens a step are the prompts'";
  }
}

TEST(Scheduler, PromptsDoNotStarveDecode) {
  Machine m(8192, Options(64, 16));
  std::vector<Sequence*> decoding;
  for (int i = 0; i < 24; ++i) decoding.push_back(m.Add(2, i * 10));
  for (int i = 0; i < 10; ++i) m.Step();
  for (int i = 0; i < 30; ++i) m.Add(200, 1000 * i);
  std::vector<int64_t> last(decoding.size(), m.clock_.NowUs());
  std::vector<int> output;
  for (const Sequence* s : decoding) output.push_back(Machine::Output(s));
  for (int step = 0; step < 200; ++step) {
    m.Step();
    for (size_t i = 0; i < decoding.size(); ++i) {
      if (Machine::Output(decoding[i]) > output[i]) last[i] = m.clock_.NowUs();
      output[i] = Machine::Output(decoding[i]);
      // 12 of 16 tokens a step go to at most 24 + some decoding sequences, the longest unserved first.
      ASSERT_LE(m.clock_.NowUs() - last[i], 4000) << "sequence " << i << " at step " << step;
    }
  }
}

TEST(Scheduler, BudgetThatNoPromptNeedsGoesToDecode) {
  Machine m(4, Options(64, 16));  // 16 tokens of memory: the second request cannot be admitted
  Sequence* a = m.Add(8);
  m.Step();
  Sequence* b = m.Add(8, 100);
  for (int i = 0; i < 4; ++i) m.Step();
  EXPECT_EQ(Machine::Output(a), 5);
  EXPECT_EQ(b->state, SequenceState::kWaiting);
}

TEST(Scheduler, WithoutChunkingAPromptRunsWhole) {
  SchedulerOptions options = Options(8, 8);
  options.chunked_prefill = false;
  Machine m(64, options);
  Sequence* a = m.Add(30);
  Sequence* b = m.Add(30, 100);
  m.Step();
  EXPECT_EQ(m.plan_.prefill_tokens, 30);
  EXPECT_EQ(Machine::Output(a), 1);
  m.Step();
  EXPECT_EQ(Machine::Output(b), 1);
  EXPECT_EQ(Machine::Output(a), 2);
}

TEST(Scheduler, RowsOfLogitsForEveryPromptTokenInSmallChunks) {
  Machine m(64, Options(8, 64));
  Sequence* a = m.Add(10);
  a->max_logit_rows = 4;
  for (const int rows : {4, 4, 2}) {
    m.scheduler_.Plan(&m.plan_);
    EXPECT_EQ(m.plan_.record.NumLogits(), rows);
    for (const ScheduledSequence& s : m.plan_.sequences) m.scheduler_.Advance(s, s.num_tokens);
    m.scheduler_.EndStep();
  }
}

TEST(Scheduler, ForksRunOnOrWait) {
  Machine m(64, Options(2, 64));
  Sequence* parent = m.Add(6);
  m.Step();
  std::vector<std::unique_ptr<Sequence>> children;
  for (int choice = 1; choice < 3; ++choice) {
    auto child = std::make_unique<Sequence>();
    child->choice = choice;
    child->tokens = parent->tokens;
    child->prompt_tokens = parent->prompt_tokens;
    m.scheduler_.Fork(*parent, child.get());
    children.push_back(std::move(child));
  }
  EXPECT_EQ(children[0]->state, SequenceState::kRunning);
  EXPECT_EQ(children[0]->kv.blocks, parent->kv.blocks);
  EXPECT_EQ(children[1]->state, SequenceState::kWaiting) << "two sequences may run";
  m.Step();
  EXPECT_EQ(m.plan_.record.block_copies.size(), 1u);
  m.scheduler_.Remove(parent);
  m.Step();
  EXPECT_EQ(children[1]->state, SequenceState::kRunning);
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  SchedulerOptions options = Options(4, 64);
  options.max_model_len = 24;
  Machine m(4, options);
  EXPECT_TRUE(m.scheduler_.CheckFits(10, 16).ok());
  EXPECT_NE(m.scheduler_.CheckFits(10, 17).error().message.find("KV cache"), std::string::npos);
  EXPECT_NE(m.scheduler_.CheckFits(10, 25).error().message.find("context"), std::string::npos);
}

}  // namespace
}  // namespace minimo
