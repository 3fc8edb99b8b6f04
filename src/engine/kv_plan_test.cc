#include "engine/kv_plan.h"

#include <gtest/gtest.h>

namespace minimo {
namespace {

// Real sizes (MODELS: 4.1 and 4.5), bf16.
KvLayout MiMo() {
  KvLayout layout;
  layout.groups = {{0, 9, 4, 192, 128}, {128, 39, 8, 192, 128}};
  layout.bytes_per_element = 2;
  layout.ring_tokens = 128;
  return layout;
}
KvLayout MiniMax() {
  KvLayout layout;
  layout.groups = {{0, 62, 8, 128, 128}};
  layout.bytes_per_element = 2;
  return layout;
}

TEST(KvPlan, RealSizesAreThoseOfTheFormula) {
  EXPECT_EQ(MiMo().BytesPerToken(), 23'040);      // 23 KB a token
  EXPECT_EQ(MiMo().BytesPerRing(), 25'559'040);   // 25.6 MB a sequence
  EXPECT_EQ(MiniMax().BytesPerToken(), 253'952);  // 254 KB a token
  EXPECT_EQ(MiniMax().BytesPerRing(), 0);
}

TEST(KvPlan, FillsTheBudget) {
  const auto m2 = PlanKv(MiniMax(), {.budget_bytes = 10'000'000'000, .max_num_seqs = 256, .max_model_len = 196'608});
  ASSERT_TRUE(m2.ok());
  EXPECT_EQ(m2->layout.num_blocks, 2461);  // 10e9 / (253952 * 16)
  EXPECT_EQ(m2->layout.num_rings, 0);
  EXPECT_EQ(m2->max_num_seqs, 256);

  const auto mimo = PlanKv(MiMo(), {.budget_bytes = 40'000'000'000, .max_num_seqs = 256, .max_model_len = 262'144});
  ASSERT_TRUE(mimo.ok());
  EXPECT_EQ(mimo->max_num_seqs, 256);
  EXPECT_EQ(mimo->layout.num_rings, 256 + 128);
  const int64_t used =
      mimo->layout.num_blocks * MiMo().BytesPerBlock() + mimo->layout.num_rings * MiMo().BytesPerRing();
  EXPECT_LE(used, 40'000'000'000);
  EXPECT_GT(used, 40'000'000'000 - MiMo().BytesPerBlock());
}

TEST(KvPlan, LowersSequencesRatherThanLeaveNoBlocks) {
  const auto plan = PlanKv(MiMo(), {.budget_bytes = 1'000'000'000, .max_num_seqs = 256, .max_model_len = 262'144});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->layout.num_rings, 19);  // half of the budget
  EXPECT_EQ(plan->max_num_seqs, 13);
  EXPECT_GT(plan->layout.num_blocks, 1000);
  EXPECT_FALSE(PlanKv(MiMo(), {.budget_bytes = 30'000'000, .max_num_seqs = 1, .max_model_len = 1000}).ok());
}

TEST(KvPlan, TakesNoMoreThanIsUseful) {
  const auto plan = PlanKv(MiniMax(), {.budget_bytes = int64_t{1} << 45, .max_num_seqs = 2, .max_model_len = 100});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->layout.num_blocks, 2 * 7);
}

TEST(KvPlan, SaysWhatItTakes) {
  const auto plan = PlanKv(MiMo(), {.budget_bytes = 0, .num_blocks = 1000, .max_num_seqs = 4, .max_model_len = 100});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(Describe(plan->layout),
            "KV cache: 16000 tokens in 1000 blocks of 16 (368.6 MB; 23.0 KB a token = 9 layers x 4 heads x (192 + 128) "
            "x 2 B), 6 rings of 128 tokens (153.4 MB; 25.6 MB a sequence = 128 x 39 layers x 8 heads x (192 + 128) x "
            "2 B)");
}

}  // namespace
}  // namespace minimo
