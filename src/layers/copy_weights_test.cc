#include "layers/copy_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <utility>

#include "base/thread_team.h"
#include "layers/tile_weights.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/linear.h"
#include "ops/linear/tiles.h"

namespace minimo {
namespace {

constexpr int64_t kRows = 70;

// An FP8 gate of 100 columns in rows of 128 bytes, and a 4-bit down of 96 columns in groups of 32, rows of 5 scales.
class CopyWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::iota(bytes_.begin(), bytes_.end(), uint8_t{0});
    for (size_t i = 0; i < scales_.size(); ++i) scales_[i].bits = static_cast<uint16_t>(i);
    weights_.layers.resize(1);
    weights_.layers[0].experts.resize(2);
    WeightView& gate = weights_.layers[0].experts[1].gate.view;
    gate = {.format = WeightFormat::kFp8Block, .rows = kRows, .cols = 100,
            .data = reinterpret_cast<const std::byte*>(bytes_.data()), .row_bytes = 128};
    WeightView& down = weights_.layers[0].experts[1].down.view;
    down = gate;
    down.format = WeightFormat::kInt4Group;
    down.cols = 96;
    down.group_scales = scales_.data();
    down.group_size = 32;
    down.scale_stride = 5;
  }

  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kRows * 128);
  std::vector<Bf16> scales_ = std::vector<Bf16>(kRows * 5);
  ~CopyWeightsTest() override { LimitCpuIsa(CpuIsa::kAmx); }

  DecoderWeights weights_;
};

TEST_F(CopyWeightsTest, NothingIsReadFromTheSourceAfterwards) {
  LimitCpuIsa(CpuIsa::kPortable);
  ThreadTeam team(2);
  const FfnWeights before = weights_.layers[0].experts[1];
  EXPECT_EQ(CopyBytes(weights_), 7040 + 3392 + 448);  // 7000, 3360 and 420 bytes in whole lines
  ASSERT_TRUE(CopyWeights(&weights_, team).ok());
  const auto bytes = std::exchange(bytes_, {});
  const auto scales = std::exchange(scales_, {});
  const WeightView& gate = weights_.layers[0].experts[1].gate.view;
  const WeightView& down = weights_.layers[0].experts[1].down.view;
  EXPECT_NE(gate.data, before.gate.view.data);
  for (int64_t r = 0; r < kRows; ++r) {
    EXPECT_EQ(std::memcmp(gate.Row(r), &bytes[static_cast<size_t>(r * 128)], 100), 0) << r;
    EXPECT_EQ(std::memcmp(down.Row(r), &bytes[static_cast<size_t>(r * 128)], 48), 0) << r;
    EXPECT_EQ(std::memcmp(down.group_scales + r * down.scale_stride, &scales[static_cast<size_t>(r * 5)], 6), 0) << r;
  }
  EXPECT_EQ(weights_.layers[0].experts[0].gate.view.data, nullptr);  // another rank's
}

// On machines that lay 4-bit matrices out in tiles those are not copied twice.
TEST_F(CopyWeightsTest, NorWithTiles) {
  ThreadTeam team(2);
  WeightView& down = weights_.layers[0].experts[1].down.view;
  if (!HasExactTiles(down)) GTEST_SKIP() << "no tiles of exact products on this machine";
  std::vector<float> values;
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < 96; ++c) values.push_back(Dequantize(down, r, c));
  EXPECT_EQ(CopyBytes(weights_), 7040 + TilesBytes(down));
  ASSERT_TRUE(CopyWeights(&weights_, team).ok());
  EXPECT_EQ(down.data, reinterpret_cast<const std::byte*>(bytes_.data()));
  ASSERT_TRUE(TileExactly(&weights_, SourceBytes::kKeep, team).ok());
  EXPECT_EQ(weights_.layers[0].experts[1].gate.view.tiles, nullptr);
  std::fill(bytes_.begin(), bytes_.end(), uint8_t{0});
  std::fill(scales_.begin(), scales_.end(), Bf16{0});
  ASSERT_TRUE(down.tiles != nullptr && down.exact_tiles);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < 96; ++c) {
      const float got = DequantizeTile(down, r, c), want = values[static_cast<size_t>(r * 96 + c)];
      EXPECT_EQ(std::memcmp(&got, &want, 4), 0) << r << " " << c << ": " << got << " " << want;
    }
}

TEST_F(CopyWeightsTest, TheEmbeddingGoesAlongOnceIfItIsTheHead) {
  ThreadTeam team(2);
  const WeightView table = {.format = WeightFormat::kBf16, .rows = kRows, .cols = 64,
                            .data = reinterpret_cast<const std::byte*>(bytes_.data()), .row_bytes = 128};
  weights_.layers.clear();
  weights_.lm_head.view = weights_.embedding.view = table;
  EXPECT_EQ(CopyBytes(weights_), kRows * 128);
  ASSERT_TRUE(CopyWeights(&weights_, team).ok());
  EXPECT_NE(weights_.embedding.view.data, table.data);
  EXPECT_EQ(weights_.embedding.view.data, weights_.lm_head.view.data);
  const std::vector<uint8_t> other = bytes_;
  weights_.embedding.view = table;
  weights_.lm_head.view.data = reinterpret_cast<const std::byte*>(other.data());
  EXPECT_EQ(CopyBytes(weights_), 2 * kRows * 128);
  ASSERT_TRUE(CopyWeights(&weights_, team).ok());
  EXPECT_NE(weights_.embedding.view.data, table.data);
  EXPECT_EQ(std::memcmp(weights_.embedding.view.data, bytes_.data(), bytes_.size()), 0);
  EXPECT_NE(weights_.embedding.view.data, weights_.lm_head.view.data);
}

}  // namespace
}  // namespace minimo
