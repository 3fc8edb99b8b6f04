#include "cuda/row_digest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace minimo::cuda {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

struct Candidate {
  float value;
  int32_t token;
};
bool Better(const Candidate& a, const Candidate& b) {
  return a.value != b.value ? a.value > b.value : a.token < b.token;
}

// Nothing of this part can be chosen, which is no fault: a mask may leave tokens of other ranks.
bool IsEmpty(const RowDigest& part) { return part.max == kLowest && part.argmax >= 0; }

}  // namespace

void MergeDigests(std::span<const RowDigest* const> parts, std::span<const int32_t> begins, RowDigest* whole) {
  Candidate best = {kLowest, std::numeric_limits<int32_t>::max()};
  bool bad = false, empty = true, listed = true;
  whole->floor = kLowest;
  for (size_t r = 0; r < parts.size(); ++r) {
    const RowDigest& part = *parts[r];
    if (IsEmpty(part)) continue;
    empty = false;
    bad = bad || part.bad != 0;
    best = std::min(best, {part.max, begins[r] + part.argmax}, Better);
    listed = listed && part.count > 0;
    whole->floor = std::max(whole->floor, part.floor);
  }
  whole->max = best.value;
  whole->argmax = best.token;
  whole->bad = bad || empty;
  whole->scale = parts[0]->scale;
  whole->count = 0;
  whole->sum = whole->mass = 0;
  if (whole->bad != 0) return;
  std::vector<Candidate> all;
  for (size_t r = 0; r < parts.size(); ++r) {
    const RowDigest& part = *parts[r];
    if (IsEmpty(part)) continue;
    const double below = double{part.max} - best.value;
    whole->sum += part.sum * std::exp(below);
    whole->mass += part.mass * std::exp(below * part.scale);
    if (!listed) continue;
    // Above the greatest floor every rank has told all.
    const auto middle = static_cast<std::ptrdiff_t>(all.size());
    for (int32_t i = 0; i < part.count && part.values[i] >= whole->floor; ++i) {
      all.push_back({part.values[i], begins[r] + part.tokens[i]});
    }
    std::inplace_merge(all.begin(), all.begin() + middle, all.end(), Better);
  }
  size_t kept = all.size();
  if (kept > kDigestCapacity) {  // a higher floor, which no candidate beyond it reaches
    kept = kDigestCapacity;
    while (kept > 0 && all[kept - 1].value == all[kept].value) --kept;
    if (kept > 0) whole->floor = all[kept - 1].value;
  }
  whole->count = static_cast<int32_t>(kept);
  for (size_t i = 0; i < kept; ++i) whole->values[i] = all[i].value, whole->tokens[i] = all[i].token;
}

}  // namespace minimo::cuda
