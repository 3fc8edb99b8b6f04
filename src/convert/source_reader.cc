#include "convert/source_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {
namespace {

constexpr int64_t kDirectBytes = int64_t{256} << 10;  // less is read with its neighbours through the page cache
constexpr int64_t kBufferBytes = int64_t{1} << 20;    // of what was not asked for, at a time

}  // namespace

Result<SourceReader> SourceReader::Open(const Checkpoint& checkpoint) {
  SourceReader reader;
  for (const SafetensorsFile& shard : checkpoint.shards()) {
    const std::string& path = shard.file()->path();
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Errorf("{}: cannot open: {}", path, std::strerror(errno));
    const int direct = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    const auto begin = reinterpret_cast<uintptr_t>(shard.file()->data());
    reader.files_.push_back({begin, begin + shard.file()->size(), fd, direct, path});
  }
  reader.ahead_ = std::make_unique<ReadAhead>();
  return reader;
}

SourceReader::~SourceReader() {
  ahead_.reset();  // its threads read from the files
  for (const File& file : files_) {
    close(file.fd);
    if (file.direct >= 0) close(file.direct);
  }
}

const SourceReader::File* SourceReader::Holding(const std::byte* data) const {
  const auto at = reinterpret_cast<uintptr_t>(data);
  const auto holds = [at](const File& f) { return at >= f.begin && at < f.end; };
  const auto found = std::find_if(files_.begin(), files_.end(), holds);
  return found == files_.end() ? nullptr : &*found;
}

Status SourceReader::Stream(const std::byte* data, int64_t bytes, const Use& use) const {
  const File* file = Holding(data);
  if (file == nullptr) {
    (void)use({data, static_cast<size_t>(bytes)});
    return {};
  }
  bool more = true;
  while (more && bytes > 0) {
    const auto lent = [&](std::span<const std::byte> piece) { more = use(piece); };
    MINIMO_ASSIGN(const int64_t taken, ahead_->Take(reinterpret_cast<uintptr_t>(data), bytes, lent));
    if (taken == 0) break;
    data += taken;
    bytes -= taken;
  }
  auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(data) - file->begin);
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(bytes, kBufferBytes)));
  while (more && bytes > 0) {
    const ssize_t got = pread(file->fd, buffer.data(), std::min<size_t>(buffer.size(), bytes), at);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return Errorf("{}: cannot read: it has become shorter", file->path);
    if (got < 0) return Errorf("{}: cannot read: {}", file->path, std::strerror(errno));
    more = use({buffer.data(), static_cast<size_t>(got)});
    at += got;
    bytes -= got;
  }
  return {};
}

Status SourceReader::Read(const std::byte* data, int64_t bytes, std::byte* out) const {
  return Stream(data, bytes, [&out](std::span<const std::byte> piece) {
    std::memcpy(out, piece.data(), piece.size());
    out += piece.size();
    return true;
  });
}

void SourceReader::Prefetch(const std::byte* data, int64_t bytes) const {
  const File* file = Holding(data);
  if (file == nullptr) return;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto at = static_cast<off_t>(address - file->begin);
  if (bytes >= kDirectBytes) {
    ahead_->Ask(address, bytes, file->direct >= 0 ? file->direct : file->fd, at, file->path);
  } else {
    posix_fadvise(file->fd, at, bytes, POSIX_FADV_WILLNEED);
  }
}

}  // namespace minimo
