// Reads ranges of a checkpoint's mapped files by pread: a page that is only copied costs no fault and no mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace minimo {

class SourceReader {
 public:
  static Result<SourceReader> Open(const Checkpoint& checkpoint);
  SourceReader(SourceReader&& other) noexcept : files_(std::move(other.files_)) { other.files_.clear(); }
  ~SourceReader();

  // Copies `bytes` bytes that the checkpoint has at `data`; bytes that are of no file are copied from memory. Safe from
  // several threads.
  Status Read(const std::byte* data, int64_t bytes, std::byte* out) const;
  // Asks for these bytes early.
  void Prefetch(const std::byte* data, int64_t bytes) const;

 private:
  struct File {
    uintptr_t begin, end;  // where it is mapped
    int fd;
    std::string path;
  };
  SourceReader() = default;
  const File* Holding(const std::byte* data) const;

  std::vector<File> files_;
};

}  // namespace minimo
