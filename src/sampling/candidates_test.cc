#include "sampling/candidates.h"

#include <gtest/gtest.h>

#include <random>

#include "sampling/sampler.h"

namespace minimo {
namespace {

// A vocabulary of `vocab` logits, cut into the parts of `ranks`, as rank 0 gets it.
RowCandidates Shared(const std::vector<float>& row, int ranks, const CandidateNeed& need) {
  std::vector<std::vector<std::byte>> bytes(ranks);
  std::vector<const std::byte*> parts;
  std::vector<size_t> sizes;
  DrawScratch scratch;
  size_t at = 0;
  for (int r = 0; r < ranks; ++r) {
    const size_t size = row.size() / ranks + (r < static_cast<int>(row.size() % ranks));
    bytes[r].resize(CandidateBytes(need, size));
    PutCandidates({row.data() + at, size}, static_cast<int32_t>(at), need, &scratch, bytes[r].data());
    parts.push_back(bytes[r].data());
    sizes.push_back(size);
    at += size;
  }
  return MergeCandidates(parts, sizes, need);
}

std::vector<float> RandomRow(std::mt19937* random, size_t vocab, bool coarse) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(vocab);
  for (float& x : row) x = coarse ? std::round(normal(*random)) : normal(*random);  // coarse: many ties
  return row;
}

// Over every kind of parameters: the token, log-probability and rank of the candidates are those of the row, or the
// candidates say that they do not decide.
TEST(Candidates, ChooseWhatTheRowChoosesOrAskForIt) {
  std::mt19937 random(5);
  int decided = 0, asked = 0;
  for (int round = 0; round < 6000; ++round) {
    SamplingParams params;
    params.temperature = round % 5 == 0 ? 0.0 : 0.3 + 0.2 * (round % 7);
    params.top_k = round % 3 == 0 ? 0 : 1 + round % 45;
    params.top_p = round % 4 == 0 ? 1.0 : 0.3 + 0.69 * (round % 11) / 10;
    params.min_p = round % 6 == 1 ? 0.05 : 0.0;
    params.logprobs = round % 2 == 0 ? -1 : round % 8;
    params.seed = static_cast<uint64_t>(round);
    SequenceSampler sampler(params, {}, {});
    const CandidateNeed need = sampler.Need();
    const bool filtered = params.top_k > 0 || params.top_p < 1 || params.min_p > 0;
    EXPECT_EQ(need.count > 0, params.temperature < 1e-5 || filtered);
    if (need.count == 0) continue;
    std::vector<float> row = RandomRow(&random, 700 + round % 900, round % 10 == 3);
    const int ranks = 1 + round % 8;
    const RowCandidates candidates = Shared(row, ranks, need);
    SampleRow listed{{}, &sampler, &candidates};
    SampleBatch({&listed, 1}, nullptr);
    SampleRow whole{row, &sampler};
    SampleBatch({&whole, 1}, nullptr);
    ASSERT_TRUE(whole.status.ok() && listed.status.ok());
    ++(listed.needs_logits ? asked : decided);
    if (listed.needs_logits) continue;
    ASSERT_EQ(listed.token.token, whole.token.token) << round;
    if (params.logprobs < 0) continue;
    EXPECT_NEAR(listed.token.logprob, whole.token.logprob, 1e-5);
    EXPECT_EQ(listed.token.rank, whole.token.rank);
    ASSERT_EQ(listed.token.top.size(), whole.token.top.size());
    for (size_t i = 0; i < whole.token.top.size(); ++i) {
      EXPECT_EQ(listed.token.top[i].token, whole.token.top[i].token);
      EXPECT_NEAR(listed.token.top[i].logprob, whole.token.top[i].logprob, 1e-5);
    }
  }
  EXPECT_GT(decided, 4000);
  EXPECT_GT(asked, 20);  // ties at the edge, nuclei wider than the candidates
}

TEST(Candidates, WhatChangesLogitsAsksForTheRow) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(SequenceSampler(params, {}, {}).Need().count, 1);
  params.logit_bias = {{3, 1.0f}};
  EXPECT_EQ(SequenceSampler(params, {}, {}).Need().count, 0);
  params.logit_bias.clear();
  params.min_tokens = 2;
  EXPECT_EQ(SequenceSampler(params, {}, {}).Need().count, 0);
  params.min_tokens = 0;
  params.repetition_penalty = 1.1;
  const int32_t prompt[] = {1, 2};
  EXPECT_EQ(SequenceSampler(params, {}, prompt).Need().count, 0);
}

TEST(Candidates, PartsWithoutAChoiceAndFaultsAreSeen) {
  SamplingParams params;
  params.temperature = 0;
  SequenceSampler sampler(params, {}, {});
  std::vector<float> row(64, -std::numeric_limits<float>::infinity());
  row[40] = 1;
  const RowCandidates one = Shared(row, 4, sampler.Need());
  SampleRow chosen{{}, &sampler, &one};
  SampleBatch({&chosen, 1}, nullptr);
  EXPECT_EQ(chosen.token.token, 40);
  row[3] = std::nanf("");
  const RowCandidates faulty = Shared(row, 4, sampler.Need());
  SampleRow refused{{}, &sampler, &faulty};
  SampleBatch({&refused, 1}, nullptr);
  EXPECT_FALSE(refused.status.ok());
}

}  // namespace
}  // namespace minimo
