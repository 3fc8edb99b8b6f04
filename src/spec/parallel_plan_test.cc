#include "spec/parallel_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace minimo {
namespace {

using ::testing::HasSubstr;

ModelSpec M2() {
  ModelSpec spec;
  spec.hidden = 3072;
  spec.vocab = 200064;
  AttentionSpec a;
  a.heads = 48;
  a.kv_heads = 8;
  a.head_dim = a.v_head_dim = 128;
  a.qk_norm = true;
  spec.layers.assign(62, {a, true, 0});
  spec.moe.experts = 256;
  spec.moe.top_k = 8;
  spec.moe.intermediate = 1536;
  return spec;
}

ModelSpec MiMo() {
  ModelSpec spec;
  spec.hidden = 4096;
  spec.vocab = 152576;
  AttentionSpec full, swa;
  full.heads = swa.heads = 64;
  full.kv_heads = 4;
  swa.kv_heads = 8;
  full.head_dim = swa.head_dim = 192;
  full.v_head_dim = swa.v_head_dim = 128;
  swa.window = 128;
  for (int i = 0; i < 48; ++i) {
    const bool is_full = i == 0 || i % 6 == 5;
    spec.layers.push_back({is_full ? full : swa, i > 0, i > 0 ? 0 : 16384});
  }
  spec.moe.experts = 256;
  spec.moe.top_k = 8;
  spec.moe.intermediate = 2048;
  return spec;
}

TEST(ShareOf, CoversEverythingOnceInOrderTheFirstOnesLonger) {
  for (const int64_t count : {0, 1, 5, 24, 40, 136, 1536, 2048, 200064}) {
    for (int parts = 1; parts <= 64; ++parts) {
      for (const int64_t grain : {1, 8, 64, 128}) {
        int64_t at = 0, previous = count + grain;
        for (int part = 0; part < parts; ++part) {
          const Range r = ShareOf(count, parts, part, grain);
          ASSERT_EQ(r.begin, at);
          ASSERT_LE(r.count, previous);
          ASSERT_TRUE(r.count == 0 || r.end() == count || r.end() % grain == 0);
          at = r.end();
          previous = r.count;
        }
        ASSERT_EQ(at, count);
      }
    }
  }
}

TEST(ShareGrain, RealShapes) {
  EXPECT_EQ(ShareGrain(1536, 4), 128);   // 384
  EXPECT_EQ(ShareGrain(1536, 8), 64);    // 192: 1.5 blocks, PITFALLS 1
  EXPECT_EQ(ShareGrain(1536, 64), 8);    // 24, PITFALLS 5
  EXPECT_EQ(ShareGrain(2048, 64), 32);
  EXPECT_EQ(ShareGrain(1536, 64, 32), 32);
  EXPECT_EQ(ShareOf(1536, 8, 7, ShareGrain(1536, 8)), (Range{1344, 192}));
  EXPECT_EQ(ShareOf(1536, 64, 63, ShareGrain(1536, 64)), (Range{1512, 24}));
}

// Every query head on one rank; each with its own KV head; every KV head counted once.
void CheckHeads(int heads, int kv_heads, int ranks) {
  SCOPED_TRACE(::testing::Message() << heads << "/" << kv_heads << " on " << ranks);
  const int group = heads / kv_heads;
  int64_t next = 0;
  std::vector<int> counted(kv_heads);
  for (int rank = 0; rank < ranks; ++rank) {
    const HeadShare s = ShareHeads(heads, kv_heads, ranks, rank);
    if (s.heads.count == 0) {
      EXPECT_EQ(s.kv_heads.count, 0);
      EXPECT_FALSE(s.counts_kv);
      continue;
    }
    EXPECT_EQ(s.heads.begin, next);
    next = s.heads.end();
    ASSERT_EQ(s.heads.count % s.kv_heads.count, 0);
    for (int64_t h = 0; h < s.heads.count; ++h) {
      const int64_t local_kv = h / (s.heads.count / s.kv_heads.count);
      EXPECT_EQ(s.kv_heads.begin + local_kv, (s.heads.begin + h) / group);
    }
    if (s.counts_kv) {
      for (int64_t kv = s.kv_heads.begin; kv < s.kv_heads.end(); ++kv) ++counted[kv];
    }
  }
  EXPECT_EQ(next, heads);
  EXPECT_THAT(counted, ::testing::Each(1));
}

TEST(ShareHeads, EveryHeadOnceForEveryNumberOfRanks) {
  for (int ranks = 1; ranks <= 130; ++ranks) {
    CheckHeads(48, 8, ranks);  // M2
    CheckHeads(64, 4, ranks);  // MiMo, full
    CheckHeads(64, 8, ranks);  // MiMo, sliding
    CheckHeads(6, 2, ranks);
    CheckHeads(4, 1, ranks);
    CheckHeads(8, 8, ranks);
  }
}

TEST(ShareHeads, TheFirstRankHoldsMost) {
  for (int ranks = 1; ranks <= 64; ++ranks) {
    const HeadShare first = ShareHeads(64, 4, ranks, 0);
    for (int rank = 1; rank < ranks; ++rank) {
      EXPECT_LE(ShareHeads(64, 4, ranks, rank).kv_heads.count, first.kv_heads.count);
    }
  }
}

TEST(ShareExperts, EveryRowOfEveryExpertOnce) {
  for (const ModelSpec& spec : {M2(), MiMo()}) {
    for (int ranks = 1; ranks <= 64; ++ranks) {
      for (int tensor = 1; tensor <= ranks; ++tensor) {
        if (ranks % tensor != 0) continue;
        int64_t cells = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          const MoeShare s = ShareExperts(spec.moe, {tensor, ranks / tensor}, rank);
          cells += s.experts.count * s.rows.count;
        }
        ASSERT_EQ(cells, int64_t{spec.moe.experts} * spec.moe.intermediate);
      }
    }
  }
}

