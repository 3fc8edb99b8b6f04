// Where a server's time on the device goes: how long steps take and how long the device waits for the host between two.
#pragma once

#include <cstdint>

#include "cuda/device_cuda.h"
#include "minimo/result.h"

namespace minimo::cuda {

// Steps alternate between two slots; a step's times are read once it has ended.
class StepTimes {
 public:
  Status Create();
  // Before the first and after the last command of a step in `slot`, 0 or 1.
  Status Begin(int slot, bool decode, int tokens, cudaStream_t stream);
  Status End(int slot, cudaStream_t stream) { return ToStatus(cudaEventRecord(end_[slot].get(), stream), "a step"); }
  void Ended(int slot);
  // One line, if there was a step.
  void Log() const;

 private:
  struct Sum {
    int64_t steps = 0, tokens = 0;
    double busy_ms = 0, idle_ms = 0;
  };
  Event begin_[2], end_[2];
  bool decode_[2] = {};
  int tokens_[2] = {};
  bool follows_ = false;  // a step has ended in the other slot
  Sum sums_[2];           // [decode]
};

}  // namespace minimo::cuda
