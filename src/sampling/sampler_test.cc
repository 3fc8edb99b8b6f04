#include "sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace minimo {
namespace {

using ::testing::HasSubstr;

constexpr float kLowest = -std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(size_t vocab, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> x(vocab);
  for (float& v : x) v = normal(rng);
  return x;
}

SampleRow SampleOne(std::vector<float> logits, SequenceSampler* sequence) {
  SampleRow row{logits, sequence};
  SampleBatch({&row, 1}, nullptr);
  return row;
}

SequenceSampler Make(const SamplingParams& params, std::vector<int32_t> prompt = {}, std::vector<int32_t> eos = {}) {
  return SequenceSampler(params, eos, prompt);
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

TEST(Sampler, GreedyTakesTheLowestOfTheBest) {
  SequenceSampler sequence = Make(Greedy());
  EXPECT_EQ(SampleOne({1, 3, 2, 3, 3}, &sequence).token.token, 1);
}

TEST(Sampler, FaultyRowsAreErrorsOfTheirSequenceAlone) {
  SequenceSampler a = Make(Greedy()), b = Make(Greedy()), c = Make({});
  std::vector<float> bad = {1, std::nanf(""), 2}, good = {1, 5, 2},
                     infinite = {1, std::numeric_limits<float>::infinity()};
  SampleRow rows[] = {{bad, &a}, {good, &b}, {infinite, &c}};
  SampleBatch(rows, nullptr);
  ASSERT_FALSE(rows[0].status.ok());
  EXPECT_THAT(rows[0].status.error().message, HasSubstr("the model produced NaN"));
  EXPECT_TRUE(rows[1].status.ok());
  EXPECT_EQ(rows[1].token.token, 1);
  EXPECT_FALSE(rows[2].status.ok());
}

TEST(Sampler, ExcludingEveryTokenIsAnError) {
  SamplingParams params = Greedy();
  params.allowed_token_ids = {1};
  params.min_tokens = 1;
  params.stop_token_ids = {1};
  SequenceSampler sequence = Make(params);
  const SampleRow row = SampleOne({1, 2, 3}, &sequence);
  ASSERT_FALSE(row.status.ok());
  EXPECT_THAT(row.status.error().message, HasSubstr("no token is allowed"));
}

// The definitions of vLLM's apply_penalties, written out for a case by hand.
TEST(Sampler, PenaltiesAreVllms) {
  SamplingParams params;
  params.temperature = 1;
  params.top_k = 1;  // the best after the penalties
  params.repetition_penalty = 2;
  params.frequency_penalty = 0.5;
  params.presence_penalty = 0.25;
  const std::vector<float> x = {4, 4.1f, -1, -0.9f, 2.4f};
  // prompt {0, 2}, output {1, 1, 3}: 4/2; 4.1/2 - 1 - .25; -1*2; -.9*2 - .5 - .25; 2.4
  SequenceSampler sequence = Make(params, {0, 2, 0});
  for (const int32_t token : {1, 1, 3}) ASSERT_TRUE(sequence.Append(token).ok());
  std::vector<float> changed = x;
  SampleRow row{changed, &sequence};
  SampleBatch({&row, 1}, nullptr);
  const float expected[] = {2, 4.1f / 2 - 1 - .25f, -2, -1.8f - .75f, 2.4f};
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(changed[i], expected[i], 1e-6) << i;
  EXPECT_EQ(row.token.token, 4);
}

TEST(Sampler, FrequencyAndPresenceLookAtTheOutputAlone) {
  SamplingParams params = Greedy();
  params.presence_penalty = 2;
  SequenceSampler sequence = Make(params, {1});
  EXPECT_EQ(SampleOne({0, 1, 0.5}, &sequence).token.token, 1);
  ASSERT_TRUE(sequence.Append(1).ok());
  EXPECT_EQ(SampleOne({0, 1, 0.5}, &sequence).token.token, 2);
}

TEST(Sampler, BiasAllowedIdsAndMinTokens) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 50.0f}, {1, -1000.0f}};  // clamped to 100
  SequenceSampler biased = Make(params);
  std::vector<float> x = {0, 60, 0};
  SampleRow row{x, &biased};
  SampleBatch({&row, 1}, nullptr);
  EXPECT_EQ(row.token.token, 2);
  EXPECT_EQ(x[1], -40);

  params = Greedy();
  params.allowed_token_ids = {0, 2};
  SequenceSampler allowed = Make(params);
  EXPECT_EQ(SampleOne({1, 9, 2, 8}, &allowed).token.token, 2);

  params = Greedy();
  params.min_tokens = 2;
  params.stop_token_ids = {0};
  SequenceSampler minimum = Make(params, {}, {1});
  EXPECT_EQ(SampleOne({8, 9, 2}, &minimum).token.token, 2);
  ASSERT_TRUE(minimum.Append(2).ok());
  EXPECT_EQ(SampleOne({8, 9, 2}, &minimum).token.token, 2);
  ASSERT_TRUE(minimum.Append(2).ok());
  EXPECT_EQ(SampleOne({8, 9, 2}, &minimum).token.token, 1);
}

