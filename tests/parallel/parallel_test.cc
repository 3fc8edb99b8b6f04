// Every checkpoint on many ranks: the logits of one rank, whatever shares the experts and however many ranks.
#include <algorithm>

#include "convert/convert.h"
#include "engine/cpu_executor.h"
#include "engine/parallel_executor.h"
#include "tests/parallel/two_sequences.h"
#include "tests/support/scratch_dir.h"

namespace minimo::testing {
namespace {

class ParallelModel : public ::testing::Test {
 protected:
  void Load(const std::string& folder, std::vector<int32_t> ids) {
    auto loaded = LoadModel(folder);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    model_ = std::make_unique<LoadedModel>(std::move(*loaded));
    ids_ = std::move(ids);
    auto one = CpuExecutor::Create(*model_, TwoSequencesLayout(model_->spec), DType::kF32, 1);
    ASSERT_TRUE(one.ok());
    one_ = TwoSequences(model_->spec, ids_).Run(**one);
  }

  void ExpectAsOne(const ParallelFlags& flags) {
    SCOPED_TRACE(::testing::Message() << flags.tensor_parallel_size << " ranks, experts " << flags.moe_prefill
                                      << " in prefill, " << flags.moe_decode << " in decode, "
                                      << flags.data_parallel_size << " replicas");
    const auto plan = PlanRanks(model_->spec, flags, 8);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    auto many = MakeThreadRanksExecutor(*model_, *plan, TwoSequencesLayout(model_->spec), DType::kF32, 1, 60000);
    ASSERT_TRUE(many.ok()) << many.error().message;
    const Answer answer = TwoSequences(model_->spec, ids_, plan->replicas).Run(*many->executor);
    EXPECT_LE(MaxDifference(answer.logits, one_.logits), kRanksBound);
    EXPECT_EQ(answer.greedy, one_.greedy);
  }

  std::unique_ptr<LoadedModel> model_;
  std::vector<int32_t> ids_;
  Answer one_;
};

class Parallel : public ParallelModel, public ::testing::WithParamInterface<GoldenModel> {
 protected:
  void SetUp() override {
    MINIMO_REQUIRE_SHARED();
    auto golden = SafetensorsFile::Open(GetParam().golden);
    ASSERT_TRUE(golden.ok()) << golden.error().message;
    Load(GetParam().folder, GoldenCases(*golden).front().input_ids);
  }
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

TEST_P(Parallel, ReplicasOfAttention) {
  for (const int replicas : {2, 3, 4, 8}) {
    ExpectAsOne({1, false, "ep", "ep", replicas});
    ExpectAsOne({1, false, "tp", "tp", replicas});
    ExpectAsOne({1, false, "ep", "tp", replicas});
  }
  ExpectAsOne({2, false, "ep", "ep", 2});
  ExpectAsOne({3, false, "2x3", "2x3", 2});
  ExpectAsOne({4, false, "tp", "tp", 2});
  ExpectAsOne({4, false, "ep", "tp", 4});
  ExpectAsOne({2, false, "ep", "ep", 8});
}

INSTANTIATE_TEST_SUITE_P(Models, Parallel, ::testing::ValuesIn(GoldenModels()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Rows of 4-bit experts are columns of the down projection, whose groups of 64 must stay whole.
TEST_F(ParallelModel, FourBitExperts) {
  const ScratchDir scratch;
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    ConvertOptions options;
    options.in = (RepoDir() / "models" / name).string();
    options.out = (scratch.path() / name).string();
    options.request.target = TargetFormat::kW4;
    options.threads = 1;
    ASSERT_TRUE(Convert(options, [](int64_t, int64_t) { return true; }).ok());
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(i * 37 % 2000);
    Load(options.out, ids);
    for (const int ranks : {2, 3, 8, 64}) {
      ExpectAsOne({ranks, false, "tp", "tp"});
      ExpectAsOne({ranks, false, "ep", "tp"});
    }
  }
}

}  // namespace
}  // namespace minimo::testing
