#include "convert/source_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {

Result<SourceReader> SourceReader::Open(const Checkpoint& checkpoint) {
  SourceReader reader;
  for (const SafetensorsFile& shard : checkpoint.shards()) {
    const std::string& path = shard.file()->path();
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Errorf("{}: cannot open: {}", path, std::strerror(errno));
    const auto begin = reinterpret_cast<uintptr_t>(shard.file()->data());
    reader.files_.push_back({begin, begin + shard.file()->size(), fd, path});
  }
  return reader;
}

SourceReader::~SourceReader() {
  for (const File& file : files_) close(file.fd);
}

const SourceReader::File* SourceReader::Holding(const std::byte* data) const {
  const auto at = reinterpret_cast<uintptr_t>(data);
  const auto holds = [at](const File& f) { return at >= f.begin && at < f.end; };
  const auto found = std::find_if(files_.begin(), files_.end(), holds);
  return found == files_.end() ? nullptr : &*found;
}

Status SourceReader::Read(const std::byte* data, int64_t bytes, std::byte* out) const {
  const File* file = Holding(data);
  if (file == nullptr) {
    std::memcpy(out, data, static_cast<size_t>(bytes));
    return {};
  }
  auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(data) - file->begin);
  while (bytes > 0) {
    const ssize_t got = pread(file->fd, out, static_cast<size_t>(bytes), at);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return Errorf("{}: cannot read: it has become shorter", file->path);
    if (got < 0) return Errorf("{}: cannot read: {}", file->path, std::strerror(errno));
    out += got;
    at += got;
    bytes -= got;
  }
  return {};
}

void SourceReader::Prefetch(const std::byte* data, int64_t bytes) const {
  const File* file = Holding(data);
  if (file == nullptr) return;
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(data) - file->begin);
  posix_fadvise(file->fd, at, bytes, POSIX_FADV_WILLNEED);
}

}  // namespace minimo
