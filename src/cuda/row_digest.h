// What a sampler needs of a row of logits, in 2 KB instead of the row: kernels/row_digest.cu makes it.
#pragma once

#include <cstdint>
#include <span>

namespace minimo::cuda {

inline constexpr int kDigestWanted = 128;    // candidates at least, of a large vocabulary
inline constexpr int kDigestCapacity = 256;  // more than that at or above the floor: none are kept

// Logits that share one block maximum; the floor is the maximum of the DigestWanted(vocab)-th best block.
constexpr int DigestBlock(int vocab) { return vocab > 16384 ? 64 : 8; }
constexpr int DigestBlocks(int vocab) { return (vocab + DigestBlock(vocab) - 1) / DigestBlock(vocab); }
constexpr int DigestWanted(int vocab) {
  const int some = DigestBlocks(vocab) / 4;
  return some < 1 ? 1 : some > kDigestWanted ? kDigestWanted : some;
}

struct RowDigest {
  float max;
  int32_t argmax;  // the lowest token of max
  int32_t bad;     // not 0: a NaN, a +infinity or nothing above -infinity; the rest then means nothing
  int32_t count;   // candidates kept; 0: none were asked for, or there are too many
  float floor;     // every logit >= floor is a candidate, and no other
  float scale;     // of `mass`; 0: no candidates were asked for
  double sum;      // of exp(x - max) over the row
  double mass;     // of exp((x - max) * scale)
  float values[kDigestCapacity];    // best first, ties by ascending token
  int32_t tokens[kDigestCapacity];
};

// Of a row whose vocabulary several ranks share: parts[r] counts its tokens from 0, begins[r] is the first.
void MergeDigests(std::span<const RowDigest* const> parts, std::span<const int32_t> begins, RowDigest* whole);

}  // namespace minimo::cuda
