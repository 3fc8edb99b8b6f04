#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"
#include "checkpoint/safetensors.h"

namespace minimo {
namespace {

std::string Temporary(const std::string& path) { return path + ".tmp"; }

Status WriteAll(int fd, const std::string& path, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd, at, std::min<size_t>(bytes, size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Errorf("{}: cannot write: {}", path, std::strerror(errno));
    at += written;
    bytes -= static_cast<size_t>(written);
  }
  return {};
}

}  // namespace

std::string SafetensorsHeader(const std::vector<TensorDeclaration>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t at = 0;
  for (const TensorDeclaration& t : tensors) {
    header[t.name] = {{"dtype", NameOf(t.dtype)}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
    at += t.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + 63) / 64 * 64 - 8, ' ');  // the data begins on a cache line
  const uint64_t bytes = text.size();
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + text;
}

Result<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                    const std::vector<TensorDeclaration>& tensors,
                                                    const std::map<std::string, std::string>& metadata) {
  struct stat found {};
  if (stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode)) {  // a device would be replaced by a file
    return Errorf("{}: is not a regular file; name another", path);
  }
  const std::string temporary = Temporary(path);
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Errorf("{}: cannot create: {}", temporary, std::strerror(errno));
  int64_t expected = 0;
  for (const TensorDeclaration& t : tensors) expected += t.bytes();
  SafetensorsWriter writer(path, fd, expected);
  const std::string header = SafetensorsHeader(tensors, metadata);
  MINIMO_TRY(WriteAll(fd, path, header.data(), header.size()));
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), expected_(other.expected_),
      written_(other.written_) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(Temporary(path_).c_str());
}

Status SafetensorsWriter::Append(const void* data, size_t bytes) {
  written_ += static_cast<int64_t>(bytes);
  return WriteAll(fd_, path_, data, bytes);
}

Status SafetensorsWriter::Finish() {
  CHECK(written_ == expected_);
  if (fsync(fd_) != 0) return Errorf("{}: cannot sync: {}", path_, std::strerror(errno));
  if (rename(Temporary(path_).c_str(), path_.c_str()) != 0) {
    return Errorf("{}: cannot rename to it: {}", path_, std::strerror(errno));
  }
  close(std::exchange(fd_, -1));
  return {};
}

Status WriteSafetensors(const std::string& path, std::span<const NamedTensor> tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::vector<TensorDeclaration> declarations;
  for (const NamedTensor& t : tensors) declarations.push_back({t.name, t.view.dtype, t.view.shape});
  MINIMO_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(path, declarations, metadata));
  for (const NamedTensor& t : tensors) MINIMO_TRY(writer.Append(t.view.data, static_cast<size_t>(t.view.bytes())));
  return writer.Finish();
}

}  // namespace minimo
