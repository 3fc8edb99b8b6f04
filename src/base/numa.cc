#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>

namespace minimo {
namespace {

constexpr unsigned long kMaskBits = 64;  // of one word: nodes 0 to 62 can be named (the kernel wants one bit more)

unsigned long MaskOf(int node) { return node >= 0 && node < 63 ? 1UL << node : 0; }

bool SetPolicy(int policy, unsigned long mask) {
  return syscall(SYS_set_mempolicy, policy, mask != 0 ? &mask : nullptr, mask != 0 ? kMaskBits : 0UL) == 0;
}

}  // namespace

std::vector<int> ParseCoreList(const std::string& text) {
  std::vector<int> cores;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    int first = 0;
    auto read = std::from_chars(at, end, first);
    if (read.ec != std::errc()) break;
    int last = first;
    if (read.ptr < end && *read.ptr == '-') {
      read = std::from_chars(read.ptr + 1, end, last);
      if (read.ec != std::errc()) break;
    }
    if (first < 0 || last >= CPU_SETSIZE) break;
    for (int core = first; core <= last; ++core) cores.push_back(core);
    if (read.ptr >= end || *read.ptr != ',') break;
    at = read.ptr + 1;
  }
  return cores;
}

std::vector<NumaNode> ReadNumaNodes(std::span<const int> usable, const std::string& root) {
  std::vector<NumaNode> nodes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    const std::string name = entry.path().filename();
    int id = 0;
    if (!name.starts_with("node")) continue;
    if (const auto read = std::from_chars(name.data() + 4, name.data() + name.size(), id);
        read.ec != std::errc() || read.ptr != name.data() + name.size()) {
      continue;
    }
    std::ifstream file(entry.path() / "cpulist");
    std::string list;
    std::getline(file, list);
    NumaNode node{id, {}};
    for (const int core : ParseCoreList(list)) {
      if (std::find(usable.begin(), usable.end(), core) != usable.end()) node.cores.push_back(core);
    }
    if (!node.cores.empty()) nodes.push_back(std::move(node));
  }
  std::sort(nodes.begin(), nodes.end(), [](const NumaNode& a, const NumaNode& b) { return a.id < b.id; });
  if (nodes.size() > kMaxNumaNodes) nodes.resize(kMaxNumaNodes);
  return nodes;
}

int NodeOfMemory(const void* page) {
  int node = -1;
  if (syscall(SYS_get_mempolicy, &node, nullptr, 0UL, page, MPOL_F_NODE | MPOL_F_ADDR) != 0) return -1;
  return node;
}

bool InterleaveMemory(void* data, int64_t bytes, std::span<const NumaNode> nodes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  unsigned long mask = 0;
  for (const NumaNode& node : nodes) mask |= MaskOf(node.id);
  if (begin >= end) return true;
  return syscall(SYS_mbind, begin, end - begin, MPOL_INTERLEAVE, &mask, kMaskBits, 0U) == 0;
}

bool KeepToNode(const NumaNode& node) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : node.cores) CPU_SET(core, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 && SetPolicy(MPOL_PREFERRED, MaskOf(node.id));
}

PlacePages::PlacePages(int node) : placed_(MaskOf(node) != 0 && SetPolicy(MPOL_PREFERRED, MaskOf(node))) {}

PlacePages::~PlacePages() {
  if (placed_) SetPolicy(MPOL_DEFAULT, 0);
}

}  // namespace minimo
