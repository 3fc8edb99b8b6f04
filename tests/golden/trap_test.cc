// The traps that other engines fell into (MODELS.md, PITFALLS B): each is set here on purpose, and the golden logits
// must notice. A trap that moves nothing would mean that the golden test cannot see it.
#include <functional>

#include "base/float_types.h"
#include "tests/golden/golden_case.h"

namespace minimo::testing {
namespace {

struct Trap {
  const char* name;
  const char* model;  // of GoldenModels()
  std::function<void(LoadedModel&)> set;
};

void ForAttention(LoadedModel& m, const std::function<void(AttentionSpec&)>& change) {
  for (LayerSpec& layer : m.spec.layers) change(layer.attention);
}

// K and V of every layer read with consecutive 128-row blocks of their own scale tensors.
void PlainKvScales(LoadedModel& m) {
  for (int i = 0; i < m.spec.num_layers(); ++i) {
    LayerWeights& w = m.weights.layers[i];
    for (auto [weight, name] : {std::pair{&w.k, "k_proj"}, std::pair{&w.v, "v_proj"}}) {
      const TensorView* scales = m.checkpoint->Find("model.layers." + std::to_string(i) + ".self_attn." + name +
                                                    ".weight_scale_inv");
      if (scales == nullptr) continue;
      weight->view.scales = scales->As<float>();
      weight->view.scale_rows = nullptr;
    }
  }
}

std::vector<Trap> Traps() {
  const auto bias_to_bf16 = [](LoadedModel& m) {
    for (LayerWeights& layer : m.weights.layers)
      for (float& b : layer.router_bias) b = ToFloat(ToBf16(b));
  };
  const auto value_scale_left_out = [](LoadedModel& m) {
    ForAttention(m, [](AttentionSpec& a) { a.value_scale = 1; });
  };
  const auto window_plus_one = [](LoadedModel& m) {
    ForAttention(m, [](AttentionSpec& a) { a.window += a.window > 0; });
  };
  const auto window_minus_one = [](LoadedModel& m) {
    ForAttention(m, [](AttentionSpec& a) { a.window -= a.window > 0; });
  };
  const auto no_sinks = [](LoadedModel& m) { ForAttention(m, [](AttentionSpec& a) { a.sink = false; }); };
  const auto bias_in_weights = [](LoadedModel& m) {
    for (LayerWeights& layer : m.weights.layers)
      for (float& b : layer.router_bias) b = 0;
  };
  const auto one_rope_base = [](LoadedModel& m) { ForAttention(m, [](AttentionSpec& a) { a.rope_theta = 10000; }); };
  const auto no_qk_norm = [](LoadedModel& m) { ForAttention(m, [](AttentionSpec& a) { a.qk_norm = false; }); };
  return {
      {"bias_to_bf16_minimax", "nano-minimax-m2", bias_to_bf16},
      {"bias_to_bf16_mimo", "nano-mimo-v2-flash", bias_to_bf16},
      {"bias_left_out_minimax", "nano-minimax-m2", bias_in_weights},
      {"value_scale_left_out", "nano-mimo-v2-flash", value_scale_left_out},
      {"window_plus_one", "nano-mimo-v2-flash", window_plus_one},
      {"window_minus_one", "nano-mimo-v2-flash", window_minus_one},
      {"sinks_left_out", "nano-mimo-v2-flash", no_sinks},
      {"one_rope_base", "nano-mimo-v2-flash", one_rope_base},
      {"qk_norm_left_out", "nano-minimax-m2", no_qk_norm},
      {"kv_scales_read_as_plain_blocks", "mimo-hub", PlainKvScales},
  };
}

class TrapTest : public ::testing::TestWithParam<Trap> {};

TEST_P(TrapTest, MovesTheLogitsFarBeyondTheBound) {
  MINIMO_REQUIRE_SHARED();
  const Trap& trap = GetParam();
  ThreadTeam team(2);
  for (const GoldenModel& golden : GoldenModels()) {
    if (golden.name != trap.model) continue;
    auto model = LoadModel(golden.folder);
    ASSERT_TRUE(model.ok()) << model.error().message;
    trap.set(*model);
    const auto file = SafetensorsFile::Open(golden.golden);
    ASSERT_TRUE(file.ok());
    OfflineRunner runner(*model, team, DType::kF32, 1024);
    double worst = 0;
    for (const GoldenCase& c : GoldenCases(*file)) {
      worst =
          std::max(worst, MaxDifference(AllLogits(runner, c.input_ids, 0), file->tensors().at(c.prefix + "logits")));
    }
    RecordProperty("logits_moved_by", std::to_string(worst));
    EXPECT_GT(worst, 100 * kLogitBound);
    return;
  }
  FAIL() << "no golden model " << trap.model;
}

INSTANTIATE_TEST_SUITE_P(Traps, TrapTest, ::testing::ValuesIn(Traps()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace minimo::testing
