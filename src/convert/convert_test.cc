// Conversions: the numbers, and what happens when one is stopped, damaged or misdirected.
#include <gmock/gmock.h>
#include <sys/mount.h>

#include <cmath>

#include "base/thread_team.h"
#include "convert/convert.h"
#include "models/offline_runner.h"
#include "ops/linear/linear.h"
#include "tests/support/scratch_dir.h"
#include "tests/support/shared.h"

namespace minimo {
namespace {

using ::testing::HasSubstr;
using testing::ReadBytes;
using testing::RepoDir;
using testing::ScratchDir;

std::string Nano(const char* name) { return (RepoDir() / "models" / name).string(); }

Result<ConvertReport> ConvertTo(const std::string& in, const std::string& out, TargetFormat target,
                          std::function<bool(int64_t, int64_t)> progress = {}) {
  return Convert({in, out, {target}, 2, int64_t{1} << 20}, progress);
}

// Every weight of the converted checkpoint against the source's, element by element.
void ForWeights(const LoadedModel& a, const LoadedModel& b,
                const std::function<void(const WeightView&, const WeightView&)>& fn) {
  for (int i = 0; i < a.spec.num_layers(); ++i) {
    const LayerWeights &x = a.weights.layers[i], &y = b.weights.layers[i];
    fn(x.q.view, y.q.view);
    fn(x.k.view, y.k.view);
    fn(x.v.view, y.v.view);
    fn(x.o.view, y.o.view);
    for (size_t e = 0; e < x.experts.size(); ++e) fn(x.experts[e].down.view, y.experts[e].down.view);
  }
}

TEST(Convert, Bf16IsTheDequantisedValueRoundedFusedScalesIncluded) {
  MINIMO_REQUIRE_SHARED();
  for (const std::string& in : {Nano("nano-minimax-m2"), Nano("nano-mimo-v2-flash"),
                                (testing::SharedDir() / "golden/random/mimo-hub").string(),
                                (testing::SharedDir() / "golden/random/minimax-c").string()}) {
    SCOPED_TRACE(in);
    ScratchDir dir;
    const auto report = ConvertTo(in, dir.File("out"), TargetFormat::kBf16);
    ASSERT_TRUE(report.ok()) << report.error().message;
    const auto from = LoadModel(in), to = LoadModel(dir.File("out"));
    ASSERT_TRUE(to.ok()) << to.error().message;
    EXPECT_EQ(to->spec.mtp_layers, from->spec.mtp_layers);
    ForWeights(*from, *to, [](const WeightView& x, const WeightView& y) {
      ASSERT_EQ(y.format, WeightFormat::kBf16);
      for (int64_t r = 0; r < x.rows; ++r)
        for (int64_t c = 0; c < x.cols; ++c) ASSERT_EQ(Dequantize(y, r, c), ToFloat(ToBf16(Dequantize(x, r, c))));
    });
    EXPECT_TRUE(VerifyConversion(dir.File("out"), {}).ok());
  }
}

// Tensors that a file holds misaligned are copied to memory, whose pages are not to be given back like a file's.
TEST(Convert, MisalignedTensors) {
  ScratchDir in, out;
  in.CopyFrom(Nano("nano-minimax-m2"));
  for (const char* shard : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    std::string bytes = ReadBytes(in.File(shard));
    uint64_t header;
    std::memcpy(&header, bytes.data(), 8);
    ++header;
    std::memcpy(bytes.data(), &header, 8);
    bytes.insert(8 + header - 1, " ");
    in.Write(shard, bytes);
  }
  for (const TargetFormat target : {TargetFormat::kBf16, TargetFormat::kW4}) {
    const std::string name = target == TargetFormat::kBf16 ? "bf16" : "w4";
    ASSERT_TRUE(ConvertTo(Nano("nano-minimax-m2"), out.File("plain-" + name), target).ok());
    ASSERT_TRUE(ConvertTo(in.path().string(), out.File(name), target).ok());
    for (const auto& entry : std::filesystem::directory_iterator(out.File(name))) {
      if (entry.path().extension() != ".safetensors") continue;
      EXPECT_EQ(ReadBytes(entry.path().string()),
                ReadBytes(out.File("plain-" + name) + "/" + entry.path().filename().string()));
    }
  }
}

TEST(Convert, ThereAndBackKeepsTheFp8Values) {
  ScratchDir dir;
  ASSERT_TRUE(ConvertTo(Nano("nano-minimax-m2"), dir.File("bf16"), TargetFormat::kBf16).ok());
  ASSERT_TRUE(ConvertTo(dir.File("bf16"), dir.File("fp8"), TargetFormat::kFp8).ok());
  const auto from = LoadModel(Nano("nano-minimax-m2")), to = LoadModel(dir.File("fp8"));
  ASSERT_TRUE(to.ok()) << to.error().message;
  ForWeights(*from, *to, [](const WeightView& x, const WeightView& y) {
    ASSERT_EQ(y.format, WeightFormat::kFp8Block);
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) {
        ASSERT_NEAR(Dequantize(y, r, c), Dequantize(x, r, c), std::fabs(Dequantize(x, r, c)) * 0.07 + 1e-6);
      }
  });
}

TEST(Convert, FourBitExpertsRunNearTheSource) {
  for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    ScratchDir dir;
    const auto report = ConvertTo(Nano(nano), dir.File("w4"), TargetFormat::kW4);
    ASSERT_TRUE(report.ok()) << report.error().message;
    for (const double error : report->layer_error) EXPECT_LT(error, 0.12);
    const auto from = LoadModel(Nano(nano)), to = LoadModel(dir.File("w4"));
    ASSERT_TRUE(to.ok()) << to.error().message;
    EXPECT_EQ(to->weights.layers.back().experts[3].up.view.format, WeightFormat::kInt4Group);
    EXPECT_EQ(to->weights.layers.back().q.view.format, WeightFormat::kFp8Block);
    ThreadTeam team(2);
    OfflineRunner a(*from, team, DType::kF32, 64), b(*to, team, DType::kF32, 64);
    std::vector<int32_t> ids;
    for (int i = 0; i < 32; ++i) ids.push_back(300 + 11 * i);
    const auto x = a.Append(ids, 32), y = b.Append(ids, 32);
    double error = 0, norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += std::pow(x[i] - y[i], 2);
      norm += std::pow(x[i], 2);
    }
    EXPECT_LT(std::sqrt(error / norm), 0.35) << nano;
    EXPECT_GT(error, 0);
  }
}

