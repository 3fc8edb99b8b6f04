// What runs a step: one model on one device or on many ranks. The engine thread is its only caller.
#pragma once

#include <cstdint>
#include <span>

#include "kv/kv_layout.h"
#include "kv/step.h"
#include "minimo/engine.h"
#include "minimo/result.h"
#include "sampling/candidates.h"

namespace minimo {

struct StepOutput {
  // [step.NumLogits(), vocab_size] float32, row-major, in the order of the sequences; host memory of the executor's,
  // valid until its next Run. The sampler may change it in place.
  // Where the step's row_requests ask for candidates, only the rows without.
  std::span<float> logits;
  std::vector<RowCandidates> candidates;  // of the rows that asked for them, in order
  // In: the next step will most likely be the same sequences, each with its most likely token. The executor may begin
  // it before it returns; what is asked for next decides, and whole rows of this step are then gone.
  bool goes_on = false;
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const KvLayout& kv_layout() const = 0;
  virtual int vocab_size() const = 0;
  // An error is a fault of the device or of a rank: the engine answers every request with it and turns unhealthy.
  virtual Status Run(const StepRecord& step, StepOutput* output) = 0;
  // True if rows may be asked for as candidates: ranks share the vocabulary, or it lies on a device; whole rows cost.
  virtual bool OffersCandidates() const { return false; }
  // Whole rows of the last step after all: output->logits [rows.size(), vocab_size]; candidates stay.
  virtual Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) {
    (void)rows, (void)output;
    return Status(Error{"this executor has no candidates"});
  }
  // True if a step can be begun before it is asked for, as below and as StepOutput::goes_on says.
  virtual bool BeginsAhead() const { return false; }
  // As StepOutput::goes_on, with tokens that were chosen from the output of `step`, the one just run: the next step may
  // be begun.
  virtual Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) {
    (void)step, (void)tokens;
    return {};
  }
  // Tokens routed to each expert since start, all ranks together.
  virtual Engine::ExpertLoad GetExpertLoad() const { return {}; }
  // Such a fault that was noticed between runs. Any thread.
  virtual Status Check() const { return {}; }
  // True if Run, FetchLogits and StartNext may never come back once Check fails.
  virtual bool MayNotReturn() const { return false; }
};

}  // namespace minimo
