// Which tensor's rows lie where in the fused projections, by the names that a checkpoint gives them: every row is
// followed from its place in [q; k; v] or in gate beside up back to the bytes of the named tensor, for whole models and
// for every rank's share, in each number format. Names and rules are written out here, not taken from the loader.
#include <gmock/gmock.h>

#include <algorithm>

#include "comm/threads.h"
#include "convert/convert.h"
#include "layers/fused_rows.h"
#include "models/shard.h"
#include "models/tensor_share.h"
#include "tests/golden/golden_case.h"
#include "tests/support/scratch_dir.h"

namespace minimo::testing {
namespace {

// Rows [begin, begin + rows) of a named tensor, as far as they are looked at: raw codes, without scales.
struct Named {
  const std::byte* data = nullptr;
  int64_t rows = 0, row_bytes = 0;

  Named(const Checkpoint& checkpoint, const std::string& name) {
    const TensorView* found = checkpoint.Find(name + ".weight");
    if (found == nullptr) found = checkpoint.Find(name + ".weight_packed");
    EXPECT_NE(found, nullptr) << name;
    if (found == nullptr) return;
    data = found->data;
    rows = found->shape[0];
    row_bytes = found->bytes() / rows;
  }
};

// `count` rows of `part` are those of `named` from `first` on.
void ExpectRows(const WeightView& part, const Named& named, int64_t first, int64_t count) {
  ASSERT_EQ(part.rows, count);
  ASSERT_LE(first + count, named.rows);
  for (int64_t r = 0; r < count; ++r) {
    ASSERT_EQ(std::memcmp(part.Row(r), named.data + (first + r) * named.row_bytes,
                          static_cast<size_t>(part.cols * part.ElementBits() / 8)), 0) << "row " << r;
  }
}

struct Names {
  std::string experts, gate, up;
  static Names Of(const std::string& model_type) {
    if (model_type == "minimax_m2") return {"block_sparse_moe.experts", "w1", "w3"};
    return {"mlp.experts", "gate_proj", "up_proj"};
  }
};

// The first row of a rank's share of a dense feed-forward.
int64_t DenseBegin(const LoadedModel& whole, const RankModel& rank, int layer) {
  if (rank.share.alone()) return 0;
  const std::string name = "model.layers." + std::to_string(layer) + ".mlp.gate_proj.weight";
  const int ranks = rank.share.comm->size();
  for (const TensorSpec& t : RankManifest(whole.family->manifest(whole.spec), whole.spec, ranks, {ranks, 1},
                                          rank.share.comm->rank(), RowGrain(whole.weights))) {
    if (t.name == name) return t.first_row;
  }
  ADD_FAILURE() << name;
  return 0;
}

void ExpectLayout(const LoadedModel& whole, const RankModel& rank, int layer) {
  const LayerWeights& w = rank.weights.layers[layer];
  const AttentionSpec& a = rank.spec.layers[layer].attention;
  const Names names = Names::Of(whole.spec.model_type);
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const Checkpoint& files = *whole.checkpoint;

  for (const int pad : {1, 16}) {  // the CPU's rows, and a GPU's
    const FusedQkv at = FuseQkv(a, pad);
    const auto parts = QkvParts(w, at);
    const auto& heads = rank.share.heads[layer];
    const struct {
      const char* name;
      int64_t begin, dim, heads, first_head;
    } wanted[] = {{"q_proj", 0, a.head_dim, heads.heads.count, heads.heads.begin},
                  {"k_proj", at.k_row, a.head_dim, heads.kv_heads.count, heads.kv_heads.begin},
                  {"v_proj", at.v_row, a.v_head_dim, heads.kv_heads.count, heads.kv_heads.begin}};
    int64_t free = 0;  // rows taken so far
    for (int i = 0; i < 3; ++i) {
      SCOPED_TRACE(wanted[i].name);
      ASSERT_EQ(parts[i].first_row, wanted[i].begin);
      ASSERT_GE(parts[i].first_row, free);
      ASSERT_LT(parts[i].first_row - free, pad);
      ASSERT_EQ(parts[i].first_row % pad, 0);
      const Named named(files, prefix + "self_attn." + wanted[i].name);
      ExpectRows(parts[i].weight->view, named, wanted[i].first_head * wanted[i].dim, wanted[i].heads * wanted[i].dim);
      free = parts[i].first_row + wanted[i].heads * wanted[i].dim;
    }
    ASSERT_GE(at.rows, free);
    ASSERT_LT(at.rows - free, pad);
  }

  const auto expect_gate_up = [&](const FfnWeights& ffn, const std::string& name, int64_t first, int64_t count) {
    SCOPED_TRACE(name);
    const FusedGateUp fused = GateUpParts(ffn);
    ExpectRows(fused.gate->view, Named(files, prefix + name + "." + names.gate), first, count);
    ExpectRows(fused.up->view, Named(files, prefix + name + "." + names.up), first, count);
  };
  if (!whole.spec.layers[layer].moe) {
    const int64_t count = w.dense.gate.view.rows;
    if (count > 0) expect_gate_up(w.dense, "mlp", DenseBegin(whole, rank, layer), count);
    return;
  }
  for (size_t e = 0; e < w.experts.size(); ++e) {
    if (!w.experts[e].present()) continue;
    const MoeShare& share = rank.share.experts;
    ASSERT_GE(static_cast<int64_t>(e), share.experts.begin);
    expect_gate_up(w.experts[e], names.experts + "." + std::to_string(e), share.rows.begin, share.rows.count);
  }
}

void ExpectLayouts(const std::string& folder) {
  const auto whole = LoadModel(folder);
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  for (const int ranks : {1, 2, 3, 8}) {
    const auto plan = PlanModel(*whole, {.tensor_parallel_size = ranks}, 1);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    const auto comms = MakeThreadRanks(ranks, 1000);
    for (int rank = 0; rank < ranks; ++rank) {
      SCOPED_TRACE(::testing::Message() << "rank " << rank << " of " << ranks);
      auto part = ShardModel(*whole, *plan, comms[rank].get());
      ASSERT_TRUE(part.ok()) << part.error().message;
      if (ranks == 1) part->share = MakeRankShare(whole->spec, *plan, nullptr, 1);
      for (int layer = 0; layer < whole->spec.num_layers(); ++layer) {
        SCOPED_TRACE(::testing::Message() << "layer " << layer);
        ExpectLayout(*whole, *part, layer);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

class FusedLayout : public ::testing::TestWithParam<GoldenModel> {};

TEST_P(FusedLayout, FollowsTheNames) {
  MINIMO_REQUIRE_SHARED();
  ExpectLayouts(GetParam().folder);
}

INSTANTIATE_TEST_SUITE_P(Models, FusedLayout, ::testing::ValuesIn(GoldenModels()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(FusedLayoutOf, OtherFormats) {
  for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    for (const TargetFormat target : {TargetFormat::kBf16, TargetFormat::kW4}) {
      const ScratchDir scratch;
      ConvertOptions options{(RepoDir() / "models" / nano).string(), scratch.File("out"), {target}, 1};
      ASSERT_TRUE(Convert(options, {}).ok());
      ExpectLayouts(scratch.File("out"));
    }
  }
}

// The sizes of the released MiMo, whose keys and values differ.
TEST(FusedLayoutOf, UnequalKeysAndValues) {
  AttentionSpec a;
  a.heads = 64;
  a.kv_heads = 4;
  a.head_dim = 192;
  a.v_head_dim = 128;
  const FusedQkv at = FuseQkv(a, 16);
  EXPECT_EQ(at.k_row, 12288);
  EXPECT_EQ(at.v_row, 12288 + 768);
  EXPECT_EQ(at.rows, 12288 + 768 + 512);
}

}  // namespace
}  // namespace minimo::testing
