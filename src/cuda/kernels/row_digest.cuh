// The digest of each row of logits (cuda/row_digest.h), and the step record moved on by the most likely
// token: decode without the host.
#pragma once

#include <cuda_runtime.h>

#include "cuda/row_digest.h"

namespace minimo::cuda {

inline constexpr int kDigestParts = 32;         // blocks a row
// Block maxima that fit shared memory: larger vocabularies have no candidates.
inline constexpr int kDigestMostBlocks = 4096;

struct RowDigestParams {
  const float* logits = nullptr;  // [rows, vocab]
  const float* scale = nullptr;   // [rows] 1 / temperature; 0: no candidates
  int rows = 0;
  int vocab = 0;
  float* part_value = nullptr;    // workspace [rows, kDigestParts], as part_token and part_mass
  int* part_token = nullptr;      // -1: a NaN was met
  float* part_sum = nullptr;
  float* part_mass = nullptr;
  float* block_max = nullptr;     // workspace [rows, ceil(vocab / DigestBlock(vocab))]
  int* counters = nullptr;        // [rows], zero between launches
  RowDigest* digest = nullptr;    // out [rows]; null: not wanted
  int* token = nullptr;           // out [rows]: the lowest id among the largest; null: not wanted
  bool scramble = false;          // write a token made of it and its position instead: random weights soon repeat one
                                  // token, and with it one routing
  int* position = nullptr;        // [rows] each += 1, as past and last; null: left alone
  int* past = nullptr;
  int* last = nullptr;
};

cudaError_t LaunchRowDigest(const RowDigestParams& params, cudaStream_t stream);

// The same end for rows whose vocabulary ranks share (ShareOf): token and what follows it, from the digests of all
// ranks, all [ranks][rows]. params.vocab: the whole.
cudaError_t LaunchBestOfRanks(const RowDigestParams& params, const RowDigest* all, int ranks, cudaStream_t stream);

}  // namespace minimo::cuda
