#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "minimo/request.h"
#include "sampling/generation_config.h"
#include "tests/support/repo_dir.h"

namespace minimo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Params, DefaultsAreValid) { EXPECT_TRUE(Validate(SamplingParams{}, 100).ok()); }

TEST(Params, EachFieldOutOfRangeIsNamed) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  using Change = std::function<void(SamplingParams*)>;
  const std::pair<const char*, Change> cases[] = {
      {"max_tokens", [](auto* p) { p->max_tokens = 0; }},
      {"max_tokens", [](auto* p) { p->max_tokens = -2; }},
      {"min_tokens", [](auto* p) { p->min_tokens = -1; }},
      {"min_tokens", [](auto* p) { p->max_tokens = 3, p->min_tokens = 4; }},
      {"temperature", [](auto* p) { p->temperature = -0.1; }},
      {"temperature", [=](auto* p) { p->temperature = nan; }},
      {"temperature", [=](auto* p) { p->temperature = inf; }},
      {"top_p", [](auto* p) { p->top_p = 0; }},
      {"top_p", [](auto* p) { p->top_p = 1.01; }},
      {"top_p", [=](auto* p) { p->top_p = nan; }},
      {"top_k", [](auto* p) { p->top_k = -2; }},
      {"min_p", [](auto* p) { p->min_p = -0.1; }},
      {"min_p", [=](auto* p) { p->min_p = nan; }},
      {"repetition_penalty", [](auto* p) { p->repetition_penalty = 0; }},
      {"repetition_penalty", [=](auto* p) { p->repetition_penalty = inf; }},
      {"presence_penalty", [](auto* p) { p->presence_penalty = 2.5; }},
      {"frequency_penalty", [=](auto* p) { p->frequency_penalty = nan; }},
      {"stop", [](auto* p) { p->stop = {""}; }},
      {"stop", [](auto* p) { p->stop.assign(1000, "x"); }},
      {"stop_token_ids", [](auto* p) { p->stop_token_ids = {100}; }},
      {"logprobs", [](auto* p) { p->logprobs = 100000; }},
      {"prompt_logprobs", [](auto* p) { p->prompt_logprobs = -2; }},
      {"logit_bias", [](auto* p) { p->logit_bias = {{100, 1.0f}}; }},
      {"logit_bias", [](auto* p) { p->logit_bias = {{1, std::nanf("")}}; }},
      {"allowed_token_ids", [](auto* p) { p->allowed_token_ids = {-1}; }},
  };
  for (const auto& [name, change] : cases) {
    SamplingParams params;
    change(&params);
    const Status status = Validate(params, 100);
    ASSERT_FALSE(status.ok()) << name;
    EXPECT_EQ(status.error().message.rfind(name, 0), 0u) << status.error().message;
  }
}

TEST(Params, FinishReasonsHaveTheClientsNames) {
  EXPECT_STREQ(ToString(FinishReason::kNone), "");
  EXPECT_STREQ(ToString(FinishReason::kStop), "stop");
  EXPECT_STREQ(ToString(FinishReason::kLength), "length");
  EXPECT_STREQ(ToString(FinishReason::kCancelled), "abort");
  EXPECT_STREQ(ToString(FinishReason::kError), "error");
}

class GenerationConfigTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ + "/" + name) << text; }
  std::string LoadError() {
    const auto result = LoadGenerationConfig(folder_);
    return result.ok() ? "" : result.error().message;
  }

  std::string folder_ = ::testing::TempDir() + "minimo_generation_config";
};

TEST_F(GenerationConfigTest, ShippedModels) {
  const auto m2 = LoadGenerationConfig(testing::RepoDir() / "models/nano-minimax-m2");
  ASSERT_TRUE(m2.ok()) << m2.error().message;
  EXPECT_EQ(m2->params.temperature, 1.0);
  EXPECT_EQ(m2->params.top_p, 0.95);
  EXPECT_EQ(m2->params.top_k, 40);
  EXPECT_THAT(m2->eos_ids, ElementsAre(2056));
  const auto mimo = LoadGenerationConfig(testing::RepoDir() / "models/nano-mimo-v2-flash");
  ASSERT_TRUE(mimo.ok()) << mimo.error().message;
  EXPECT_EQ(mimo->params.temperature, 0.8);
  EXPECT_THAT(mimo->eos_ids, ElementsAre(2050));
}

TEST_F(GenerationConfigTest, EveryKeyIsRead) {
  Write("generation_config.json",
        R"({"temperature": 0.5, "top_k": 7, "top_p": 0.25, "min_p": 0.125, "repetition_penalty": 1.25,
            "max_new_tokens": 99, "eos_token_id": [5, 3, 5]})");
  const auto config = LoadGenerationConfig(folder_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->params.temperature, 0.5);
  EXPECT_EQ(config->params.top_k, 7);
  EXPECT_EQ(config->params.top_p, 0.25);
  EXPECT_EQ(config->params.min_p, 0.125);
  EXPECT_EQ(config->params.repetition_penalty, 1.25);
  EXPECT_EQ(config->params.max_tokens, 99);
  EXPECT_THAT(config->eos_ids, ElementsAre(3, 5));
}

TEST_F(GenerationConfigTest, WithoutTheFileNeutralAndTheModelsEos) {
  Write("config.json", R"({"eos_token_id": 9})");
  const auto config = LoadGenerationConfig(folder_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->params.temperature, 1.0);
  EXPECT_THAT(config->eos_ids, ElementsAre(9));
}

TEST_F(GenerationConfigTest, WithoutSamplingItIsGreedy) {
  Write("generation_config.json", R"({"do_sample": false, "temperature": 0.7, "eos_token_id": 1})");
  const auto config = LoadGenerationConfig(folder_);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->params.temperature, 0);
}

TEST_F(GenerationConfigTest, FaultsNameTheFileAndTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {R"({"temperature": "hot"})", "temperature must be a number"},
      {R"({"temperature": -1})", "temperature is -1"},
      {R"({"top_k": 1.5})", "top_k must be a 32-bit integer"},
      {R"({"top_k": 1e300})", "top_k must be a 32-bit integer"},
      {R"({"do_sample": 1})", "do_sample must be true or false"},
      {R"({"eos_token_id": "x"})", "eos_token_id must be a token id"},
      {R"({"eos_token_id": [[1]]})", "eos_token_id must be a token id"},
      {R"({"eos_token_id": -4})", "eos_token_id must be a token id"},
  };
  for (const auto& [text, message] : cases) {
    Write("generation_config.json", text);
    EXPECT_THAT(LoadError(), HasSubstr("generation_config.json: ")) << text;
    EXPECT_THAT(LoadError(), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace minimo
