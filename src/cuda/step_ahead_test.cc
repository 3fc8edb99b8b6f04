#include "cuda/step_ahead.h"

#include <gtest/gtest.h>

#include "kv/replica_step.h"

namespace minimo::cuda {
namespace {

KvLayout Layout(int window = 0) {
  KvLayout layout;
  layout.block_size = 4;
  if (window > 0) {
    layout.groups.resize(1);
    layout.groups[0].window = window;
    layout.ring_tokens = window;  // a slack of 1
  }
  return layout;
}

// Sequences of one token each, at these positions, each with its own blocks and `extra` more than it needs.
StepRecord Decode(const std::vector<int32_t>& pasts, const std::vector<int32_t>& tokens, int extra = 1) {
  StepRecord step;
  for (size_t i = 0; i < pasts.size(); ++i) {
    const int blocks = pasts[i] / 4 + 1 + extra;
    step.sequences.push_back({static_cast<int32_t>(i), 1, pasts[i], static_cast<int32_t>(step.block_tables.size()),
                              blocks, -1, 1});
    for (int b = 0; b < blocks; ++b) step.block_tables.push_back(static_cast<int32_t>(100 * i) + b);
    step.tokens.push_back(tokens[i]);
  }
  return step;
}

TEST(NextStep, MovesEachSequenceOn) {
  StepRecord next;
  ASSERT_TRUE(NextStep(Decode({3, 9}, {50, 51}), Layout(), &next));
  ASSERT_EQ(next.sequences.size(), 2u);
  EXPECT_EQ(next.sequences[0].past, 4);
  EXPECT_EQ(next.sequences[1].past, 10);
  EXPECT_EQ(next.tokens.size(), 2u);
}

TEST(NextStep, NeedsABlockForTheNextToken) {
  StepRecord next;
  EXPECT_TRUE(NextStep(Decode({2}, {50}, 0), Layout(), &next));
  EXPECT_FALSE(NextStep(Decode({3}, {50}, 0), Layout(), &next));  // the next token begins a block
}

TEST(NextStep, NotFromPrompts) {
  StepRecord step = Decode({2}, {50}), next;
  step.sequences[0].num_tokens = 2;
  EXPECT_FALSE(NextStep(step, Layout(), &next));
  step.sequences[0].num_tokens = 1;
  step.sequences[0].num_logits = 0;
  EXPECT_FALSE(NextStep(step, Layout(), &next));
}

// Ring of 8 for a window of 8: written up to 4 k + 1 it still serves boundary 4 k, one row more and it does not.
TEST(NextStep, KeepsTheRingsThatTheCacheMayKeep) {
  for (int past = 0; past < 8; ++past) {
    StepRecord step = Decode({past}, {50}), next;
    step.sequences[0].ring = 0;
    EXPECT_EQ(NextStep(step, Layout(8), &next), (past + 1) % 4 != 1) << past;
  }
}

TEST(IsPartOf, FindsAllOrThoseThatAreLeft) {
  const StepRecord ahead = Decode({4, 10, 6}, {0, 0, 0});
  const std::vector<int32_t> tokens = {60, 61, 62};
  std::vector<int32_t> rows;
  EXPECT_TRUE(IsPartOf(Decode({4, 10, 6}, tokens), ahead, tokens, 4, &rows));
  EXPECT_EQ(rows, (std::vector<int32_t>{0, 1, 2}));
  StepRecord left = Decode({4, 10, 6}, tokens);
  left.sequences.erase(left.sequences.begin() + 1);  // one has ended
  EXPECT_TRUE(IsPartOf(left, ahead, tokens, 4, &rows));
  EXPECT_EQ(rows, (std::vector<int32_t>{0, 2}));
}

// Each replica counts its blocks from 0: two that answer the same prompt look alike.
TEST(IsPartOf, TellsReplicasApart) {
  StepRecord step, next, left;
  for (int replica = 0; replica < 2; ++replica) AppendReplica(Decode({4}, {60}), &step);
  ASSERT_TRUE(NextStep(step, Layout(), &next));
  ASSERT_EQ(next.replicas.size(), 2u);
  EXPECT_EQ(next.replicas[1].sequences, 1);
  AppendReplica({}, &left);  // the first one's has ended
  AppendReplica(Decode({5}, {61}), &left);
  std::vector<int32_t> rows;
  EXPECT_TRUE(IsPartOf(left, next, {61, 61}, 4, &rows));
  EXPECT_EQ(rows, std::vector<int32_t>{1});
}

TEST(NextStep, DoesNotRepeatCopies) {
  StepRecord step, next;
  StepRecord part = Decode({4}, {60});
  part.block_copies.push_back({1, 2});
  AppendReplica(part, &step);
  ASSERT_TRUE(NextStep(step, Layout(), &next));
  EXPECT_TRUE(next.block_copies.empty());
  EXPECT_EQ(next.replicas[0].block_copies, 0);
}

TEST(IsPartOf, AnythingElseIsAnotherStep) {
  const StepRecord ahead = Decode({4, 10}, {0, 0});
  const std::vector<int32_t> tokens = {60, 61};
  std::vector<int32_t> rows;
  EXPECT_FALSE(IsPartOf(Decode({4, 10}, {60, 99}), ahead, tokens, 4, &rows)) << "another token";
  EXPECT_FALSE(IsPartOf(Decode({4, 11}, tokens), ahead, tokens, 4, &rows)) << "another position";
  EXPECT_FALSE(IsPartOf(Decode({4, 10, 6}, {60, 61, 62}), ahead, tokens, 4, &rows)) << "one more";
  StepRecord moved = Decode({4, 10}, tokens);
  moved.block_tables[static_cast<size_t>(moved.sequences[1].block_table)] = 77;
  EXPECT_FALSE(IsPartOf(moved, ahead, tokens, 4, &rows)) << "other blocks";
  StepRecord copies = Decode({4, 10}, tokens);
  copies.block_copies.push_back({1, 2});
  EXPECT_FALSE(IsPartOf(copies, ahead, tokens, 4, &rows)) << "copies before it";
  StepRecord prompt = Decode({4, 10}, tokens);
  prompt.sequences[0].num_logits = 0;
  EXPECT_FALSE(IsPartOf(prompt, ahead, tokens, 4, &rows)) << "inside a prompt";
}

}  // namespace
}  // namespace minimo::cuda
