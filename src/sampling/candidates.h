// Sampling over a vocabulary that ranks share, without gathering its logits: each rank tells its best tokens and what
// sums over the vocabulary need; rank 0 merges them. Greedy choices are exact; top-k, top-p and min-p are exact when
// all survivors are among the candidates, which SampleBatch checks: where they are not, and for everything that changes
// logits first (masks, biases, penalties) or draws from the whole distribution, the row itself is gathered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "minimo/result.h"
#include "sampling/draw.h"

namespace minimo {

struct TokenLogit {
  float logit;
  int32_t token;
};

// What a choice needs of a row.
struct CandidateNeed {
  int32_t count = 0;      // candidates of each rank; 0: the whole row
  float temperature = 1;  // behind RowCandidates::tempered_sum
};

// A row as rank 0 knows it.
struct RowCandidates {
  std::vector<TokenLogit> best;  // best first, ties by ascending token
  float floor = 0;               // no token that is not among them has a greater logit; -infinity: all are
  double sum = 0;                // of exp(x - best[0].logit) over the vocabulary
  double tempered_sum = 0;       // of exp((x - best[0].logit) / temperature)
  bool bad = false;              // a NaN or +infinity was met
};

// Bytes that PutCandidates writes for a part of the vocabulary of `tokens`.
size_t CandidateBytes(const CandidateNeed& need, size_t tokens);

// One rank's part of a row: logits of tokens first_token, first_token + 1, ...
void PutCandidates(std::span<const float> logits, int32_t first_token, const CandidateNeed& need, DrawScratch* scratch,
                   std::byte* to);

// One row from the parts of all ranks; parts[r] points to what rank r put, counts[r] is the size of its part.
RowCandidates MergeCandidates(std::span<const std::byte* const> parts, std::span<const size_t> tokens,
                              const CandidateNeed& need);

}  // namespace minimo
