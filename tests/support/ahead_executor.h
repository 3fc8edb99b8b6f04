// The fake executor behind the promises of one on a device: candidates instead of logits, and the next step begun
// before it is asked for, which writes the cache as a device would whether or not it is wanted.
#pragma once

#include <vector>

#include "cuda/step_ahead.h"
#include "sampling/candidates.h"
#include "tests/support/fake_executor.h"

namespace minimo {

class AheadExecutor final : public Executor {
 public:
  explicit AheadExecutor(FakeExecutor* fake) : fake_(fake) {}
  const KvLayout& kv_layout() const override { return fake_->kv_layout(); }
  int vocab_size() const override { return fake_->vocab_size(); }

  bool OffersCandidates() const override { return true; }
  Status Run(const StepRecord& step, StepOutput* output) override {
    std::vector<int32_t> rows;
    if (running_ && cuda::IsPartOf(step, next_, next_.tokens, kv_layout().block_size, &rows)) {
      ++hits_;
      logits_ = RowsOf(next_logits_, rows);
    } else {
      misses_ += running_;
      MINIMO_TRY(fake_->Run(step, output));
      logits_.assign(output->logits.begin(), output->logits.end());
    }
    running_ = false;
    output->logits = logits_;
    if (step.row_requests.empty()) return {};
    if (step.row_requests.size() != static_cast<size_t>(step.NumLogits())) return Error{"rows and requests differ"};
    std::vector<int32_t> best, whole;
    output->candidates.clear();
    for (size_t i = 0; i < step.row_requests.size(); ++i) {
      const RowCandidates row = List(i, step.row_requests[i]);
      best.push_back(row.best.empty() ? 0 : row.best[0].token);
      if (step.row_requests[i].candidates > 0) output->candidates.push_back(row);
      if (step.row_requests[i].candidates == 0) whole.push_back(static_cast<int32_t>(i));
    }
    output->logits = {};
    if (!whole.empty()) MINIMO_TRY(FetchLogits(whole, output));
    return output->goes_on ? StartNext(step, best) : Status();
  }

  Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) override {
    if (running_) return Error{"a step ahead runs already"};
    if (!cuda::NextStep(step, kv_layout(), &next_)) return {};
    next_.tokens.assign(tokens.begin(), tokens.end());
    StepOutput output;
    MINIMO_TRY(fake_->Run(next_, &output));
    next_logits_.assign(output.logits.begin(), output.logits.end());
    running_ = true;
    return {};
  }

  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override {
    if (running_) return Error{"the logits are gone"};
    ++reads_;
    read_ = RowsOf(logits_, rows);
    output->logits = read_;
    return {};
  }

  int hits_ = 0, misses_ = 0, reads_ = 0;

 private:
  std::vector<float> RowsOf(const std::vector<float>& logits, std::span<const int32_t> rows) const {
    const auto vocab = static_cast<int64_t>(vocab_size());
    std::vector<float> some;
    for (const int32_t row : rows) {
      some.insert(some.end(), logits.begin() + row * vocab, logits.begin() + (row + 1) * vocab);
    }
    return some;
  }
  RowCandidates List(size_t row, const RowRequest& request) {
    const auto vocab = static_cast<size_t>(vocab_size());
    const CandidateNeed need{std::max(1, request.candidates), request.temperature};
    std::vector<std::byte> listed(CandidateBytes(need, vocab));
    PutCandidates({logits_.data() + row * vocab, vocab}, 0, need, &scratch_, listed.data());
    const std::byte* part = listed.data();
    return MergeCandidates({&part, 1}, {&vocab, 1}, need);
  }

  DrawScratch scratch_;
  FakeExecutor* fake_;
  bool running_ = false;
  StepRecord next_;
  std::vector<float> logits_, next_logits_, read_;
};

}  // namespace minimo
