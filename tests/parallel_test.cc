// Every checkpoint on many ranks: the logits of one rank, whatever shares the experts and however many ranks.
#include <algorithm>
#include <numeric>

#include "engine/cpu_executor.h"
#include "engine/parallel_executor.h"
#include "models/kv_layout.h"
#include "tests/golden/golden_case.h"

namespace minimo::testing {
namespace {

constexpr double kBound = 1e-4;  // issue: logits within it of one rank's, float32
constexpr int kPromptTokens = 40;
constexpr int kDecodeSteps = 8;

KvLayout Layout(const ModelSpec& spec) {
  KvLayout layout = MakeKvLayout(spec, DType::kF32, 16);
  layout.num_blocks = 16;
  layout.num_rings = layout.ring_tokens > 0 ? 4 : 0;
  return layout;
}

struct Answer {
  std::vector<float> logits;  // of the prompts' last positions and of every decode step
  std::vector<int32_t> greedy;
};

// Two sequences: prompts in two chunks, then greedy decoding together, as a server mixes them.
class TwoSequences {
 public:
  TwoSequences(const ModelSpec& spec, const std::vector<int32_t>& ids) : spec_(spec), ids_(ids) {}

  Answer Run(Executor& executor) {
    Answer answer;
    std::vector<int32_t> next(2);
    int past[2] = {0, 0};
    const int lengths[2] = {prompt(), prompt() - 7};
    const auto step = [&](std::initializer_list<std::pair<int, int>> parts) {  // (sequence, tokens)
      StepRecord record;
      record.id = ++id_;
      for (const auto& [which, count] : parts) {
        SequenceStep s;
        s.first_token = static_cast<int32_t>(record.tokens.size());
        s.num_tokens = count;
        s.past = past[which];
        s.block_table = static_cast<int32_t>(record.block_tables.size());
        s.num_blocks = 8;
        s.ring = spec_rings() ? which : -1;
        const bool in_prompt = past[which] < lengths[which];
        s.num_logits = past[which] + count >= lengths[which] ? 1 : 0;
        for (int i = 0; i < count; ++i) record.tokens.push_back(in_prompt ? ids_[past[which] + i] : next[which]);
        for (int b = 0; b < 8; ++b) record.block_tables.push_back(which * 8 + b);
        record.sequences.push_back(s);
        past[which] += count;
      }
      StepOutput output;
      const Status status = executor.Run(record, &output);
      ASSERT_TRUE(status.ok()) << status.error().message;
      ASSERT_EQ(std::ssize(output.logits), int64_t{record.NumLogits()} * spec_.vocab);
      answer.logits.insert(answer.logits.end(), output.logits.begin(), output.logits.end());
      int row = 0;
      for (size_t i = 0; i < record.sequences.size(); ++i) {
        if (record.sequences[i].num_logits == 0) continue;
        const auto logits = output.logits.subspan(size_t(row++) * spec_.vocab, spec_.vocab);
        const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        next[(parts.begin() + i)->first] = best;
        answer.greedy.push_back(best);
      }
    };
    step({{0, 11}});
    step({{0, lengths[0] - 11}, {1, 5}});
    step({{0, 1}, {1, lengths[1] - 5}});
    for (int i = 0; i < kDecodeSteps; ++i) step({{0, 1}, {1, 1}});
    return answer;
  }

 private:
  int prompt() const { return std::min<int>(kPromptTokens, static_cast<int>(ids_.size())); }
  bool spec_rings() const {
    return std::any_of(spec_.layers.begin(), spec_.layers.end(), [](const LayerSpec& l) { return l.attention.window > 0; });
  }

  const ModelSpec& spec_;
  const std::vector<int32_t>& ids_;
  uint64_t id_ = 0;
};

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
    auto one = CpuExecutor::Create(*model_, Layout(model_->spec), DType::kF32, 1);
    ASSERT_TRUE(one.ok());
    one_ = TwoSequences(model_->spec, ids_).Run(**one);
  }

  void ExpectAsOne(const ParallelFlags& flags) {
    SCOPED_TRACE(::testing::Message() << flags.tensor_parallel_size << " ranks, experts " << flags.moe_prefill
                                      << " in prefill, " << flags.moe_decode << " in decode");
    const auto plan = PlanRanks(model_->spec, flags, 8);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    auto many = MakeThreadRanksExecutor(*model_, *plan, Layout(model_->spec), DType::kF32, 1, 60000);
    ASSERT_TRUE(many.ok()) << many.error().message;
    const Answer answer = TwoSequences(model_->spec, ids_).Run(**many);
    ASSERT_EQ(answer.logits.size(), one_.logits.size());
    double worst = 0;
    for (size_t i = 0; i < one_.logits.size(); ++i) {
      const double difference = std::fabs(double{answer.logits[i]} - one_.logits[i]);
      if (!(difference <= worst)) worst = difference;
    }
    EXPECT_LE(worst, kBound);
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
