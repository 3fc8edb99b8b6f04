#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace minimo {

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Errorf("{}: cannot open: {}", path, std::strerror(errno));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Errorf("{}: not a regular file", path);
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* data = nullptr;
  if (size > 0) {
    data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      const int fault = errno;
      close(fd);
      return Errorf("{}: cannot map {} bytes: {}", path, size, std::strerror(fault));
    }
  }
  close(fd);
  return std::shared_ptr<const MappedFile>(new MappedFile(path, static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::ReadAhead(bool on) const {
  if (data_ != nullptr) (void)madvise(const_cast<std::byte*>(data_), size_, on ? MADV_NORMAL : MADV_RANDOM);
}

Result<std::string> ReadTextFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Errorf("{}: cannot open: {}", path, std::strerror(errno));
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return Errorf("{}: a folder; expected a file", path);
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) return Errorf("{}: cannot read: {}", path, std::strerror(errno));
  return std::move(text).str();
}

}  // namespace minimo