// A weight format's groups are not cut: 48 groups of 32 rows on 64 ranks.
TEST(ShareExperts, RowsAreCutAtTheFormatsGroups) {
  for (int rank = 0; rank < 64; ++rank) {
    const MoeShare s = ShareExperts(M2().moe, {64, 1}, rank, 32);
    EXPECT_EQ(s.rows.count, rank < 48 ? 32 : 0) << rank;
  }
}

ParallelPlan Plan(const ModelSpec& spec, const ParallelFlags& flags, int max_num_seqs = 16) {
  const auto plan = PlanRanks(spec, flags, max_num_seqs);
  EXPECT_TRUE(plan.ok()) << plan.error().message;
  return plan.ok() ? *plan : ParallelPlan{};
}

TEST(PlanRanks, DefaultsKeepRowsThickEnough) {
  EXPECT_EQ(Plan(M2(), {2}).decode, (MoeLayout{2, 1}));
  EXPECT_EQ(Plan(M2(), {8}).decode, (MoeLayout{8, 1}));
  EXPECT_EQ(Plan(M2(), {64}).decode, (MoeLayout{16, 4}));   // 96 rows
  EXPECT_EQ(Plan(MiMo(), {64}).decode, (MoeLayout{32, 2}));  // 64 rows
  EXPECT_EQ(Plan(M2(), {64}, 4096).decode, (MoeLayout{1, 64}));
  EXPECT_EQ(Plan(M2(), {64}, 32 * 64).decode, (MoeLayout{1, 64}));  // 32 sequences a rank fill whole experts
  EXPECT_EQ(Plan(M2(), {64}, 32 * 64 - 1).decode, (MoeLayout{16, 4}));
  EXPECT_EQ(Plan(M2(), {48}, 4096).decode, (MoeLayout{24, 2}));  // 256 experts do not divide by 48
  EXPECT_FALSE(Plan(M2(), {64}).hybrid());
  EXPECT_EQ(Plan(M2(), {8, true}).decode, (MoeLayout{1, 8}));
}

TEST(PlanRanks, TheOriginalSystemsThreeLayouts) {
  const ParallelPlan hybrid = Plan(M2(), {64, false, "ep", "tp"});
  EXPECT_EQ(hybrid.prefill, (MoeLayout{1, 64}));
  EXPECT_EQ(hybrid.decode, (MoeLayout{64, 1}));
  EXPECT_EQ(Plan(M2(), {64, false, "16x4", "4x16"}).prefill, (MoeLayout{16, 4}));
}

TEST(PlanRanks, WhatCannotWorkIsSaid) {
  const auto message = [](const ParallelFlags& flags) {
    const auto plan = PlanRanks(M2(), flags, 16);
    return plan.ok() ? std::string("accepted") : plan.error().message;
  };
  EXPECT_THAT(message({0}), HasSubstr("expected 1 to 1024"));
  EXPECT_THAT(message({4096}), HasSubstr("expected 1 to 1024"));
  EXPECT_THAT(message({8, false, "3x2", ""}), HasSubstr("3 x 2 = 6 ranks, there are 8"));
  EXPECT_THAT(message({8, false, "", "fast"}), HasSubstr("--moe-decode is \"fast\""));
  EXPECT_THAT(message({8, false, "", "-2x-4"}), HasSubstr("--moe-decode is"));
  EXPECT_THAT(message({8, false, "", "", 0}), HasSubstr("--data-parallel-size is 0"));
  EXPECT_THAT(message({8, false, "", "", 200}), HasSubstr("at most 1024 ranks in all"));
  EXPECT_THAT(message({2, false, "", "2x1", 4}), HasSubstr("2 x 1 = 2 ranks, there are 8"));
}

TEST(PlanRanks, EveryRankHasSomethingOfTheVocabularyAndTheHiddenSize) {
  ModelSpec few = M2();
  few.vocab = 7;
  EXPECT_THAT(PlanRanks(few, {8}, 16).error().message, HasSubstr("8 ranks cannot share a model"));
  EXPECT_TRUE(PlanRanks(few, {7}, 16).ok());
  few.hidden = 6;
  EXPECT_THAT(PlanRanks(few, {7}, 16).error().message, HasSubstr("hidden size 6 and 7 tokens; use fewer"));
}

