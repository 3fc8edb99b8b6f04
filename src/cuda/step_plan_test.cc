#include "cuda/step_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cuda/weight_tiles.h"
#include "kv/replica_step.h"

namespace minimo::cuda {
namespace {

StepRecord Prefill(int past, int tokens, int blocks) {
  StepRecord step;
  step.tokens.assign(static_cast<size_t>(tokens), 3);
  step.sequences = {{0, tokens, past, 0, blocks, -1, 1}};
  for (int i = 0; i < blocks; ++i) step.block_tables.push_back(i);
  return step;
}

TEST(StepPlan, PositionsTablesAndLogitRowsOfAMixedStep) {
  StepRecord step = Prefill(5, 7, 1);
  step.tokens.push_back(9);
  step.sequences.push_back({7, 1, 40, 1, 3, 2, 1});
  step.block_tables.insert(step.block_tables.end(), {4, 5, 6});
  const StepLayout layout{16, {6}};
  StepPlan plan;
  ASSERT_TRUE(PlanStep(step, layout, 10, 8, 4, &plan).ok());
  const int32_t* at = plan.packed.data();
  EXPECT_EQ(plan.tokens, 8);
  EXPECT_FALSE(plan.one_token_each);
  EXPECT_EQ(at[layout.Positions() + 6], 11);
  EXPECT_EQ(at[layout.Last() + 0], 11);
  EXPECT_EQ(at[layout.Past() + 3], 5);
  EXPECT_EQ(at[layout.Positions() + 7], 40);
  EXPECT_EQ(at[layout.BlockTableOf() + 7], 1);
  EXPECT_EQ(at[layout.RingOf() + 7], 2);
  EXPECT_EQ(plan.logit_rows, 2);
  EXPECT_EQ(at[layout.LogitRows()], 6);
  EXPECT_EQ(at[layout.LogitRows() + 1], 7);
  EXPECT_EQ(at[layout.BlockTables() + 3], 6);
}

TEST(StepPlan, DecodeIsOneTokenAndOneRowEach) {
  StepRecord step;
  step.tokens = {1, 2};
  step.sequences = {{0, 1, 3, 0, 1, -1, 1}, {1, 1, 9, 0, 1, -1, 1}};
  step.block_tables = {0};
  StepPlan plan;
  ASSERT_TRUE(PlanStep(step, {4, {8}}, 10, 1, 0, &plan).ok());
  EXPECT_TRUE(plan.one_token_each);
  step.sequences[1].num_logits = 0;
  ASSERT_TRUE(PlanStep(step, {4, {8}}, 10, 1, 0, &plan).ok());
  EXPECT_FALSE(plan.one_token_each);
}

TEST(StepPlan, SinglesLeadAndHaveNoTiles) {
  StepRecord step;
  step.sequences = {{0, 1, 30, 0, 3, -1, 1}, {1, 1, 8, 0, 3, -1, 1}, {2, 5, 41, 0, 3, -1, 1}, {7, 1, 40, 0, 3, -1, 1}};
  step.tokens.assign(8, 1);
  step.block_tables = {0, 0, 0};
  StepPlan plan;
  ASSERT_TRUE(PlanStep(step, {8, {8}}, 10, 1, 0, &plan).ok());
  EXPECT_EQ(plan.singles, 2);
  EXPECT_EQ(plan.longest_single, 31);
  EXPECT_EQ(plan.tiles[0], 2);  // of the prompt, and of the sequence behind it
  EXPECT_FALSE(plan.one_token_each);
  // One token each, but not in the order of the tokens: no decode step.
  step.sequences = {{1, 1, 30, 0, 3, -1, 1}, {0, 1, 8, 0, 3, -1, 1}};
  step.tokens.assign(2, 1);
  ASSERT_TRUE(PlanStep(step, {8, {8}}, 10, 1, 0, &plan).ok());
  EXPECT_EQ(plan.singles + plan.tiles[0], 2);
  EXPECT_FALSE(plan.one_token_each);
}

// Tiles cover every (token, head of the group) row of every other sequence exactly once, and stay within their section.
TEST(StepPlan, TilesCoverEveryRowOnce) {
  const StepLayout layout{300, {6, 16, 1}};
  StepRecord step;
  for (const int n : {1, 64, 11, 200, 3, 1}) {
    step.sequences.push_back({static_cast<int32_t>(step.tokens.size()), n, 0, 0, 1, -1, 0});
    step.tokens.resize(step.tokens.size() + n);
  }
  step.block_tables = {0};
  StepPlan plan;
  ASSERT_TRUE(PlanStep(step, layout, 10, 1, 0, &plan).ok());
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    std::set<std::pair<int, int>> rows;
    EXPECT_LE(layout.Tiles(g) + 4 * plan.tiles[g], layout.Tiles(g + 1));
    EXPECT_EQ(layout.Tiles(g) % 4, 0);
    for (int i = 0; i < plan.tiles[g]; ++i) {
      const int32_t* tile = plan.packed.data() + layout.Tiles(g) + 4 * i;
      for (int r = tile[2]; r < std::min(tile[2] + kPrefillTileRows, tile[1] * layout.groups[g]); ++r) {
        EXPECT_TRUE(rows.emplace(tile[0], r).second);
      }
    }
    EXPECT_EQ(rows.size(), (step.tokens.size() - 1) * layout.groups[g]);  // the first is a single
  }
}

// |rep. 0: a prompt of 5|rep. 1: one, a prompt of 3, one|: each plans attention of its own, and all know all rows.
TEST(StepPlan, AReplicaOfAttentionHasItsOwnSequencesAlone) {
  StepRecord first = Prefill(2, 5, 1), second, step;
  second.tokens = {4, 5, 6, 7, 8};
  second.sequences = {{0, 1, 30, 0, 2, -1, 1}, {1, 3, 7, 0, 2, -1, 1}, {4, 1, 9, 0, 2, -1, 1}};
  second.block_tables = {6, 7};
  AppendReplica(first, &step);
  AppendReplica(second, &step);
  const StepLayout layout{16, {64}};
  StepPlan plan;
  ASSERT_TRUE(PlanStep(step, layout, 10, 8, 0, &plan, 0).ok());
  EXPECT_EQ(plan.tokens, 10);
  EXPECT_EQ(plan.logit_rows, 4);
  EXPECT_EQ(plan.own.first, 0);
  EXPECT_EQ(plan.own.count, 5);
  EXPECT_EQ(plan.singles, 0);
  EXPECT_EQ(plan.tiles[0], 3);
  ASSERT_TRUE(PlanStep(step, layout, 10, 8, 0, &plan, 1).ok());
  EXPECT_EQ(plan.tokens, 10);
  EXPECT_EQ(plan.logit_rows, 4);
  EXPECT_EQ(plan.own.first, 5);
  EXPECT_EQ(plan.own.count, 5);
  EXPECT_EQ(plan.singles, 1);
  EXPECT_EQ(plan.longest_single, 31);
  ASSERT_EQ(plan.tiles[0], 3);  // two of the prompt, one of the sequence behind it
  const int32_t* tiles = plan.packed.data() + layout.Tiles(0);
  EXPECT_EQ(tiles[0], 1);  // of its own rows
  EXPECT_EQ(tiles[8], 4);
  EXPECT_EQ(plan.packed[static_cast<size_t>(layout.BlockTableOf()) + 5], 1);  // among those of all
  EXPECT_EQ(plan.replicas, (std::vector<StepPlan::Rows>{{0, 5}, {5, 5}}));
  ASSERT_TRUE(PlanStep(step, layout, 10, 8, 0, &plan, 2).ok());  // one that has nothing to run
  EXPECT_EQ(plan.own.count, 0);
  EXPECT_EQ(plan.tiles[0] + plan.singles, 0);
}

TEST(StepPlan, ADecodeStepIsOneForEveryReplica) {
  StepRecord one, step;
  one.tokens = {1};
  one.sequences = {{0, 1, 3, 0, 1, -1, 1}};
  one.block_tables = {0};
  AppendReplica(one, &step);
  AppendReplica({}, &step);
  for (const int replica : {0, 1}) {
    StepPlan plan;
    ASSERT_TRUE(PlanStep(step, {4, {8}}, 10, 1, 0, &plan, replica).ok());
    EXPECT_TRUE(plan.one_token_each);
    EXPECT_EQ(plan.singles, replica == 0 ? 1 : 0);
  }
}

TEST(StepPlan, RefusesWhatDoesNotFit) {
  StepPlan plan;
  EXPECT_FALSE(PlanStep(Prefill(0, 9, 1), {8, {1}}, 10, 1, 0, &plan).ok());   // too many tokens
  EXPECT_FALSE(PlanStep(Prefill(0, 4, 2), {8, {1}}, 10, 1, 0, &plan).ok());   // block 1 of 1
  EXPECT_FALSE(PlanStep(Prefill(0, 4, 1), {8, {1}}, 3, 1, 0, &plan).ok());    // token 3 of 3
  StepRecord step = Prefill(0, 4, 1);
  step.sequences[0].ring = 2;
  EXPECT_FALSE(PlanStep(step, {8, {1}}, 10, 1, 2, &plan).ok());
  step = Prefill(0, 4, 1);
  step.sequences[0].num_tokens = 5;
  EXPECT_FALSE(PlanStep(step, {8, {1}}, 10, 1, 2, &plan).ok());
}

TEST(WeightTiles, BytesOfTheReleasedShapes) {
  const TileShape qkv{TileFormat::kFp8, 8192 / 16, 3072 / 128};
  EXPECT_EQ(qkv.WeightBytes(), 8192 * 3072);
  EXPECT_EQ(qkv.ScaleBytes(), 512 * 24 * 8);
  const TileShape up{TileFormat::kInt4, 2 * 1536 / 16, 3072 / 128, 64};
  EXPECT_EQ(up.WeightBytes() + up.ScaleBytes(), 2 * 1536 * 3072 * 17 / 32);  // 4.25 bits
}

}  // namespace
}  // namespace minimo::cuda
