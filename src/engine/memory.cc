#include "engine/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace minimo {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

int64_t MachineAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  for (int64_t kilobytes = 0; file >> name >> kilobytes; std::getline(file, unit)) {
    if (name == "MemAvailable:") return kilobytes * 1024;
  }
  return kUnknown;
}

// Control group version 2. "max" stands for no limit and does not parse.
int64_t GroupAvailable() {
  int64_t limit = 0, used = 0;
  if (!(std::ifstream("/sys/fs/cgroup/memory.max") >> limit)) return kUnknown;
  if (!(std::ifstream("/sys/fs/cgroup/memory.current") >> used)) return kUnknown;
  return std::max<int64_t>(limit - used, 0);
}

}  // namespace

int64_t AvailableMemoryBytes() {
  const int64_t bytes = std::min(MachineAvailable(), GroupAvailable());
  return bytes == kUnknown ? 0 : bytes;
}

}  // namespace minimo
