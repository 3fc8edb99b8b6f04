#include "bench/memory_bandwidth.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>

#include "base/error.h"

namespace minimo::bench {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kMostStreams = 4;
constexpr int64_t kGrain = kLine * kMostStreams;
// Hardware follows a stream to the end of a page of 4 KB; this goes on beyond.
constexpr int64_t kAhead = 8192;

// What every machine has in a register: GCC keeps the halves of wider ones on the stack, a third of the speed.
using Vector = uint64_t __attribute__((vector_size(16)));
constexpr int kVectors = kLine / sizeof(Vector);

// XOR of everything, so that no load can be left out. One part is walked through in kStreams places at once: which is
// faster, one or several, depends on the machine.
template <int64_t kStreams>
uint64_t ReadPart(const std::byte* begin, int64_t bytes) {
  const int64_t stream = bytes / kStreams;
  Vector sums[kVectors * kStreams] = {};
  for (int64_t at = 0; at < stream; at += kLine) {
    for (int64_t s = 0; s < kStreams; ++s) {
      const auto* line = reinterpret_cast<const Vector*>(begin + s * stream + at);
      if (kStreams == 1) __builtin_prefetch(begin + at + kAhead);
      for (int i = 0; i < kVectors; ++i) sums[kVectors * s + i] ^= line[i];
    }
  }
  uint64_t all = 0;
  for (const Vector& v : sums) all ^= v[0] ^ v[1];
  return all;
}

int64_t FreeMemoryBytes() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  while (in >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    in.ignore(256, '\n');
  }
  return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

bool HasHugePages(const void* address) {
  std::ifstream in("/proc/self/smaps");
  const std::string start = fmt::format("{:x}-", reinterpret_cast<uintptr_t>(address));
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, start.size(), start) == 0) inside = true;
    if (inside && line.compare(0, 14, "AnonHugePages:") == 0) return std::stoll(line.substr(14)) > 0;
  }
  return false;
}

}  // namespace

double ReadGbs(ThreadTeam& team, const std::byte* begin, int64_t bytes, int streams) {
  static std::atomic<uint64_t> sink{0};
  const int64_t part = bytes / team.size() / kGrain * kGrain;  // a thread's
  const auto start = std::chrono::steady_clock::now();
  team.Run([&](int member) {
    const std::byte* mine = begin + member * part;
    sink ^= streams == 1 ? ReadPart<1>(mine, part) : ReadPart<kMostStreams>(mine, part);
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return static_cast<double>(part * team.size()) / took.count() * 1e-9;
}

Result<MemoryBandwidth> MeasureMemoryBandwidth(const MemoryBandwidthOptions& options) {
  ThreadTeam team(options.threads);
  MemoryBandwidth result;
  result.threads = team.size();
  result.passes = std::max(1, options.passes);
  const int64_t wanted = std::min(options.buffer_bytes, FreeMemoryBytes() / 4);
  const int64_t part = wanted / team.size() / kGrain * kGrain;  // a thread's
  if (part <= 0) return Errorf("a read test of {} bytes on {} threads: too small", wanted, team.size());
  result.buffer_bytes = part * team.size();
  void* memory = mmap(nullptr, static_cast<size_t>(result.buffer_bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Errorf("no memory for a read test of {} bytes", result.buffer_bytes);
  madvise(memory, static_cast<size_t>(result.buffer_bytes), MADV_HUGEPAGE);
  auto* bytes = static_cast<std::byte*>(memory);
  team.Run([&](int member) { std::memset(bytes + member * part, member + 1, static_cast<size_t>(part)); });
  result.huge_pages = HasHugePages(memory);

  constexpr std::array kStreams = {1, static_cast<int>(kMostStreams)};
  std::array<std::vector<double>, kStreams.size()> rates;
  for (int pass = 0; pass <= result.passes; ++pass) {
    for (size_t i = 0; i < kStreams.size(); ++i) {
      const double gbs = ReadGbs(team, bytes, result.buffer_bytes, kStreams[i]);
      if (pass > 0) rates[i].push_back(gbs);  // 0: warm-up
    }
  }
  munmap(memory, static_cast<size_t>(result.buffer_bytes));
  for (auto& of_one : rates) std::sort(of_one.begin(), of_one.end());
  const size_t faster = rates[0].back() > rates[1].back() ? 0 : 1;
  const auto& best = rates[faster];
  result.streams = kStreams[faster];
  result.best_gbs = best.back();
  result.median_gbs = best[best.size() / 2];
  result.worst_gbs = best.front();
  return result;
}

}  // namespace minimo::bench
