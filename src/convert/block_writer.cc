#include "convert/block_writer.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace minimo {
namespace {

Status WriteAll(int fd, const std::string& path, int64_t offset, const AlignedBlock& block) {
  // A file's last block: its odd rest goes through the page cache.
  const auto buffered = [&] { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT); };
  if (block.size % kBlockAlignment != 0) buffered();
  size_t at = 0;
  while (at < block.size) {
    const ssize_t written = pwrite(fd, block.data.get() + at, block.size - at, offset + static_cast<int64_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EINVAL && (fcntl(fd, F_GETFL) & O_DIRECT) && buffered() == 0) continue;
    if (written <= 0) return Errorf("{}: cannot write: {}", path, std::strerror(errno));
    at += static_cast<size_t>(written);
    if (at % kBlockAlignment != 0) buffered();
  }
  return {};
}

}  // namespace

WriteQueue::WriteQueue(size_t block_bytes) : block_bytes_(block_bytes) {
  for (int i = 0; i < kWriters; ++i) writers_.emplace_back([this] { Loop(); });
}

WriteQueue::~WriteQueue() { (void)Close(); }

AlignedBlock WriteQueue::TakeBlock() {
  {
    std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      AlignedBlock block = std::move(spare_.back());
      spare_.pop_back();
      block.size = 0;
      return block;
    }
  }
  return AlignedBlock::Make(block_bytes_);
}

bool WriteQueue::Push(int fd, const std::string& path, int64_t offset, AlignedBlock block) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.size() + writing_ < kDepth || !status_.ok(); });
  if (!status_.ok()) return false;
  queue_.push_back({fd, &path, offset, std::move(block)});
  changed_.notify_all();
  return true;
}

Status WriteQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& writer : writers_) {
    if (writer.joinable()) writer.join();
  }
  return status_;
}

void WriteQueue::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return !queue_.empty() || closing_; });
    if (queue_.empty()) return;
    Item item = std::move(queue_.front());
    queue_.pop_front();
    ++writing_;
    lock.unlock();
    Status written = WriteAll(item.fd, *item.path, item.offset, item.block);
    lock.lock();
    --writing_;
    spare_.push_back(std::move(item.block));
    if (!written.ok()) {
      if (status_.ok()) status_ = std::move(written);
      queue_.clear();
    }
    changed_.notify_all();
  }
}

Result<BlockFile> BlockFile::Create(const std::string& path, WriteQueue& queue) {
  const std::string temporary = path + ".tmp";
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  int fd = open(temporary.c_str(), flags | O_DIRECT, 0644);
  if (fd < 0 && errno == EINVAL) fd = open(temporary.c_str(), flags, 0644);  // a file system without it
  if (fd < 0) return Errorf("{}: cannot create: {}", temporary, std::strerror(errno));
  return BlockFile(path, fd, queue);
}

BlockFile::BlockFile(const std::string& path, int fd, WriteQueue& queue)
    : path_(std::make_unique<std::string>(path)), fd_(fd), queue_(&queue),
      hash_(XXH3_createState(), [](XXH3_state_t* state) { XXH3_freeState(state); }) {
  XXH3_64bits_reset(hash_.get());
}

BlockFile::BlockFile(BlockFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), queue_(other.queue_),
      block_(std::move(other.block_)), bytes_(other.bytes_), hash_(std::move(other.hash_)) {}

BlockFile::~BlockFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink((*path_ + ".tmp").c_str());
}

std::span<std::byte> BlockFile::Space() {
  if (!block_.data) block_ = queue_->TakeBlock();
  return {block_.data.get() + block_.size, queue_->block_bytes() - block_.size};
}

bool BlockFile::Commit(size_t bytes) {
  block_.size += bytes;
  bytes_ += static_cast<int64_t>(bytes);
  return block_.size < queue_->block_bytes() || PushBlock();
}

bool BlockFile::Append(const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const std::span<std::byte> space = Space();
    const size_t part = std::min(bytes, space.size());
    std::memcpy(space.data(), data, part);
    if (!Commit(part)) return false;
    data += part;
    bytes -= part;
  }
  return true;
}

bool BlockFile::Flush() { return !block_.data || block_.size == 0 || PushBlock(); }

bool BlockFile::PushBlock() {
  XXH3_64bits_update(hash_.get(), block_.data.get(), block_.size);
  const int64_t offset = bytes_ - static_cast<int64_t>(block_.size);
  return queue_->Push(fd_, *path_, offset, std::exchange(block_, {}));
}

Status BlockFile::Finish() {
  const std::string temporary = *path_ + ".tmp";
  if (fsync(fd_) != 0) return Errorf("{}: cannot sync: {}", *path_, std::strerror(errno));
  if (rename(temporary.c_str(), path_->c_str()) != 0) {
    return Errorf("{}: cannot rename to it: {}", *path_, std::strerror(errno));
  }
  close(std::exchange(fd_, -1));
  return {};
}

std::string BlockFile::checksum() const { return fmt::format("{:016x}", XXH3_64bits_digest(hash_.get())); }

}  // namespace minimo
