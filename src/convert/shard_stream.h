// Writes one shard: weights are encoded by the team while a thread of its own writes what is ready.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "convert/plan.h"

namespace minimo {

class ThreadTeam;

// A bounded queue of byte blocks in front of a SafetensorsWriter. One producer; the writer thread is the consumer.
class WriteQueue {
 public:
  explicit WriteQueue(SafetensorsWriter& writer);
  ~WriteQueue();
  // Waits while kDepth blocks are queued. False once a write has failed.
  bool Push(std::vector<std::byte> block);
  Status Close();  // waits for the rest
  std::vector<std::byte> TakeBlock(size_t bytes);  // a used block, resized

 private:
  static constexpr size_t kDepth = 4;
  void Loop();

  SafetensorsWriter& writer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<std::byte>> queue_;
  std::vector<std::vector<std::byte>> spare_;
  Status status_;
  bool closing_ = false;
  std::thread thread_;
};

// Squared error and squared norm of what was encoded, per layer; the last pair: outside the layers.
using ErrorSums = std::vector<double>;

// `advance` is told bytes as they are queued; returning false stops with an error.
Status WriteConvertedShard(const std::string& path, std::span<const ConvertedTensor> tensors, ThreadTeam& team,
                           const std::function<bool(int64_t)>& advance, ErrorSums* errors);

}  // namespace minimo
