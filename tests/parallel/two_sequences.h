// Two sequences through an executor: prompts in chunks, then greedy decoding together, as a server mixes them. What one
// rank answers is what many must.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/executor.h"
#include "kv/replica_step.h"
#include "models/kv_layout.h"
#include "tests/golden/golden_case.h"

namespace minimo::testing {

inline constexpr double kRanksBound = 1e-4;  // logits of many ranks against those of one, float32
inline constexpr int kPromptTokens = 40;
inline constexpr int kDecodeSteps = 8;

inline KvLayout TwoSequencesLayout(const ModelSpec& spec) {
  KvLayout layout = MakeKvLayout(spec, DType::kF32, 16);
  layout.num_blocks = 16;
  layout.num_rings = layout.ring_tokens > 0 ? 4 : 0;
  return layout;
}

struct Answer {
  std::vector<float> logits;  // of the prompts' last positions and of every decode step
  std::vector<int32_t> greedy;
};

class TwoSequences {
 public:
  // With `replicas` of attention the second sequence is the last one's, so steps without it leave that one idle.
  TwoSequences(const ModelSpec& spec, const std::vector<int32_t>& ids, int replicas = 1)
      : spec_(spec), ids_(ids), replicas_(replicas) {}

  Answer Run(Executor& executor) {
    Answer answer;
    std::vector<int32_t> next(2);
    int past[2] = {0, 0};
    const int lengths[2] = {prompt(), prompt() - 7};
    const auto step = [&](std::initializer_list<std::pair<int, int>> parts) {  // (sequence, tokens)
      std::vector<StepRecord> of_replicas(static_cast<size_t>(replicas_));
      for (const auto& [which, count] : parts) {
        StepRecord& record = of_replicas[which == 0 ? 0 : of_replicas.size() - 1];
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
      StepRecord record = of_replicas[0];
      if (replicas_ > 1) {
        record = {};
        for (const StepRecord& part : of_replicas) AppendReplica(part, &record);
      }
      record.id = ++id_;
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
    return std::any_of(spec_.layers.begin(), spec_.layers.end(),
                       [](const LayerSpec& l) { return l.attention.window > 0; });
  }

  const ModelSpec& spec_;
  const std::vector<int32_t>& ids_;
  const int replicas_;
  uint64_t id_ = 0;
};

// Largest absolute difference; infinite if the sizes differ.
inline double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(double{a[i]} - b[i]);
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

}  // namespace minimo::testing