TEST(Sampler, LogprobsAreOfTheRawRow) {
  SamplingParams params = Greedy();
  params.logprobs = 2;
  params.logit_bias = {{0, 100.0f}};
  SequenceSampler sequence = Make(params);
  const std::vector<float> x = {1, 3, 2, -1};
  const SampleRow row = SampleOne(x, &sequence);
  double sum = 0;
  for (const float v : x) sum += std::exp(v);
  EXPECT_EQ(row.token.token, 0);
  EXPECT_NEAR(row.token.logprob, 1 - std::log(sum), 1e-6);
  EXPECT_EQ(row.token.rank, 3);
  ASSERT_EQ(row.token.top.size(), 2u);
  EXPECT_EQ(row.token.top[0].token, 1);
  EXPECT_NEAR(row.token.top[0].logprob, 3 - std::log(sum), 1e-6);
  EXPECT_EQ(row.token.top[1].token, 2);
  EXPECT_EQ(row.token.top[1].rank, 2);

  const auto prompt = RawLogprobs(x, 3, 1);
  ASSERT_TRUE(prompt.ok());
  EXPECT_NEAR(prompt->logprob, -1 - std::log(sum), 1e-6);
  EXPECT_EQ(prompt->rank, 4);
  EXPECT_EQ(prompt->top.size(), 1u);
  EXPECT_FALSE(RawLogprobs(x, 4, 1).ok());
}

// A model of ours: the next logits depend on the output so far.
std::vector<int32_t> Generate(SequenceSampler* sequence, size_t length, std::vector<int32_t> output = {}) {
  while (output.size() < length) {
    const uint32_t seed = output.empty() ? 0 : static_cast<uint32_t>(output.back() + 1000 * output.size());
    const SampleRow row = SampleOne(RandomLogits(500, seed), sequence);
    EXPECT_TRUE(row.status.ok());
    output.push_back(row.token.token);
    EXPECT_TRUE(sequence->Append(output.back()).ok());
  }
  return output;
}

TEST(Sampler, SameSeedSameText) {
  SamplingParams params;
  params.seed = 42;
  params.top_p = 0.9;
  params.repetition_penalty = 1.3;
  params.presence_penalty = 0.5;
  SequenceSampler a = Make(params, {1, 2}), b = Make(params, {1, 2});
  const std::vector<int32_t> text = Generate(&a, 40);
  EXPECT_EQ(Generate(&b, 40), text);
  params.seed = 43;
  SequenceSampler other = Make(params, {1, 2});
  EXPECT_NE(Generate(&other, 40), text);

  // Replayed from the middle, as after a preemption that threw the state away.
  params.seed = 42;
  SequenceSampler replayed = Make(params, {1, 2});
  for (size_t i = 0; i < 17; ++i) ASSERT_TRUE(replayed.Append(text[i]).ok());
  EXPECT_EQ(Generate(&replayed, 40, {text.begin(), text.begin() + 17}), text);
}

