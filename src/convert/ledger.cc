#include "convert/ledger.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {
namespace fs = std::filesystem;

std::string Ledger::PathIn(const std::string& folder) { return (fs::path(folder) / "minimo-convert.json").string(); }

Result<std::optional<Ledger>> Ledger::Read(const std::string& folder) {
  const std::string path = PathIn(folder);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::optional<Ledger>();
  MINIMO_ASSIGN(const std::string text, ReadTextFile(path));
  Ledger ledger;
  try {
    const auto json = nlohmann::json::parse(text);
    ledger.request = json.at("request");
    ledger.source = json.at("source");
    ledger.files = json.at("files");
    ledger.relative_error = json.value("relative_error", std::vector<double>());
    for (const auto& file : json.at("done")) {
      ledger.done.push_back({file.at("file"), file.at("bytes"), file.at("xxh3"), file.at("layer_error")});
    }
  } catch (const nlohmann::json::exception& fault) {
    return Errorf("{}: damaged ({}); delete the folder and convert again", path, fault.what());
  }
  return std::optional<Ledger>(std::move(ledger));
}

Status Ledger::Write(const std::string& folder) const {
  nlohmann::ordered_json json = {{"request", request}, {"source", source}, {"files", files}};
  json["done"] = nlohmann::json::array();
  for (const FileRecord& file : done) {
    json["done"].push_back({{"file", file.file}, {"bytes", file.bytes}, {"xxh3", file.xxh3},
                            {"layer_error", file.layer_error}});
  }
  if (!relative_error.empty()) json["relative_error"] = relative_error;
  if (quality) {
    json["text"] = {{"file", text}, {"tokens", quality->tokens}, {"source_perplexity", quality->source_perplexity},
                    {"perplexity", quality->perplexity}, {"kl_divergence", quality->kl_divergence},
                    {"same_choice", quality->same_choice}};
  }
  return WriteFileAtomically(PathIn(folder), json.dump(1) + "\n");
}

Result<std::string> SourceFingerprint(const std::string& folder) {
  std::error_code fault;
  std::vector<std::string> lines;
  for (const auto& entry : fs::directory_iterator(folder, fault)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".safetensors" && extension != ".json") continue;
    const auto time = fs::last_write_time(entry.path(), fault).time_since_epoch().count();
    lines.push_back(
        fmt::format("{} {} {}", entry.path().filename().string(), fs::file_size(entry.path(), fault), time));
  }
  if (fault) return Errorf("{}: cannot list: {}", folder, fault.message());
  std::sort(lines.begin(), lines.end());
  const std::string all = fmt::format("{}", fmt::join(lines, "\n"));
  return fmt::format("{:016x}", XXH3_64bits(all.data(), all.size()));
}

Result<std::string> FileChecksum(const std::string& path, const std::function<bool(int64_t)>& progress) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Errorf("{}: cannot open: {}", path, std::strerror(errno));
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(size_t{8} << 20);
  int64_t total = 0;
  while (true) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 || (progress && !progress(total))) {
      close(fd);
      return Errorf("{}: {}", path, got < 0 ? std::strerror(errno) : "interrupted");
    }
    if (got == 0) break;
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(got));
    total += got;
  }
  close(fd);
  return fmt::format("{:016x}", XXH3_64bits_digest(state.get()));
}

Status WriteFileAtomically(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Errorf("{}: cannot create: {}", temporary, std::strerror(errno));
  const bool whole = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  const int fault = errno;
  close(fd);
  if (!whole || rename(temporary.c_str(), path.c_str()) != 0) {
    unlink(temporary.c_str());
    return Errorf("{}: cannot write: {}", path, std::strerror(fault ? fault : EIO));
  }
  return {};
}

}  // namespace minimo
