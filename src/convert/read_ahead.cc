#include "convert/read_ahead.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace minimo {
namespace {

// At least `wanted` bytes of up to `bytes`; the file may end between the two.
Status ReadBlock(int fd, const std::string& path, int64_t offset, int64_t bytes, int64_t wanted, std::byte* out) {
  int64_t at = 0;
  while (at < wanted) {
    const ssize_t got = pread(fd, out + at, static_cast<size_t>(bytes - at), offset + at);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return Errorf("{}: cannot read: it has become shorter", path);
    if (got < 0) return Errorf("{}: cannot read: {}", path, std::strerror(errno));
    at += got;
  }
  return {};
}

}  // namespace

ReadAhead::ReadAhead() {
  for (int i = 0; i < kReaders; ++i) readers_.emplace_back([this] { Loop(); });
}

ReadAhead::~ReadAhead() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& reader : readers_) reader.join();
}

void ReadAhead::Ask(uintptr_t at, int64_t bytes, int fd, int64_t offset, const std::string& path) {
  std::lock_guard lock(mutex_);
  while (bytes > 0) {
    const int64_t part = std::min(bytes, kBlockBytes);
    const auto [piece, is_new] = pieces_.try_emplace(at, Piece{fd, offset, &path, part, part, {}});
    if (is_new) to_read_.push_back(&piece->second);
    at += static_cast<uintptr_t>(part);
    offset += part;
    bytes -= part;
  }
  changed_.notify_all();
}

Result<int64_t> ReadAhead::Take(uintptr_t at, int64_t bytes,
                                const std::function<void(std::span<const std::byte>)>& use) {
  std::unique_lock lock(mutex_);
  const auto after = pieces_.upper_bound(at);
  if (after == pieces_.begin()) return 0;
  const auto found = std::prev(after);
  Piece& piece = found->second;
  const auto skip = static_cast<int64_t>(at - found->first);
  if (skip >= piece.bytes) return 0;
  changed_.wait(lock, [&] { return piece.ready; });
  if (!piece.status.ok()) return piece.status.error();
  const int64_t part = std::min(bytes, piece.bytes - skip);
  lock.unlock();
  use({piece.block.data.get() + piece.offset % kBlockAlignment + skip, static_cast<size_t>(part)});
  lock.lock();
  piece.left -= part;
  if (piece.left > 0) return part;
  spare_.push_back(std::move(piece.block));
  pieces_.erase(found);
  --blocks_;
  changed_.notify_all();
  return part;
}

void ReadAhead::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return closing_ || (!to_read_.empty() && blocks_ < kBlocks); });
    if (closing_) return;
    Piece& piece = *to_read_.front();
    to_read_.pop_front();
    ++blocks_;
    if (!spare_.empty()) {
      piece.block = std::move(spare_.back());
      spare_.pop_back();
    }
    lock.unlock();
    if (!piece.block.data) piece.block = AlignedBlock::Make(kBlockBytes + 2 * kBlockAlignment);
    const int64_t lead = piece.offset % kBlockAlignment, wanted = lead + piece.bytes;
    const int64_t whole = (wanted + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
    Status status = ReadBlock(piece.fd, *piece.path, piece.offset - lead, whole, wanted, piece.block.data.get());
    lock.lock();
    piece.status = std::move(status);
    piece.ready = true;
    changed_.notify_all();
  }
}

}  // namespace minimo
