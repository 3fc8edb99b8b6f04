// From a row of logits to a token. One SequenceSampler a sequence holds what its next choice depends on; SampleBatch
// picks for many sequences at once. A choice depends on the row, the parameters, the prompt, the output so far and the
// seed alone: never on the batch, on preemption or on timing.
//
// The order of operations is vLLM's (v1/sample): log-probabilities of the raw row; allowed ids, token mask, min_tokens
// mask; logit_bias; repetition, frequency and presence penalties; temperature; min_p; top_k; top_p; the draw.
//
// In the engine, for each row of a step (several rows of one sequence, as in speculative decoding, go one after the
// other in separate batches, because each depends on the token before):
//   SampleRow row{logits, &sequence};  SampleBatch(rows, team);  if (row.status.ok()) sequence.Append(row.token.token);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/thread_team.h"
#include "minimo/request.h"
#include "minimo/result.h"
#include "sampling/candidates.h"

namespace minimo {

// Not thread-safe; SampleBatch reads it (and lets its matcher fill a mask), Append changes it.
// A preempted sequence keeps its sampler; a new one that is given the same seed and Append()ed the same output is in
// the same state.
class SequenceSampler {
 public:
  // A distinct token of the prompt or the output.
  struct TokenUse {
    int32_t token;
    int32_t output_count;  // 0: in the prompt alone
  };

  // eos_ids: end-of-text ids, which min_tokens masks together with the stop ids. Without SamplingParams::seed a random
  // one is drawn here.
  SequenceSampler(const SamplingParams& params, std::span<const int32_t> eos_ids, std::span<const int32_t> prompt_ids,
                  int32_t choice = 0);

  // The same state for another choice of one request (n > 1): other random numbers from the same seed.
  SequenceSampler Fork(int32_t choice) const;

  // Takes a token into the output. An error if the matcher cannot follow: the sequence must end.
  Status Append(int32_t token);

  // True when the matcher lets nothing but the end of the text follow: the sequence may stop without another step.
  bool MatcherFinished() const { return matcher_ != nullptr && matcher_->Finished(); }

  // What the next choice needs of its row, where ranks share the vocabulary.
  CandidateNeed Need() const;

  // The next token is the row's best, and of the row nothing else is asked for.
  bool TakesTheBest() const;

  const SamplingParams& params() const { return shared_->params; }
  int64_t output_length() const { return output_length_; }
  uint64_t seed() const { return seed_; }

 private:
  friend class RowSampler;

  // True if the next row is masked or shifted before the choice.
  bool ChangesLogits() const;

  struct Shared {
    SamplingParams params;
    std::vector<int32_t> end_ids;  // end-of-text ids and stop ids
  };

  SequenceSampler() = default;

  std::shared_ptr<const Shared> shared_;
  std::unique_ptr<TokenMatcher> matcher_;
  uint64_t seed_ = 0;
  uint32_t choice_ = 0;
  int64_t output_length_ = 0;
  bool has_penalties_ = false;
  std::vector<TokenUse> uses_;                   // kept only if a penalty needs them
  std::unordered_map<int32_t, size_t> use_index_;  // token -> its place in uses_
};

struct SampleRow {
  std::span<float> logits;              // [vocab_size] float32; changed in place; empty with candidates
  SequenceSampler* sequence = nullptr;  // at most one row of a batch each
  const RowCandidates* candidates = nullptr;
  OutputToken token;                    // out
  Status status;                        // out: why nothing can be chosen (a NaN, nothing allowed)
  bool needs_logits = false;            // out: the candidates do not decide; nothing is chosen yet
};

// Fills token and status of every row. `team` may be null.
void SampleBatch(std::span<SampleRow> rows, ThreadTeam* team);

// The log-probability and rank of `token` and the top_n best of a row (0: none), for prompt_logprobs.
Result<OutputToken> RawLogprobs(std::span<const float> logits, int32_t token, int32_t top_n);

}  // namespace minimo
