// The most likely token of each row, and the step record moved on by it: decode without the host.
#pragma once

#include <cuda_runtime.h>

namespace minimo::cuda {

inline constexpr int kGreedyParts = 32;

struct GreedyParams {
  const float* logits = nullptr;  // [rows, vocab]
  int rows = 0;
  int vocab = 0;
  float* part_value = nullptr;  // workspace [rows, kGreedyParts]
  int* part_token = nullptr;
  int* counters = nullptr;      // [rows], zero between launches
  int* token = nullptr;         // out [rows]: the lowest id among the largest
  bool scramble = false;        // write a token made of it and its position instead: random weights soon repeat one
                                // token, and with it one routing
  int* position = nullptr;      // [rows] each += 1, as past and last; null: left alone
  int* past = nullptr;
  int* last = nullptr;
};

cudaError_t LaunchGreedy(const GreedyParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
