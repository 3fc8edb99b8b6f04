#include "engine/replicas.h"

#include <gtest/gtest.h>

#include "engine/admission.h"

namespace minimo {
namespace {

KvLayout Layout() {
  KvLayout layout;
  layout.groups = {{0, 1, 1, 8, 8}, {8, 1, 1, 8, 8}};
  layout.block_size = 4;
  layout.ring_tokens = 8;
  layout.num_blocks = 32;
  layout.num_rings = 8;
  return layout;
}

// Two replicas and the choices that live in them.
class TwoReplicas : public ::testing::Test {
 protected:
  TwoReplicas() : replicas_(2, Layout(), Scheduling(), {}, &clock_) {
    limits_.vocab_size = 32;
    limits_.max_model_len = 100;
    limits_.kv_capacity_tokens = 128;
  }

  static SchedulerOptions Scheduling() {
    SchedulerOptions options;
    options.max_num_seqs = 16;
    options.max_num_batched_tokens = 64;
    options.max_model_len = 100;
    return options;
  }

  LiveChoice* Add(std::vector<int32_t> prompt) {
    Request request;
    request.prompt_ids = std::move(prompt);
    auto live = Admit(std::move(request), nullptr, limits_);
    EXPECT_TRUE(live.ok());
    LiveChoice* choice = (*live)->choices[0].get();
    choice->order = static_cast<int64_t>(requests_.size());
    requests_.push_back(std::move(*live));
    replicas_.Add(choice);
    return choice;
  }

  // Every sequence that was scheduled gets the token 7, if its prompt is done.
  void Step() {
    StepPlan plan;
    replicas_.Plan(&plan);
    ASSERT_EQ(replicas_.Verify(), "");
    replicas_.Advance(plan);
    for (const ScheduledSequence& s : plan.sequences) {
      if (s.num_logits > 0) s.sequence->tokens.push_back(7);
    }
  }

  FakeClock clock_;
  AdmissionLimits limits_;
  Replicas replicas_;
  std::vector<std::unique_ptr<LiveRequest>> requests_;
};

TEST_F(TwoReplicas, RequestsGoToTheOneWithTheFewestAndChoicesStayWithTheirParent) {
  EXPECT_EQ(Add({1, 2, 3})->replica, 0);
  LiveChoice* second = Add({4, 5, 6});
  EXPECT_EQ(second->replica, 1);
  EXPECT_EQ(Add({1, 2})->replica, 0);
  replicas_.Remove(second);
  EXPECT_EQ(Add({9})->replica, 1);
}

// A fork shares its parent's last, half full block until one of both writes: the copy's source is held until the step
// has ended, in whichever replica it lies.
TEST_F(TwoReplicas, WhatAStepHeldIsGivenBackInEveryReplica) {
  for (const int32_t replica : {0, 1}) {
    SCOPED_TRACE(replica);
    // The other one gets a request of its own first, so that the parent lands here.
    LiveChoice* filler = replica == 1 ? Add({30}) : nullptr;
    LiveChoice* parent = Add({1, 2, 3, 4, 5, 6});
    ASSERT_EQ(parent->replica, replica);
    Step();
    auto child = MakeChoice(parent->request, 1, parent->sampler.Fork(1), nullptr);
    child->order = parent->order;
    child->tokens = parent->tokens;
    child->prompt_tokens = parent->prompt_tokens;
    replicas_.Fork(*parent, child.get());
    EXPECT_EQ(child->replica, replica);
    for (int i = 0; i < 3; ++i) Step();
    EXPECT_GT(replicas_.kv_usage(), 0);
    replicas_.Remove(child.get());
    replicas_.Remove(parent);
    if (filler != nullptr) replicas_.Remove(filler);
    EXPECT_EQ(replicas_.kv_usage(), 0);
  }
}

TEST(ShareOfReplica, NobodyGetsLessThanAnEvenShareOfSequencesNorTooLittleToRun) {
  SchedulerOptions all;
  all.max_num_seqs = 16;
  all.max_num_batched_tokens = 64;
  EXPECT_EQ(ShareOfReplica(all, 3).max_num_seqs, 6);
  EXPECT_EQ(ShareOfReplica(all, 3).max_num_batched_tokens, 21);
  all.max_num_seqs = all.max_num_batched_tokens = 1;
  EXPECT_EQ(ShareOfReplica(all, 4).max_num_seqs, 1);
  EXPECT_EQ(ShareOfReplica(all, 4).max_num_batched_tokens, 2);
}

TEST_F(TwoReplicas, CountsAreOfBothAndUsageIsOfTheFullest) {
  EXPECT_EQ(replicas_.kv_capacity_tokens(), 2 * 32 * 4);
  EXPECT_EQ(replicas_.kv_usage(), 0);
  Add(std::vector<int32_t>(9, 1));  // three of 32 blocks, one of eight rings
  Add({2});
  Add({3, 4});
  EXPECT_EQ(replicas_.num_waiting(), 3);
  EXPECT_EQ(replicas_.num_running(), 0);
  Step();
  EXPECT_EQ(replicas_.num_waiting(), 0);
  EXPECT_EQ(replicas_.num_running(), 3);
  EXPECT_DOUBLE_EQ(replicas_.kv_usage(), 2.0 / 8);  // two rings of the first replica
}

// 16 sequences, so eight each: one replica's place is free as long as the other's are taken.
TEST_F(TwoReplicas, ThereIsRoomUntilBothAreFull) {
  for (int i = 0; i < 15; ++i) Add({1});
  Step();
  EXPECT_EQ(replicas_.num_running(), 15);
  EXPECT_TRUE(replicas_.RoomForMore());
  Add({2});
  Step();
  EXPECT_FALSE(replicas_.RoomForMore());
}

}  // namespace
}  // namespace minimo
