// File sets written for ranks: loaded, they are bit for bit what slicing the whole checkpoint gives, in weights and in
// logits; and no rank touches another's files.
#include <gmock/gmock.h>

#include <algorithm>
#include <bit>

#include "comm/threads.h"
#include "convert/convert.h"
#include "engine/parallel_executor.h"
#include "models/shard.h"
#include "tests/parallel/two_sequences.h"
#include "tests/support/scratch_dir.h"

namespace minimo::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

Status Share(const std::string& in, const std::string& out, int ranks, int experts,
             TargetFormat target = TargetFormat::kAsIs) {
  ConvertOptions options;
  options.in = in;
  options.out = out;
  options.request = {target, ranks, experts};
  options.threads = 1;
  options.group_bytes = int64_t{4} << 20;  // several files a rank
  const auto report = Convert(options, {});
  return report.ok() ? VerifyConversion(out, {}) : Status(report.error());
}

// The same codes, and for every code the same scale by the same steps through the grid.
void ExpectSame(const WeightView& a, const WeightView& b) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.cols, b.cols);
  if (a.rows == 0 || a.cols == 0) return;
  ASSERT_EQ(a.format, b.format);
  const int64_t bytes = a.cols * a.ElementBits() / 8;
  const bool fp8 = a.format == WeightFormat::kFp8Block;
  ASSERT_EQ(a.scales == nullptr, b.scales == nullptr);
  ASSERT_EQ(a.group_size, b.group_size);
  if (fp8) {
    ASSERT_EQ(a.first_col % kScaleBlock, b.first_col % kScaleBlock);
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    ASSERT_EQ(std::memcmp(a.Row(r), b.Row(r), static_cast<size_t>(bytes)), 0) << "row " << r;
    for (int64_t c = 0; c < a.cols && fp8; ++c) {
      ASSERT_EQ(std::bit_cast<uint32_t>(a.ScaleRow(r)[(a.first_col + c) / kScaleBlock]),
                std::bit_cast<uint32_t>(b.ScaleRow(r)[(b.first_col + c) / kScaleBlock]));
    }
    for (int64_t g = 0; a.group_size > 0 && g < a.cols / a.group_size; ++g) {
      ASSERT_EQ(a.group_scales[r * a.scale_stride + g].bits, b.group_scales[r * b.scale_stride + g].bits);
    }
  }
}

void ExpectSame(const FfnWeights& a, const FfnWeights& b) {
  ASSERT_EQ(a.present(), b.present());
  ExpectSame(a.gate.view, b.gate.view);
  ExpectSame(a.up.view, b.up.view);
  ExpectSame(a.down.view, b.down.view);
}

void ExpectSame(const DecoderWeights& a, const DecoderWeights& b) {
  ExpectSame(a.embedding.view, b.embedding.view);
  ExpectSame(a.lm_head.view, b.lm_head.view);
  ASSERT_EQ(a.final_norm, b.final_norm);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t i = 0; i < a.layers.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "layer " << i);
    const LayerWeights &x = a.layers[i], &y = b.layers[i];
    for (const auto part : {&LayerWeights::input_norm, &LayerWeights::post_attention_norm, &LayerWeights::q_norm,
                            &LayerWeights::k_norm, &LayerWeights::sinks, &LayerWeights::router_bias}) {
      ASSERT_EQ(x.*part, y.*part);
    }
    for (const auto part :
         {&LayerWeights::q, &LayerWeights::k, &LayerWeights::v, &LayerWeights::o, &LayerWeights::router}) {
      ExpectSame((x.*part).view, (y.*part).view);
    }
    ExpectSame(x.dense, y.dense);
    ASSERT_EQ(x.experts.size(), y.experts.size());
    for (size_t e = 0; e < x.experts.size(); ++e) ExpectSame(x.experts[e], y.experts[e]);
  }
}

class RankFiles : public ::testing::TestWithParam<GoldenModel> {
 protected:
  void SetUp() override { MINIMO_REQUIRE_SHARED(); }

  void ExpectAsSliced(const std::string& in, int ranks, int experts) {
    SCOPED_TRACE(::testing::Message() << ranks << " ranks, " << experts << " expert shares");
    const ScratchDir scratch;
    const std::string out = scratch.File("out");
    const Status shared = Share(in, out, ranks, experts);
    ASSERT_TRUE(shared.ok()) << shared.error().message;
    const auto whole = LoadModel(in), files = LoadModel(out, {.rank_files = true});
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(files->spec.mtp_layers, whole->spec.mtp_layers);
    const auto plan = PlanModel(*files, {.tensor_parallel_size = ranks}, 1);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    const auto comms = MakeThreadRanks(ranks, 1000);
    for (const auto& comm : comms) {
      SCOPED_TRACE(::testing::Message() << "rank " << comm->rank());
      const auto sliced = ShardModel(*whole, *plan, comm.get()), opened = ShardModel(*files, *plan, comm.get());
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      ASSERT_EQ(opened->share.vocab, sliced->share.vocab);
      ExpectSame(sliced->weights, opened->weights);
      if (HasFatalFailure()) return;
    }
    if (ranks == 3 || ranks == 64) ExpectSameLogits(*whole, *files, *plan);
  }

  void ExpectSameLogits(const LoadedModel& whole, const LoadedModel& files, const ParallelPlan& plan) {
    auto golden = SafetensorsFile::Open(GetParam().golden);
    const std::vector<int32_t> ids = GoldenCases(*golden).front().input_ids;
    std::vector<float> logits[2];
    for (int i = 0; i < 2; ++i) {
      auto many =
          MakeThreadRanksExecutor(i == 0 ? whole : files, plan, TwoSequencesLayout(whole.spec), DType::kF32, 1, 60000);
      ASSERT_TRUE(many.ok()) << many.error().message;
      logits[i] = TwoSequences(whole.spec, ids).Run(*many->executor).logits;
    }
    EXPECT_EQ(logits[0], logits[1]);
  }
};

