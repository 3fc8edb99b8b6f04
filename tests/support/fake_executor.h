// A model made of hashes that reads and writes a real paged cache and real rings, so that any mistake in page tables,
// rings, copies or snapshots changes its output. Position p has
//   state(p)  = mix(token, states of the window - 1 positions before)   read from the ring, as a sliding layer would
//   output(p) = fold(mix(state, p') for p' <= p)                        read from the pages, as a full layer would
// A state depends on all tokens before through its neighbours, as hidden states do, so a ring cannot be rebuilt from
// the last window of tokens alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "base/error.h"
#include "engine/executor.h"

namespace minimo {

class FakeModel {
 public:
  FakeModel(int window, int vocab) : window_(window), vocab_(vocab) {}
  int window() const { return window_; }
  int vocab() const { return vocab_; }

  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  // before(k): the state k positions earlier, 1 <= k <= count < window.
  template <typename Before>
  static uint64_t State(int32_t token, int count, Before before) {
    uint64_t state = Mix(static_cast<uint32_t>(token) + 1);
    for (int k = 1; k <= count; ++k) state = state * 31 + before(k);
    return Mix(state);
  }
  static uint64_t Fold(uint64_t output, uint64_t state, int position) {
    return Mix(output + state + static_cast<uint64_t>(position));
  }
  void Logits(uint64_t output, float* row) const {
    for (int v = 0; v < vocab_; ++v) {
      row[v] = static_cast<float>(Mix(output + static_cast<uint64_t>(v) * 0x9e3779b97f4a7c15u) >> 40) * 0x1p-20f;
    }
  }
  int32_t Greedy(uint64_t output) const {
    std::vector<float> row(vocab_);
    Logits(output, row.data());
    return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  }

 private:
  int window_;
  int vocab_;
};

// What the model says of one history, without any cache: the truth that runs are compared with.
class FakeHistory {
 public:
  explicit FakeHistory(const FakeModel& model) : model_(&model) {}
  void Append(int32_t token) {
    const int position = static_cast<int>(states_.size());
    const int count = model_->window() > 0 ? std::min(position, model_->window() - 1) : 0;
    states_.push_back(FakeModel::State(token, count, [&](int k) { return states_[position - k]; }));
    output_ = FakeModel::Fold(output_, states_.back(), position);
  }
  int size() const { return static_cast<int>(states_.size()); }
  int32_t Greedy() const { return model_->Greedy(output_); }

 private:
  const FakeModel* model_;
  std::vector<uint64_t> states_;
  uint64_t output_ = 0;
};

class FakeExecutor final : public Executor {
 public:
  FakeExecutor(const FakeModel& model, const KvLayout& layout)
      : model_(model),
        layout_(layout),
        pages_(static_cast<size_t>(layout.num_blocks) * layout.block_size),
        rings_(static_cast<size_t>(layout.num_rings) * layout.ring_tokens) {}

  const KvLayout& kv_layout() const override { return layout_; }
  int vocab_size() const override { return model_.vocab(); }

  Status Run(const StepRecord& step, StepOutput* output) override {
    if (fail_at_ >= 0 && static_cast<int64_t>(step.id) >= fail_at_) return Errorf("the fake device is broken");
    MINIMO_TRY(CheckCopies(step.block_copies));
    MINIMO_TRY(CheckCopies(step.ring_restores));
    MINIMO_TRY(CheckCopies(step.ring_snapshots));
    for (const CacheCopy& c : step.block_copies) Copy(&pages_, layout_.block_size, c);
    for (const CacheCopy& c : step.ring_restores) Copy(&rings_, layout_.ring_tokens, c);
    logits_.clear();
    written_.clear();
    for (const SequenceStep& s : step.sequences) MINIMO_TRY(RunSequence(step, s));
    for (const CacheCopy& c : step.ring_snapshots) Copy(&rings_, layout_.ring_tokens, c);
    output->logits = logits_;
    return {};
  }

  void FailAt(int64_t step) { fail_at_ = step; }
  void PoisonToken(int32_t token) { poison_ = token; }  // logits after this token are NaN

 private:
  Status RunSequence(const StepRecord& step, const SequenceStep& s) {
    const int bs = layout_.block_size;
    const int end = s.past + s.num_tokens;
    if (s.num_tokens < 1 || s.num_logits > s.num_tokens) return Errorf("a sequence of {} tokens", s.num_tokens);
    if (s.num_blocks * bs < end) return Errorf("{} blocks for {} tokens", s.num_blocks, end);
    if ((s.ring >= 0) != (layout_.ring_tokens > 0)) return Errorf("ring {}", s.ring);
    const int32_t* table = step.block_tables.data() + s.block_table;
    for (int i = s.past / bs; i * bs < end; ++i) {
      if (!written_.insert(table[i]).second) return Errorf("block {} is written by two sequences", table[i]);
    }
    const auto page = [&](int p) -> uint64_t& { return pages_[static_cast<size_t>(table[p / bs]) * bs + p % bs]; };
    const auto ring = [&](int p) -> uint64_t& {
      return rings_[static_cast<size_t>(s.ring) * layout_.ring_tokens + p % layout_.ring_tokens];
    };

    std::vector<uint64_t> states(s.num_tokens);
    uint64_t folded = 0;
    for (int p = 0; p < s.past; ++p) folded = FakeModel::Fold(folded, page(p), p);
    for (int i = 0; i < s.num_tokens; ++i) {
      const int p = s.past + i;
      const int32_t token = step.tokens[s.first_token + i];
      const int count = model_.window() > 0 ? std::min(p, model_.window() - 1) : 0;
      states[i] = FakeModel::State(token, count, [&](int k) { return k <= i ? states[i - k] : ring(p - k); });
      folded = FakeModel::Fold(folded, states[i], p);
      if (i >= s.num_tokens - s.num_logits) {
        logits_.resize(logits_.size() + model_.vocab());
        float* row = logits_.data() + logits_.size() - model_.vocab();
        model_.Logits(folded, row);
        if (token == poison_) std::fill(row, row + model_.vocab(), std::numeric_limits<float>::quiet_NaN());
      }
    }
    for (int i = 0; i < s.num_tokens; ++i) {
      page(s.past + i) = states[i];
      if (s.ring >= 0) ring(s.past + i) = states[i];
    }
    return {};
  }

  // Copies of one list must not depend on their order.
  static Status CheckCopies(const std::vector<CacheCopy>& copies) {
    std::set<int32_t> to;
    for (const CacheCopy& c : copies) {
      if (!to.insert(c.to).second) return Errorf("{} is the target of two copies", c.to);
    }
    for (const CacheCopy& c : copies) {
      if (to.count(c.from) > 0) return Errorf("{} is the source and the target of copies", c.from);
    }
    return {};
  }
  static void Copy(std::vector<uint64_t>* pool, int rows, const CacheCopy& c) {
    std::copy_n(pool->begin() + static_cast<int64_t>(c.from) * rows, rows,
                pool->begin() + static_cast<int64_t>(c.to) * rows);
  }

  FakeModel model_;
  KvLayout layout_;
  std::vector<uint64_t> pages_;  // [blocks, block_size]
  std::vector<uint64_t> rings_;  // [rings, ring_tokens]
  std::vector<float> logits_;
  std::set<int32_t> written_;
  int64_t fail_at_ = -1;
  int32_t poison_ = -1;
};

}  // namespace minimo