TEST(PlanRanks, ReplicasShareExpertsAndNotAttention) {
  const ParallelPlan plan = Plan(M2(), {2, true, "", "", 4});
  EXPECT_EQ(plan.ranks, 8);
  EXPECT_EQ(plan.attention_ranks(), 2);
  EXPECT_EQ(plan.replica_of(5), 2);
  EXPECT_EQ(plan.decode, (MoeLayout{1, 8}));
  const AttentionSpec& a = M2().layers[0].attention;
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(HeadsOf(a, plan, rank).heads, ShareHeads(a.heads, a.kv_heads, 2, rank % 2).heads) << rank;
  }
  const RankMemory replicas = MemoryOf(M2(), plan, 0, {}), one = MemoryOf(M2(), Plan(M2(), {2, true}), 0, {});
  EXPECT_EQ(replicas.attention, one.attention);
  EXPECT_EQ(replicas.kv_per_token, one.kv_per_token);
  EXPECT_EQ(replicas.experts, MemoryOf(M2(), Plan(M2(), {8, true}), 0, {}).experts);
}

TEST(MemoryOf, SharesAddUpToTheWholeModel) {
  const WeightBits bits;
  for (const ModelSpec& spec : {M2(), MiMo()}) {
    const RankMemory whole = MemoryOf(spec, Plan(spec, {1}), 0, bits);
    for (const int ranks : {2, 3, 4, 8}) {
      RankMemory sum;
      for (int rank = 0; rank < ranks; ++rank) {
        const RankMemory m = MemoryOf(spec, Plan(spec, {ranks}), rank, bits);
        sum.experts += m.experts;
        sum.ends += m.ends;
        sum.dense += m.dense;
        EXPECT_EQ(m.experts_hybrid, 0);
      }
      EXPECT_NEAR(double(sum.experts) / double(whole.experts), 1, 1e-6);
      EXPECT_NEAR(double(sum.ends) / double(whole.ends), 1, 1e-6);
      EXPECT_EQ(sum.dense, whole.dense);
    }
  }
}

TEST(MemoryOf, KnownSizes) {
  const RankMemory m2 = MemoryOf(M2(), Plan(M2(), {1}), 0, {});
  EXPECT_NEAR(double(m2.weights()), 229e9, 2e9);  // PERFORMANCE.md: resident, FP8
  EXPECT_EQ(m2.kv_per_token, 62 * 8 * 256 * 2);   // 254 KB
  const RankMemory mimo = MemoryOf(MiMo(), Plan(MiMo(), {1}), 0, {});
  EXPECT_NEAR(double(mimo.weights()), 309e9, 4e9);
  EXPECT_EQ(mimo.kv_per_token, 9 * 4 * 320 * 2);                // 23 KB
  EXPECT_EQ(mimo.kv_per_sequence, 39 * 8 * 320 * 2 * 128);      // 25.6 MB
}

TEST(MemoryOf, TiedEmbeddingsAreHeldOnce) {
  ModelSpec tied = M2();
  tied.tied_embeddings = true;
  const ParallelPlan plan = Plan(M2(), {2});
  EXPECT_EQ(2 * MemoryOf(tied, plan, 0, {}).ends, MemoryOf(M2(), plan, 0, {}).ends);
}

TEST(MemoryOf, TheHybridHoldsBothLayoutsButNotTwiceWhatTheyShare) {
  const ParallelPlan hybrid = Plan(M2(), {8, false, "ep", "tp"});
  const RankMemory both = MemoryOf(M2(), hybrid, 0, {});
  const RankMemory one = MemoryOf(M2(), Plan(M2(), {8, false, "tp", "tp"}), 0, {});
  // Rank 0's 32 experts share 1/8 of their rows with its 1/8 of all experts.
  EXPECT_NEAR(double(both.experts) / double(one.experts), 2 - 1.0 / 8, 1e-6);
  EXPECT_EQ(both.experts - both.experts_hybrid, one.experts);
  const auto lines = Describe(M2(), hybrid, {});
  EXPECT_THAT(lines, ::testing::Contains(HasSubstr("experts ep in prefill, tp in decode")));
}

TEST(Describe, IdleAndUnevenRanksAreNamed) {
  EXPECT_THAT(Describe(M2(), Plan(M2(), {64}), {}), ::testing::Contains(HasSubstr("16 of 64 ranks hold no attention")));
  EXPECT_THAT(Describe(M2(), Plan(M2(), {3}), {}),
              ::testing::Contains(HasSubstr("up to 18 a rank, 16.0 would be even")));
  EXPECT_EQ(Describe(M2(), Plan(M2(), {8}), {}).size(), 1u);
  ModelSpec few = M2();
  few.moe.experts = 4;
  for (const ParallelFlags& flags : {ParallelFlags{8, false, "ep", "tp"}, ParallelFlags{8, false, "tp", "ep"}}) {
    EXPECT_THAT(Describe(few, Plan(few, flags), {}), ::testing::Contains(HasSubstr("more expert shares than the 4")));
  }
}

}  // namespace
}  // namespace minimo
