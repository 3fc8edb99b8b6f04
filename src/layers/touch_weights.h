// Mapped weights entered into the page table ahead of their first use. Without it a decode step that meets an expert
// for the first time takes a page fault for every few pages of it: as long as reading it from memory.
#pragma once

#include <atomic>
#include <span>
#include <thread>
#include <vector>

#include "layers/weight.h"

namespace minimo {

// Walks the matrices in the background, layer by layer, from its making to its end. What is on disk alone is read.
// Where the system cannot do it (Linux before 5.14) it does nothing. The weights outlive it.
class WeightToucher {
 public:
  explicit WeightToucher(const DecoderWeights& weights);
  ~WeightToucher();
  WeightToucher(const WeightToucher&) = delete;
  WeightToucher& operator=(const WeightToucher&) = delete;

  void Wait() {  // until all are entered
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::vector<std::span<const std::byte>> ranges_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace minimo
