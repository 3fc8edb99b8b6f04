// A file mapped read-only and shared; its pages come from the page cache and are never copied.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "minimo/result.h"

namespace minimo {

class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // While samples are read here and there: no page beside the one that is asked for.
  void ReadAhead(bool on) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const std::byte* data_;
  size_t size_;
};

// The whole of a (small) text file.
Result<std::string> ReadTextFile(const std::string& path);

}  // namespace minimo
