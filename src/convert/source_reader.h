// Reads ranges of a checkpoint's mapped files without touching the mapping: a page that is only copied costs no fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "convert/read_ahead.h"

namespace minimo {

class SourceReader {
 public:
  using Use = std::function<bool(std::span<const std::byte>)>;

  static Result<SourceReader> Open(const Checkpoint& checkpoint);
  SourceReader(SourceReader&& other) noexcept
      : ahead_(std::move(other.ahead_)), files_(std::move(other.files_)) { other.files_.clear(); }
  ~SourceReader();

  // Gives `use` the bytes that the checkpoint has at `data`, piece by piece in order, until it returns false; bytes
  // that are of no file come from memory. What was asked for early is read past the page cache and can be read once.
  // Safe from several threads.
  Status Stream(const std::byte* data, int64_t bytes, const Use& use) const;
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
