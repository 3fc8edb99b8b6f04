// The limits of the two released models as first worked out by hand: sizes, the H200 decode table, prefill.
#include "bench/floor.h"
#include "tests/support/repo_dir.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace minimo::bench {
namespace {

constexpr double kH200Gbs = 4300;
constexpr double kContext = 945;  // 900 tokens of prompt and half of 90

ModelFacts Facts(const std::string& model, const std::string& format = "none") {
  auto facts = ReadModelFacts(testing::RepoDir() / "bench/shapes" / model, format);
  EXPECT_TRUE(facts.ok()) << facts.error().message;
  return facts.ok() ? *facts : ModelFacts();
}

double Gb(const StepBytes& bytes) { return bytes.Total() * 1e-9; }

TEST(FloorTest, SizesOfTheRealModels) {
  const ModelFacts m2 = Facts("minimax-m2"), mimo = Facts("mimo-v2-flash");
  EXPECT_NEAR(TotalParameters(m2.spec) * 1e-9, 228.7, 0.05);
  EXPECT_NEAR(TotalParameters(mimo.spec) * 1e-9, 308.8, 0.05);
  EXPECT_NEAR(ActiveParameters(m2.spec) * 1e-9, 10.4, 0.05);
  EXPECT_NEAR(ActiveParameters(mimo.spec) * 1e-9, 14.8, 0.05);  // 15.4 with the input embedding
  EXPECT_NEAR(Gb(DecodeBytes(m2, 1, 0, 16)), 11.18, 0.005);
  EXPECT_NEAR(Gb(DecodeBytes(mimo, 1, 0, 16)), 17.21, 0.005);
  const ModelFacts m2_w4 = Facts("minimax-m2", "w4"), mimo_w4 = Facts("mimo-v2-flash", "w4");
  EXPECT_NEAR(Gb(DecodeBytes(m2_w4, 1, 0, 16)), 7.17, 0.005);
  EXPECT_NEAR(Gb(DecodeBytes(mimo_w4, 1, 0, 16)), 10.43, 0.006);
  EXPECT_NEAR(AllWeightBytes(m2) * 1e-9, 229, 0.5);
  EXPECT_NEAR(AllWeightBytes(m2_w4) * 1e-9, 123, 0.5);
  EXPECT_NEAR(AllWeightBytes(mimo) * 1e-9, 311, 0.5);
  EXPECT_NEAR(AllWeightBytes(mimo_w4) * 1e-9, 166, 0.5);
}

TEST(FloorTest, CacheAndPrefill) {
  const ModelFacts m2 = Facts("minimax-m2"), mimo = Facts("mimo-v2-flash");
  EXPECT_NEAR(DecodeBytes(m2, 1, 1000, 16).kv / 1000, 254e3, 500);
  const double at_1k = DecodeBytes(mimo, 1, 1000, 16).kv, at_2k = DecodeBytes(mimo, 1, 2000, 16).kv;
  EXPECT_NEAR((at_2k - at_1k) / 1000, 23e3, 50);
  EXPECT_NEAR(at_1k - (at_2k - at_1k), 25.6e6, 0.05e6);
  EXPECT_NEAR(PrefillFlopPerToken(m2.spec, 900) * 1e-9, 20.3, 0.05);
  EXPECT_NEAR(PrefillFlopPerToken(mimo.spec, 900) * 1e-9, 28.8, 0.06);
}

TEST(FloorTest, ExpertsTouchedByABatch) {
  const MoeSpec moe = Facts("minimax-m2").spec.moe;
  const std::vector<std::pair<int, double>> published = {{1, 8},    {2, 15.8}, {4, 30.5}, {8, 57.4},  {16, 102},
                                                         {32, 163}, {64, 222}, {128, 252}, {256, 256}};
  for (const auto& [batch, touched] : published) EXPECT_NEAR(ExpertsTouched(moe, batch), touched, 0.5) << batch;
}

TEST(FloorTest, DecodeTableOfTheH200) {
  struct Column {
    ModelFacts model;
    double gpus;
    double kv_bits;
    std::vector<double> ms;  // for 1, 8, 32, 128, 256 sequences
  };
  const std::vector<Column> table = {
      {Facts("minimax-m2", "w4"), 1, 8, {1.70, 7.25, 19.4, 31.7, 35.7}},
      {Facts("minimax-m2"), 2, 8, {1.31, 6.46, 17.6, 28.0, 30.2}},
      {Facts("mimo-v2-flash", "w4"), 2, 16, {1.22, 4.87, 12.7, 19.7, 20.7}},
      {Facts("minimax-m2"), 8, 8, {0.33, 1.61, 4.40, 6.99, 7.54}},
      {Facts("mimo-v2-flash"), 8, 16, {0.50, 2.21, 5.89, 9.05, 9.38}}};
  const std::vector<double> batches = {1, 8, 32, 128, 256};
  for (size_t c = 0; c < table.size(); ++c) {
    for (size_t i = 0; i < batches.size(); ++i) {
      const StepBytes bytes = DecodeBytes(table[c].model, batches[i], kContext, table[c].kv_bits);
      EXPECT_NEAR(FloorMs(bytes, kH200Gbs * table[c].gpus) / table[c].ms[i], 1, 0.01) << c << " at " << batches[i];
    }
  }
  // One long prompt touches every expert: one read of everything.
  EXPECT_NEAR(AllWeightBytes(table[0].model) / (kH200Gbs * 1e6), 28.6, 0.1);
  EXPECT_NEAR(AllWeightBytes(table[1].model) / (kH200Gbs * 2e6), 26.6, 0.1);
  EXPECT_NEAR(AllWeightBytes(table[2].model) / (kH200Gbs * 2e6), 19.3, 0.1);
}

TEST(FloorTest, FormatsComeFromTheFilesWhereThereAreWeights) {
  auto facts = ReadModelFacts("nano-mimo-v2-flash", "none", 2);
  ASSERT_TRUE(facts.ok()) << facts.error().message;
  EXPECT_EQ(facts->bits.name, "fp8");
  EXPECT_NEAR(facts->bits.output, 16, 1e-9);
  EXPECT_GT(facts->bits.experts, 8);
  EXPECT_LT(facts->bits.experts, 8.1);
  EXPECT_EQ(facts->spec.num_layers(), 2);
  EXPECT_EQ(facts->name, "nano-mimo-v2-flash (2 of 6 layers)");
  const auto json = ToJson(*facts);
  EXPECT_EQ(json["experts"], 16);
  EXPECT_EQ(json["number_format"]["name"], "fp8");
  EXPECT_FALSE(ReadModelFacts("nano-mimo-v2-flash", "int3").ok());
  EXPECT_FALSE(ReadModelFacts("no-such-model", "").ok());
}

}  // namespace
}  // namespace minimo::bench
