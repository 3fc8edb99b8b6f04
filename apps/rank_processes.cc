#include "apps/rank_processes.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace minimo {
namespace {

namespace fs = std::filesystem;

std::string Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// 0 if the process is gone.
pid_t ParentOf(pid_t pid) {
  const std::string stat = Read(fs::path("/proc") / std::to_string(pid) / "stat");  // pid (name) state parent ...
  const size_t name_ends = stat.rfind(')');
  return name_ends == std::string::npos || stat.size() < name_ends + 4 ? 0 : std::atoi(stat.c_str() + name_ends + 4);
}

// Of a process that has ended and is not yet waited for the environment is empty.
bool HasRank(pid_t pid) {
  const std::string environment = '\0' + Read(fs::path("/proc") / std::to_string(pid) / "environ");
  for (const char* name : {"OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK="}) {
    if (environment.find('\0' + std::string(name)) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

std::vector<pid_t> RanksBelow(pid_t launcher) {
  std::multimap<pid_t, pid_t> children;
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error), end; !error && entry != end; entry.increment(error)) {
    const pid_t pid = std::atoi(entry->path().filename().c_str());
    if (pid > 0) children.emplace(ParentOf(pid), pid);
  }
  std::vector<pid_t> below = {launcher}, ranks;
  for (size_t i = 0; i < below.size(); ++i) {
    const auto [first, last] = children.equal_range(below[i]);
    for (auto child = first; child != last; ++child) {
      below.push_back(child->second);
      if (HasRank(child->second)) ranks.push_back(child->second);
    }
  }
  return ranks;
}

}  // namespace minimo
