// Digests of a step's rows of logits: made on the device, sent to one of two places on the host, so that a step can be
// begun before the digests of the one before it have been read. Ranks that share the vocabulary each make those of
// their part, tell them to all, and each puts them together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/exchange_cuda.h"
#include "cuda/kernels/row_digest.cuh"
#include "minimo/result.h"

namespace minimo::cuda {

class DeviceDigests {
 public:
  // logits: [rows, vocab], device. With an exchange they are its local_logits.
  Status Allocate(int rows, int vocab, const float* logits, Exchange* exchange);
  // [rows] 1 / temperature for the rows of the steps that follow; sent if they changed.
  Status SendScales(std::span<const float> scales, cudaStream_t stream);
  // Workspace for a launch; what comes out is the caller's to set.
  RowDigestParams Params(int rows) const;
  // Digests of the first `rows` rows; token: the row's best goes there too, null: not wanted.
  Status Make(int rows, int* token, cudaStream_t stream);
  Status Launch(RowDigestParams params, cudaStream_t stream);
  // They go to the host's place `slot`, 0 or 1.
  Status Send(int slot, int rows, cudaStream_t stream);
  Status Wait(int slot);
  // Valid until the next call for the same place and row.
  const RowDigest* Row(int slot, int row);

 private:
  const float* logits_ = nullptr;
  int vocab_ = 0;  // of `logits`
  Exchange* exchange_ = nullptr;
  DeviceMemory work_, digests_, all_;  // all_: [ranks][rows], with an exchange
  int64_t value_ = 0, token_ = 0, sum_ = 0, mass_ = 0, block_max_ = 0, counters_ = 0, scales_ = 0;  // bytes into work_
  HostMemory host_scales_, host_[2];
  Event sent_[2];
  int sent_rows_[2] = {};
  std::vector<RowDigest> merged_[2];
  std::vector<float> sent_scales_;
};

}  // namespace minimo::cuda