TEST(Sampler, UnseededSequencesDiffer) {
  SequenceSampler a = Make({}), b = Make({});
  EXPECT_NE(Generate(&a, 20), Generate(&b, 20));
}

TEST(Sampler, ForksAreChoicesOfTheSameSeed) {
  SamplingParams params;
  params.seed = 7;
  SequenceSampler first = Make(params, {3});
  SequenceSampler second = first.Fork(1);
  SequenceSampler direct(params, {}, std::vector<int32_t>{3}, 1);
  const auto text = Generate(&second, 20);
  EXPECT_EQ(Generate(&direct, 20), text);
  EXPECT_NE(Generate(&first, 20), text);
}

TEST(Sampler, TheBatchAndTheThreadsChangeNothing) {
  ThreadTeam team(4);
  constexpr size_t kRows = 37, kVocab = 2112;
  std::vector<SequenceSampler> alone, together;
  std::vector<std::vector<float>> logits;
  for (size_t i = 0; i < kRows; ++i) {
    SamplingParams params;
    params.seed = i;
    params.temperature = i % 3 == 0 ? 0 : 1;
    params.top_k = i % 2 ? 20 : 0;
    params.logprobs = i % 4 == 0 ? 3 : -1;
    alone.push_back(Make(params));
    together.push_back(Make(params));
    logits.push_back(RandomLogits(kVocab, static_cast<uint32_t>(i)));
  }
  auto copies = logits;
  std::vector<SampleRow> rows(kRows);
  for (size_t i = 0; i < kRows; ++i) rows[i].logits = copies[i], rows[i].sequence = &together[i];
  SampleBatch(rows, &team);
  for (size_t i = 0; i < kRows; ++i) {
    const SampleRow row = SampleOne(logits[i], &alone[i]);
    EXPECT_EQ(rows[i].token.token, row.token.token) << i;
    EXPECT_EQ(rows[i].token.logprob, row.token.logprob) << i;
  }
}

// Lets through its own tokens one after the other, then the end.
class FixedMatcher final : public TokenMatcher {
 public:
  FixedMatcher(std::vector<int32_t> tokens, int32_t eos) : tokens_(std::move(tokens)), eos_(eos) {}
  void FillMask(uint32_t* mask, size_t) override {
    const int32_t token = at_ < tokens_.size() ? tokens_[at_] : eos_;
    mask[token / 32] |= 1u << (token % 32);
  }
  bool Accept(int32_t token) override { return at_ < tokens_.size() ? tokens_[at_++] == token : token == eos_; }
  bool Finished() const override { return at_ == tokens_.size(); }
  std::unique_ptr<TokenMatcher> Clone() const override { return std::make_unique<FixedMatcher>(*this); }

 private:
  std::vector<int32_t> tokens_;
  int32_t eos_;
  size_t at_ = 0;
};

TEST(Sampler, TheMatcherRules) {
  SamplingParams params;
  params.min_tokens = 10;  // overruled
  params.matcher = std::make_shared<FixedMatcher>(std::vector<int32_t>{40, 3, 99}, 5);
  SequenceSampler sequence(params, std::vector<int32_t>{5}, {});
  EXPECT_FALSE(sequence.MatcherFinished());
  SequenceSampler fork = sequence.Fork(1);
  for (const int32_t expected : {40, 3, 99, 5}) {
    const SampleRow row = SampleOne(RandomLogits(100, 1), &sequence);
    ASSERT_TRUE(row.status.ok()) << row.status.error().message;
    ASSERT_EQ(row.token.token, expected);
    ASSERT_TRUE(sequence.Append(row.token.token).ok());
  }
  EXPECT_TRUE(sequence.MatcherFinished());
  EXPECT_FALSE(fork.MatcherFinished());
  EXPECT_THAT(fork.Append(7).error().message, HasSubstr("grammar"));
}

}  // namespace
}  // namespace minimo