TEST_P(RankFiles, AreWhatSlicingGives) {
  for (const int ranks : {2, 3, 4, 8, 16, 64}) ExpectAsSliced(GetParam().folder, ranks, 0);
  ExpectAsSliced(GetParam().folder, 4, 1);
  ExpectAsSliced(GetParam().folder, 4, 4);
  ExpectAsSliced(GetParam().folder, 6, 2);
}

INSTANTIATE_TEST_SUITE_P(Models, RankFiles, ::testing::ValuesIn(GoldenModels()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Another format and file sets in one go are the two steps one after the other.
TEST(RankFilesOf, ConvertedWeights) {
  const std::string nano = (RepoDir() / "models" / "nano-mimo-v2-flash").string();
  for (const TargetFormat target : {TargetFormat::kBf16, TargetFormat::kW4}) {
    const ScratchDir scratch;
    ConvertOptions options{nano, scratch.File("whole"), {target}, 1};
    ASSERT_TRUE(Convert(options, {}).ok());
    const Status at_once = Share(nano, scratch.File("ranks"), 6, 2, target);
    ASSERT_TRUE(at_once.ok()) << at_once.error().message;
    const auto whole = LoadModel(scratch.File("whole")), files = LoadModel(scratch.File("ranks"), {.rank_files = true});
    const auto comms = MakeThreadRanks(6, 1000);
    for (const auto& comm : comms) {
      const auto sliced = ShardModel(*whole, files->shards->Plan(), comm.get());
      const auto opened = ShardModel(*files, files->shards->Plan(), comm.get());
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      ExpectSame(sliced->weights, opened->weights);
    }
  }
  const ScratchDir scratch;
  ConvertOptions options{nano, scratch.File("bf16"), {TargetFormat::kBf16}, 1};
  ASSERT_TRUE(Convert(options, {}).ok());
  EXPECT_THAT(Share(scratch.File("bf16"), scratch.File("fp8"), 8, 0, TargetFormat::kFp8).error().message,
              HasSubstr("8 ranks cut its 128x128 blocks; convert to fp8 first"));
}

std::string MessageOf(const Status& status) { return status.ok() ? "" : status.error().message; }

TEST(RankFilesErrors, ARankNeedsItsOwnFilesAlone) {
  const ScratchDir scratch;
  const std::string out = scratch.File("out");
  const std::string nano = (RepoDir() / "models" / "nano-minimax-m2").string();
  ASSERT_TRUE(Share(nano, out, 3, 0).ok());
  fs::remove_all(out + "/rank-00001-of-00003");
  const auto files = LoadModel(out, {.rank_files = true});
  ASSERT_TRUE(files.ok());
  RankModel part;
  EXPECT_TRUE(OpenRankWeights(*files, 2, &part).ok());
  EXPECT_THAT(MessageOf(OpenRankWeights(*files, 1, &part)), HasSubstr("the files of rank 1 are not there"));
  fs::rename(out + "/rank-00002-of-00003", out + "/rank-00001-of-00003");
  EXPECT_THAT(MessageOf(OpenRankWeights(*files, 1, &part)), HasSubstr("is not of rank 1 of the model"));
  EXPECT_THAT(VerifyConversion(out, {}).error().message, HasSubstr("rank-00001-of-00003/model-00001-of-"));
  EXPECT_THAT(LoadModel(out).error().message, HasSubstr("holds the files of 3 ranks, not a whole checkpoint"));
}

TEST(RankFilesErrors, LayoutsThatCannotBe) {
  const ScratchDir scratch;
  const std::string out = scratch.File("out");
  const std::string nano = (RepoDir() / "models" / "nano-minimax-m2").string();
  EXPECT_THAT(MessageOf(Share(nano, out, 1, 0)), HasSubstr("expected 2 or more"));
  EXPECT_THAT(MessageOf(Share(nano, out, 6, 4)), HasSubstr("does not divide the 6 ranks"));
  EXPECT_THAT(MessageOf(Share(nano, out, 32, 32)), HasSubstr("only 16 experts"));
  EXPECT_THAT(MessageOf(Share(nano, out, 512, 0)), HasSubstr("512 ranks cannot share a model of hidden size 192"));
  EXPECT_FALSE(fs::exists(out));
}

TEST(RankFilesErrors, FlagsThatAskForAnotherLayout) {
  const ScratchDir scratch;
  const std::string out = scratch.File("out");
  ASSERT_TRUE(Share((RepoDir() / "models" / "nano-minimax-m2").string(), out, 4, 2).ok());
  const auto files = LoadModel(out, {.rank_files = true});
  const auto refused = [&](const ParallelFlags& flags) {
    const auto plan = PlanModel(*files, flags, 1);
    return plan.ok() ? std::string() : plan.error().message;
  };
  EXPECT_EQ(refused({0}), "");
  EXPECT_EQ(refused({4, false, "2x2", ""}), "");
  EXPECT_THAT(refused({8}), HasSubstr("holds the files of 4 ranks, asked for 8"));
  EXPECT_THAT(refused({4, true}),
              HasSubstr("its files share the experts as 2x2, asked for ep in prefill and ep in decode"));
  EXPECT_THAT(refused({4, false, "tp", ""}), HasSubstr("asked for tp in prefill and 2x2 in decode"));
}

}  // namespace
}  // namespace minimo::testing
