#include "sampling/candidates.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace minimo {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// What goes before a rank's candidates.
struct Head {
  double sum;           // of exp(x - max)
  double tempered_sum;  // of exp((x - max) / temperature)
  float max;            // -infinity: no token of this part can be chosen
  int32_t bad;
  int32_t listed;
  int32_t padding;
};

size_t Most(const CandidateNeed& need, size_t tokens) { return std::min(static_cast<size_t>(need.count), tokens); }

}  // namespace

size_t CandidateBytes(const CandidateNeed& need, size_t tokens) {
  return sizeof(Head) + Most(need, tokens) * sizeof(TokenLogit);
}

void PutCandidates(std::span<const float> logits, int32_t first_token, const CandidateNeed& need, DrawScratch* scratch,
                   std::byte* to) {
  Head head = {0, 0, kLowest, 0, 0, 0};
  std::vector<TokenLogit> best(Most(need, logits.size()), TokenLogit{kLowest, 0});
  if (!logits.empty()) {
    const RowScan scan = Scan(logits, scratch);
    head.bad = scan.bad;
    if (!scan.bad && scan.max > kLowest) {
      head.max = scan.max;
      head.listed = static_cast<int32_t>(TopK(logits, best.size(), scratch));
      for (int32_t i = 0; i < head.listed; ++i) best[i] = {scratch->values[i], first_token + scratch->indices[i]};
      head.sum = SumExp(logits.data(), logits.size(), scan.max, 1.0f, nullptr);
      head.tempered_sum = need.temperature == 1
                              ? head.sum
                              : SumExp(logits.data(), logits.size(), scan.max, 1.0f / need.temperature, nullptr);
    }
  }
  std::memcpy(to, &head, sizeof head);
  if (!best.empty()) std::memcpy(to + sizeof head, best.data(), best.size() * sizeof(TokenLogit));
}

RowCandidates MergeCandidates(std::span<const std::byte* const> parts, std::span<const size_t> tokens,
                              const CandidateNeed& need) {
  RowCandidates row;
  row.floor = kLowest;
  std::vector<Head> heads(parts.size());
  float max = kLowest;
  for (size_t r = 0; r < parts.size(); ++r) {
    std::memcpy(&heads[r], parts[r], sizeof(Head));
    row.bad = row.bad || heads[r].bad != 0;
    max = std::max(max, heads[r].max);
  }
  for (size_t r = 0; r < parts.size(); ++r) {
    const Head& head = heads[r];
    const size_t listed = static_cast<size_t>(head.listed), at = row.best.size();
    row.best.resize(at + listed);
    if (listed > 0) std::memcpy(row.best.data() + at, parts[r] + sizeof(Head), listed * sizeof(TokenLogit));
    // Fewer than asked for: the others are -infinity.
    if (listed > 0 && listed == Most(need, tokens[r]) && listed < tokens[r]) {
      row.floor = std::max(row.floor, row.best.back().logit);
    }
    if (head.max == kLowest) continue;
    row.sum += head.sum * std::exp(double{head.max} - max);
    row.tempered_sum += head.tempered_sum * std::exp((double{head.max} - max) / need.temperature);
  }
  std::sort(row.best.begin(), row.best.end(), [](const TokenLogit& a, const TokenLogit& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  });
  return row;
}

}  // namespace minimo