// What a 4-bit checkpoint of others may hold beside or instead of what minimo writes.
TEST(Convert, FourBitTensorsThatCannotBeReadAreRefused) {
  ScratchDir dir;
  ASSERT_TRUE(ConvertTo(Nano("nano-minimax-m2"), dir.File("w4"), TargetFormat::kW4).ok());
  const std::string expert = "model.layers.0.block_sparse_moe.experts.0.w1.weight";
  const auto refused = [&](const std::string& from, const std::string& to) {
    const std::string folder = dir.File("spoiled");
    std::filesystem::remove_all(folder);
    std::filesystem::copy(dir.File("w4"), folder);
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() != ".safetensors" && !entry.path().string().ends_with(".index.json")) continue;
      std::string bytes = ReadBytes(entry.path().string());
      for (size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + 1)) {
        bytes.replace(at, from.size(), to);
      }
      std::ofstream(entry.path(), std::ios::binary) << bytes;
    }
    return LoadModel(folder).error().message;
  };
  const auto renamed = [&](const std::string& name) {  // the header keeps its length: the rest of the name is cut
    return refused("\"" + expert + "_shape\"", "\"" + expert + name + "\"" + std::string(6 - name.size(), ' '));
  };
  EXPECT_THAT(renamed("_g_idx"), HasSubstr(expert + ": found a group index, only groups of neighbouring columns"));
  EXPECT_THAT(refused("experts.0.w1.weight_scale\"", "experts.0.w1.weight_scalx\""),
              HasSubstr("missing tensors: " + expert));
}

TEST(Convert, QualityOnAText) {
  ScratchDir dir;
  const std::string nano = Nano("nano-minimax-m2");
  ASSERT_TRUE(ConvertTo(nano, dir.File("bf16"), TargetFormat::kBf16).ok());
  ASSERT_TRUE(ConvertTo(nano, dir.File("w4"), TargetFormat::kW4).ok());
  std::vector<int32_t> ids;
  for (int i = 0; i < 150; ++i) ids.push_back(300 + i * 37 % 500);
  const TextOptions options{100, 1};
  const auto same = CompareOnText(nano, nano, ids, options, {});
  ASSERT_TRUE(same.ok()) << same.error().message;
  EXPECT_EQ(same->tokens, 99 + 49);  // two windows, whose first tokens nothing predicts
  EXPECT_NEAR(same->kl_divergence, 0, 1e-12);
  EXPECT_EQ(same->perplexity, same->source_perplexity);
  EXPECT_EQ(same->same_choice, 1);
  const auto bf16 = CompareOnText(nano, dir.File("bf16"), ids, options, {}),
             w4 = CompareOnText(nano, dir.File("w4"), ids, options, {});
  EXPECT_GT(bf16->kl_divergence, 0);
  EXPECT_LT(bf16->kl_divergence, 0.02);  // random ids: near ties between experts flip
  EXPECT_GT(w4->kl_divergence, 10 * bf16->kl_divergence);
  ASSERT_TRUE(RecordQuality(dir.File("w4"), "text.txt", *w4).ok());
  const std::string manifest = ReadBytes(dir.File("w4") + "/minimo-convert.json");
  EXPECT_THAT(manifest, HasSubstr("\"kl_divergence\""));
  EXPECT_THAT(manifest, HasSubstr("\"relative_error\""));
  EXPECT_TRUE(VerifyConversion(dir.File("w4"), {}).ok());
}

