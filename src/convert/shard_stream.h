// Writes one group of tensors, a file for each rank that has any of them: weights are encoded by the team while a thread
// of its own writes what is ready.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "convert/plan.h"

namespace minimo {

class ThreadTeam;

// A bounded queue of byte blocks in front of SafetensorsWriters. One producer; the writer thread is the consumer.
class WriteQueue {
 public:
  WriteQueue();
  ~WriteQueue();
  // Waits while kDepth blocks are queued. False once a write has failed. `writer` outlives the queue.
  bool Push(SafetensorsWriter& writer, std::vector<std::byte> block);
  Status Close();  // waits for the rest
  std::vector<std::byte> TakeBlock(size_t bytes);  // a used block, resized

 private:
  static constexpr size_t kDepth = 4;
  struct Item {
    SafetensorsWriter* writer;
    std::vector<std::byte> block;
  };
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::vector<std::vector<std::byte>> spare_;
  Status status_;
  bool closing_ = false;
  std::thread thread_;
};

// Squared error and squared norm of what was encoded, per layer; the last pair: outside the layers.
using ErrorSums = std::vector<double>;

struct OutputFile {
  int rank = 0;
  std::string path;
  std::map<std::string, std::string> metadata;
};

// `advance` is told bytes as they are queued; returning false stops with an error. Every rank of `tensors` has a file.
Status WriteConvertedFiles(std::span<const OutputFile> files, std::span<const ConvertedTensor> tensors, ThreadTeam& team,
                           const std::function<bool(int64_t)>& advance, ErrorSums* errors);

}  // namespace minimo
