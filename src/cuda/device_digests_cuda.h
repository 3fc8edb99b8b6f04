// Digests of a step's rows of logits: made on the device, sent to one of two places on the host, so that a step can be
// begun before the digests of the one before it have been read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/kernels/row_digest.cuh"
#include "minimo/result.h"

namespace minimo::cuda {

class DeviceDigests {
 public:
  // logits: [rows, vocab], device.
  Status Allocate(int rows, int vocab, const float* logits);
  // [rows] 1 / temperature for the rows of the steps that follow; sent if they changed.
  Status SendScales(std::span<const float> scales, cudaStream_t stream);
  // Workspace for a launch; what comes out is the caller's to set.
  RowDigestParams Params(int rows) const;
  // Digests of the first `rows` rows; token: the row's best goes there too, null: not wanted.
  Status Make(int rows, int* token, cudaStream_t stream);
  // They go to the host's place `slot`, 0 or 1.
  Status Send(int slot, int rows, cudaStream_t stream);
  Status Wait(int slot) { return ToStatus(cudaEventSynchronize(sent_[slot].get()), "a step"); }
  const RowDigest* Row(int slot, int row) const { return host_[slot].As<RowDigest>() + row; }

 private:
  const float* logits_ = nullptr;
  int vocab_ = 0;
  DeviceMemory work_, digests_;
  int64_t value_ = 0, token_ = 0, sum_ = 0, mass_ = 0, block_max_ = 0, counters_ = 0, scales_ = 0;  // bytes into work_
  HostMemory host_scales_, host_[2];
  Event sent_[2];
  std::vector<float> sent_scales_;
};

}  // namespace minimo::cuda