TEST(Convert, AStoppedRunGoesOnAndEndsBitEqual) {
  ScratchDir dir;
  ASSERT_TRUE(ConvertTo(Nano("nano-mimo-v2-flash"), dir.File("whole"), TargetFormat::kBf16).ok());
  for (const int64_t stop : {int64_t{1}, int64_t{5} << 20, int64_t{9} << 20}) {
    const std::string out = dir.File("part" + std::to_string(stop));
    const auto stopped = ConvertTo(Nano("nano-mimo-v2-flash"), out, TargetFormat::kBf16,
                                   [&](int64_t done, int64_t) { return done < stop; });
    ASSERT_FALSE(stopped.ok());
    EXPECT_THAT(stopped.error().message, HasSubstr("the same command goes on"));
    EXPECT_FALSE(std::filesystem::exists(out + "/config.json"));
    EXPECT_THAT(VerifyConversion(out, {}).error().message, HasSubstr("files are finished"));
    std::ofstream(out + "/model-00002-of-00099.safetensors.tmp") << "left by a kill";
    const auto resumed = ConvertTo(Nano("nano-mimo-v2-flash"), out, TargetFormat::kBf16);
    ASSERT_TRUE(resumed.ok()) << resumed.error().message;
    EXPECT_EQ(resumed->resumed_bytes > 0, stop > (int64_t{2} << 20));
    int compared = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir.File("whole"))) {
      if (entry.path().filename() == "minimo-convert.json") continue;
      EXPECT_EQ(ReadBytes(entry.path().string()), ReadBytes(out + "/" + entry.path().filename().string()))
          << entry.path();
      ++compared;
    }
    EXPECT_GT(compared, 5);
  }
}

TEST(Convert, WhatCannotBeIsSaidAndNothingIsLost) {
  ScratchDir dir;
  const std::string in = dir.File("in"), out = dir.File("out");
  std::filesystem::copy(Nano("nano-minimax-m2"), in);
  const auto error = [](const Result<ConvertReport>& r) { return r.ok() ? std::string() : r.error().message; };
  EXPECT_THAT(error(ConvertTo(in, in, TargetFormat::kBf16)), HasSubstr("is the source"));
  EXPECT_THAT(error(ConvertTo(in, out, TargetFormat::kFp8)), HasSubstr("holds nothing to convert"));
  EXPECT_THAT(error(ConvertTo(in, "/proc/nowhere/out", TargetFormat::kBf16)), HasSubstr("cannot create"));
  std::filesystem::create_directories(out);
  std::ofstream(out + "/notes.txt") << "mine";
  EXPECT_THAT(error(ConvertTo(in, out, TargetFormat::kBf16)), HasSubstr("name an empty folder"));
  EXPECT_EQ(ReadBytes(out + "/notes.txt"), "mine");
  std::filesystem::remove_all(out);

  ASSERT_FALSE(ConvertTo(in, out, TargetFormat::kBf16, [](int64_t done, int64_t) { return done < 3 << 20; }).ok());
  EXPECT_THAT(error(ConvertTo(in, out, TargetFormat::kW4)), HasSubstr("holds a conversion to bf16, asked for w4"));
  std::filesystem::last_write_time(in + "/config.json", std::filesystem::file_time_type::clock::now());
  EXPECT_THAT(error(ConvertTo(in, out, TargetFormat::kBf16)), HasSubstr("has changed since"));
}

TEST(Convert, DamageIsFound) {
  ScratchDir dir;
  ASSERT_TRUE(ConvertTo(Nano("nano-minimax-m2"), dir.File("out"), TargetFormat::kBf16).ok());
  const std::string shard = dir.File("out") + "/model-00003-of-";
  for (const auto& entry : std::filesystem::directory_iterator(dir.File("out"))) {
    if (!entry.path().string().starts_with(shard)) continue;
    std::string bytes = ReadBytes(entry.path().string());
    bytes[bytes.size() - 100] ^= 1;
    std::ofstream(entry.path(), std::ios::binary) << bytes;
  }
  EXPECT_THAT(VerifyConversion(dir.File("out"), {}).error().message, HasSubstr("damaged"));
  for (const auto& entry : std::filesystem::directory_iterator(dir.File("out"))) {
    if (entry.path().string().starts_with(shard)) std::filesystem::remove(entry.path());
  }
  EXPECT_THAT(VerifyConversion(dir.File("out"), {}).error().message, HasSubstr("missing or of another size"));
}

TEST(Convert, AFullDiskEndsInOneLine) {
  ScratchDir dir;
  if (mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=3m") != 0) GTEST_SKIP() << "cannot mount a small disk here";
  const auto full = ConvertTo(Nano("nano-minimax-m2"), dir.File("out"), TargetFormat::kBf16);
  const std::string message = full.ok() ? "" : full.error().message;
  const bool config = std::filesystem::exists(dir.File("out") + "/config.json");
  umount(dir.path().c_str());
  EXPECT_THAT(message, HasSubstr("free"));
  EXPECT_FALSE(config);
}

}  // namespace
}  // namespace minimo
