// A step reads each chosen expert's weights once, whatever the batch, threads and memory nodes, and no others: every
// range of rows that the linear kernels walk is counted.
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "base/thread_team.h"
#include "layers/tile_weights.h"
#include "models/loader.h"
#include "models/offline_runner.h"
#include "ops/linear/row_kernels.h"

namespace minimo {
namespace {

struct Walked {
  std::vector<int> rows;    // how often each
  std::set<int64_t> tokens;  // of the tasks that walked them
};
std::mutex mutex;
std::map<const void*, Walked> walked;  // by where the weight lies

const void* PlaceOf(const WeightView& w) { return w.tiles != nullptr ? w.tiles : w.data; }

void Count(const LinearTask& task, int64_t begin, int64_t end) {
  const std::lock_guard lock(mutex);
  Walked& w = walked[PlaceOf(task.weight)];
  w.rows.resize(static_cast<size_t>(task.weight.rows));
  for (int64_t r = begin; r < end; ++r) w.rows[static_cast<size_t>(r)]++;
  w.tokens.insert(task.tokens);
}

void ExpectOnce(const Weight& weight, int64_t tokens, const std::string& what) {
  const auto found = walked.find(PlaceOf(weight.view));
  if (tokens == 0) {
    EXPECT_TRUE(found == walked.end()) << what << " was not chosen";
    return;
  }
  ASSERT_TRUE(found != walked.end()) << what;
  EXPECT_EQ(found->second.rows, std::vector<int>(static_cast<size_t>(weight.view.rows), 1)) << what;
  EXPECT_EQ(found->second.tokens, std::set<int64_t>{tokens}) << what;
}

void Check(const char* name, bool tiles, bool two_nodes) {
  const auto folder = ResolveModelFolder(name);
  ASSERT_TRUE(folder.ok());
  auto model = LoadModel(*folder);
  ASSERT_TRUE(model.ok());
  ThreadTeam team(3);
  if (two_nodes) team.SpreadOver({{0, {0}}, {1, {0}}});
  if (tiles) {
    ASSERT_TRUE(TileWeights(&model->weights, SourceBytes::kKeep, team).ok());
  }
  OfflineRunner runner(*model, team, DType::kF32, 128);
  for (const int batch : {1, 2, 7, 64}) {
    std::vector<int32_t> tokens;
    for (int t = 0; t < batch; ++t) tokens.push_back(100 + t * 37 % 400);
    ForwardCapture capture;
    walked.clear();
    watch_rows = Count;
    runner.Append(tokens, batch, &capture);
    watch_rows = nullptr;
    for (size_t layer = 0; layer < model->weights.layers.size(); ++layer) {
      const LayerWeights& w = model->weights.layers[layer];
      std::map<int32_t, int64_t> chosen;  // tokens of each expert
      for (const int32_t expert : capture.layers[layer].router_index) chosen[expert]++;
      ASSERT_TRUE(w.experts.empty() || !chosen.empty());
      for (size_t e = 0; e < w.experts.size(); ++e) {
        const int64_t of_expert = chosen.contains(static_cast<int32_t>(e)) ? chosen[static_cast<int32_t>(e)] : 0;
        const std::string what = std::string(name) + ", batch " + std::to_string(batch) + ", layer " +
                                 std::to_string(layer) + ", expert " + std::to_string(e);
        ExpectOnce(w.experts[e].gate, of_expert, what + " gate");
        ExpectOnce(w.experts[e].up, of_expert, what + " up");
        ExpectOnce(w.experts[e].down, of_expert, what + " down");
      }
    }
  }
}

TEST(ExpertReads, OnceAStepWhateverTheBatch) {
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    for (const bool tiles : {false, true}) {
      for (const bool two_nodes : {false, true}) Check(name, tiles, two_nodes);
    }
  }
}

}  // namespace
}  // namespace minimo
