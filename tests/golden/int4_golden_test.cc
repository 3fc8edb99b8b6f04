// Nano models with 4-bit experts and exact activations at the goldens' prompts: each way in which this machine computes
// them stays within the goldens' bound of the others, and gives the same bits however a prompt is cut. (The reference
// implementation does not run this format; what the weights themselves cost: convert_test.)
#include <algorithm>

#include "convert/convert.h"
#include "layers/tile_weights.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/tiles.h"
#include "tests/golden/golden_case.h"
#include "tests/support/scratch_dir.h"

namespace minimo::testing {
namespace {

class Int4Golden : public ::testing::TestWithParam<const char*> {
 protected:
  ~Int4Golden() override { LimitCpuIsa(CpuIsa::kAmx); }
};

TEST_P(Int4Golden, TilesAndRowsOfEveryIsaAgree) {
  MINIMO_REQUIRE_SHARED();
  const auto models = GoldenModels();
  const auto& model = *std::find_if(models.begin(), models.end(), [](const auto& m) { return m.name == GetParam(); });
  ScratchDir dir;
  const auto converted = Convert({model.folder, dir.File("w4"), {TargetFormat::kW4}, 2}, {});
  ASSERT_TRUE(converted.ok()) << converted.error().message;
  auto golden = SafetensorsFile::Open(model.golden);
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  const auto cases = GoldenCases(*golden);
  ThreadTeam team(2);
  LimitCpuIsa(CpuIsa::kPortable);
  const auto plain = LoadModel(dir.File("w4"));
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  std::vector<std::vector<float>> want;
  OfflineRunner reference(*plain, team, DType::kF32, 1024);
  for (const GoldenCase& c : cases) want.push_back(AllLogits(reference, c.input_ids, 0));
  for (const CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kNeon, CpuIsa::kAvx512, CpuIsa::kAmx}) {
    LimitCpuIsa(isa);
    if (ActiveCpuIsa() != isa) continue;
    auto loaded = LoadModel(dir.File("w4"));
    ASSERT_TRUE(loaded.ok());
    const WeightView& expert = loaded->weights.layers.back().experts[0].down.view;
    for (const bool tiles : {false, true}) {
      if (tiles && !HasExactTiles(expert)) continue;
      if (tiles) {
        ASSERT_TRUE(TileExactly(&loaded->weights, SourceBytes::kKeep, team).ok());
        ASSERT_TRUE(expert.tiles != nullptr && expert.exact_tiles);
        ASSERT_EQ(loaded->weights.layers.back().q.view.tiles, nullptr) << "FP8 stays as it is";
      }
      OfflineRunner runner(*loaded, team, DType::kF32, 1024);
      for (size_t i = 0; i < cases.size(); ++i) {
        SCOPED_TRACE(std::string(NameOf(isa)) + (tiles ? " tiles " : " rows ") + cases[i].prefix);
        const auto got = AllLogits(runner, cases[i].input_ids, 0);
        double worst = 0;
        ASSERT_EQ(got.size(), want[i].size());
        for (size_t j = 0; j < got.size(); ++j) worst = std::max(worst, std::fabs(double{got[j]} - want[i][j]));
        EXPECT_LE(worst, kLogitBound);
        for (const size_t chunk : {1, 7}) {
          EXPECT_EQ(AllLogits(runner, cases[i].input_ids, chunk), got) << "chunks of " << chunk;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Int4Golden, ::testing::Values("nano-minimax-m2", "nano-mimo-v2-flash"),
                         [](const auto& info) { return std::string(info.param).substr(5, 4); });

}  // namespace
}  // namespace minimo::testing
