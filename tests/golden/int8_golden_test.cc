// `--activations int8` at the goldens' prompts, beside the reference implementation's logits. Its stated bound: the
// mean divergence of the next token's distribution, and the same bits however a prompt is cut.
#include <algorithm>

#include "layers/tile_weights.h"
#include "tests/golden/golden_case.h"

namespace minimo::testing {
namespace {

// Nats a position. 8-bit activations err by at most 1/254 of a group's largest, weights by as much of 128 columns'
// largest; the trained models come to 0.00005 and 0.00004.
constexpr double kMeanDivergence = 2e-4;

// KL(reference || got) of one row of logits.
double Divergence(const float* reference, const float* got, int64_t vocab) {
  double reference_most = reference[0], got_most = got[0];
  for (int64_t i = 1; i < vocab; ++i) {
    reference_most = std::max(reference_most, double{reference[i]});
    got_most = std::max(got_most, double{got[i]});
  }
  double reference_sum = 0, got_sum = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    reference_sum += std::exp(reference[i] - reference_most);
    got_sum += std::exp(got[i] - got_most);
  }
  const double shift = reference_most + std::log(reference_sum) - got_most - std::log(got_sum);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    sum += std::exp(reference[i] - reference_most) / reference_sum * (double{reference[i]} - got[i] - shift);
  }
  return sum;
}

class Int8Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Int8Golden, StaysNearTheReference) {
  MINIMO_REQUIRE_SHARED();
  const auto models = GoldenModels();
  const auto& model = *std::find_if(models.begin(), models.end(), [](const auto& m) { return m.name == GetParam(); });
  auto loaded = LoadModel(model.folder);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  auto golden = SafetensorsFile::Open(model.golden);
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  ThreadTeam team(2);
  ASSERT_TRUE(TileWeights(&loaded->weights, SourceBytes::kKeep, team).ok());
  OfflineRunner runner(*loaded, team, DType::kF32, 1024);
  const int64_t vocab = loaded->spec.vocab;
  double sum = 0;
  int64_t positions = 0;
  for (const GoldenCase& c : GoldenCases(*golden)) {
    const auto got = AllLogits(runner, c.input_ids, 0);
    for (const size_t chunk : {1, 7, 64}) {
      EXPECT_EQ(AllLogits(runner, c.input_ids, chunk), got) << c.prefix << " in chunks of " << chunk;
    }
    const TensorView& want = golden->tensors().at(c.prefix + "logits");
    const int64_t rows = NumElements(want.shape) / vocab;
    const float* tail = got.data() + (static_cast<int64_t>(got.size()) - rows * vocab);
    for (int64_t r = 0; r < rows; ++r) sum += Divergence(want.As<float>() + r * vocab, tail + r * vocab, vocab);
    positions += rows;
  }
  ASSERT_GT(positions, 0);
  const double mean = sum / static_cast<double>(positions);
  RecordProperty("mean_divergence", std::to_string(mean));
  EXPECT_LE(mean, kMeanDivergence) << positions << " positions";
  EXPECT_GT(mean, 0) << "the exact path was taken";
}

INSTANTIATE_TEST_SUITE_P(Models, Int8Golden, ::testing::Values("nano-minimax-m2", "nano-mimo-v2-flash"),
                         [](const auto& info) { return std::string(info.param).substr(5, 4); });

}  // namespace
}  // namespace minimo::testing
