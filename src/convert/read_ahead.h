// Reads ranges of files ahead of whoever needs them, past the page cache, into bounded memory.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "convert/aligned_block.h"
#include "minimo/result.h"

namespace minimo {

// Ask and Take may be called by several threads. What is asked for is taken once, nearly in the order of asking: Take
// of a range waits until all but kBlocks blocks of what was asked before it have been taken.
class ReadAhead {
 public:
  static constexpr int64_t kBlockBytes = (int64_t{8} << 20) - 2 * kBlockAlignment;  // read at a time, edges beside it
  static constexpr int kBlocks = 24;                        // read and not yet taken
  static constexpr int kReaders = 2;                        // requests in flight

  ReadAhead();
  ~ReadAhead();

  // Bytes from `offset` of a file on; `at` is the address that Take knows them by. `path` outlives this.
  void Ask(uintptr_t at, int64_t bytes, int fd, int64_t offset, const std::string& path);
  // Gives `use` what it has from `at` on, `bytes` at most; returns how much that was, 0 if it was not asked for or has
  // been taken.
  Result<int64_t> Take(uintptr_t at, int64_t bytes, const std::function<void(std::span<const std::byte>)>& use);

 private:
  struct Piece {
    int fd;
    int64_t offset;
    const std::string* path;
    int64_t bytes;
    int64_t left;         // not yet taken
    AlignedBlock block;   // from the last multiple of kBlockAlignment before `offset` on
    bool ready = false;
    Status status;
  };
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uintptr_t, Piece> pieces_;
  std::deque<Piece*> to_read_;
  std::vector<AlignedBlock> spare_;
  int blocks_ = 0;  // in use
  bool closing_ = false;
  std::vector<std::thread> readers_;
};

}  // namespace minimo
