// Files written in large aligned blocks past the page cache by threads of their own, hashed as they are filled.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "convert/aligned_block.h"
#include "minimo/result.h"

struct XXH3_state_s;

namespace minimo {

// A bounded queue of blocks in front of file descriptors. One producer; the writer threads are the consumers: a file's
// blocks may be written in any order.
class WriteQueue {
 public:
  static constexpr size_t kDepth = 4;  // blocks that are queued or being written
  static constexpr int kWriters = 2;   // requests in flight, as many as ReadAhead has: the disk gives both their share

  explicit WriteQueue(size_t block_bytes);  // a multiple of kBlockAlignment
  ~WriteQueue();
  size_t block_bytes() const { return block_bytes_; }
  AlignedBlock TakeBlock();
  // To `offset` of a file. Waits while kDepth blocks are queued or being written. False once a write has failed.
  bool Push(int fd, const std::string& path, int64_t offset, AlignedBlock block);
  Status Close();  // waits for the rest

 private:
  struct Item {
    int fd;
    const std::string* path;
    int64_t offset;
    AlignedBlock block;
  };
  void Loop();

  const size_t block_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::vector<AlignedBlock> spare_;
  size_t writing_ = 0;
  Status status_;
  bool closing_ = false;
  std::vector<std::thread> writers_;
};

// One output file: PATH.tmp until Finish has synced and renamed it.
class BlockFile {
 public:
  static Result<BlockFile> Create(const std::string& path, WriteQueue& queue);
  BlockFile(BlockFile&& other) noexcept;
  ~BlockFile();  // an unfinished file is removed

  // Room for the next bytes, at least one; Commit says how many of them were filled. False: the queue has failed.
  std::span<std::byte> Space();
  bool Commit(size_t bytes);
  bool Append(const std::byte* data, size_t bytes);
  bool Flush();  // pushes the last block
  // After the queue is closed.
  Status Finish();
  int64_t bytes() const { return bytes_; }
  std::string checksum() const;  // XXH3 (64 bit), hexadecimal, of what was pushed

 private:
  BlockFile(const std::string& path, int fd, WriteQueue& queue);
  bool PushBlock();

  std::unique_ptr<std::string> path_;  // the queue keeps its address
  int fd_ = -1;
  WriteQueue* queue_;
  AlignedBlock block_;
  int64_t bytes_ = 0;
  std::unique_ptr<XXH3_state_s, void (*)(XXH3_state_s*)> hash_;
};

}  // namespace minimo
