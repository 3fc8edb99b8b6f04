// Reads ranges of a checkpoint's mapped files without touching the mapping: a page that is only copied costs no fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "convert/read_ahead.h"

namespace minimo {

// How often a byte is wanted.
enum class SourceUse : uint8_t {
  kOnce,   // what is asked for early is read past the page cache and taken once
  kShared  // by several ranks: the page cache keeps it
};

class SourceReader {
 public:
  static Result<SourceReader> Open(const Checkpoint& checkpoint, SourceUse use);
  SourceReader(SourceReader&& other) noexcept
      : ahead_(std::move(other.ahead_)), files_(std::move(other.files_)) { other.files_.clear(); }
  ~SourceReader();

  // Copies `bytes` bytes that the checkpoint has at `data`; bytes that are of no file are copied from memory. Safe from
  // several threads.
  Status Read(const std::byte* data, int64_t bytes, std::byte* out) const;
  // Asks for these bytes early, in the order in which they will be read.
  void Prefetch(const std::byte* data, int64_t bytes) const;

 private:
  struct File {
    uintptr_t begin, end;  // where it is mapped
    int fd;
    int direct;  // past the page cache, or -1
    std::string path;
  };
  SourceReader() = default;
  const File* Holding(const std::byte* data) const;

  std::unique_ptr<ReadAhead> ahead_;
  std::vector<File> files_;
};

}  // namespace minimo
