// Every checkpoint on many ranks: the logits of one rank, whatever shares the experts and however many ranks.
#include <algorithm>

#include "engine/cpu_executor.h"
#include "engine/parallel_executor.h"
#include "tests/parallel/two_sequences.h"

namespace minimo::testing {
namespace {

class Parallel : public ::testing::TestWithParam<GoldenModel> {
 protected:
  void SetUp() override {
    MINIMO_REQUIRE_SHARED();
    auto loaded = LoadModel(GetParam().folder);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::make_unique<LoadedModel>(std::move(*loaded));
    auto golden = SafetensorsFile::Open(GetParam().golden);
    ASSERT_TRUE(golden.ok()) << golden.error().message;
    ids_ = GoldenCases(*golden).front().input_ids;
    auto one = CpuExecutor::Create(*model_, TwoSequencesLayout(model_->spec), DType::kF32, 1);
    ASSERT_TRUE(one.ok());
    one_ = TwoSequences(model_->spec, ids_).Run(**one);
  }

  void ExpectAsOne(const ParallelFlags& flags) {
    SCOPED_TRACE(::testing::Message() << flags.tensor_parallel_size << " ranks, experts " << flags.moe_prefill
                                      << " in prefill, " << flags.moe_decode << " in decode");
    const auto plan = PlanRanks(model_->spec, flags, 8);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    auto many = MakeThreadRanksExecutor(*model_, *plan, TwoSequencesLayout(model_->spec), DType::kF32, 1, 60000);
    ASSERT_TRUE(many.ok()) << many.error().message;
    const Answer answer = TwoSequences(model_->spec, ids_).Run(*many->executor);
    EXPECT_LE(MaxDifference(answer.logits, one_.logits), kRanksBound);
    EXPECT_EQ(answer.greedy, one_.greedy);
  }

  std::unique_ptr<LoadedModel> model_;
  std::vector<int32_t> ids_;
  Answer one_;
};

TEST_P(Parallel, TensorExpertMixedAndPerPhase) {
  for (const int ranks : {1, 2, 3, 4, 8, 16, 64}) {
    ExpectAsOne({ranks, false, "tp", "tp"});
    if (ranks == 1) continue;
    ExpectAsOne({ranks, false, "ep", "ep"});
    ExpectAsOne({ranks, false, "ep", "tp"});
    if (ranks % 2 != 0) continue;
    const std::string mixed = std::to_string(ranks / 2) + "x2";
    ExpectAsOne({ranks, false, mixed, mixed});
    ExpectAsOne({ranks, false, mixed, "tp"});
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Parallel, ::testing::ValuesIn(GoldenModels()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace minimo::testing
