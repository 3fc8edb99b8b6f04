#include "bench/environment.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include <fmt/format.h>

#include "base/thread_team.h"
#include "minimo_commit.h"

namespace minimo::bench {
namespace {

std::string CpuModel() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.rfind("model name", 0) == 0) return value;
  }
  return "unknown";
}

// Arguments with spaces or shell characters in single quotes, so that the line can be pasted.
std::string CommandLine() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::string out;
  for (std::string argument; std::getline(in, argument, '\0');) {
    const bool plain = !argument.empty() && argument.find_first_of(" \t\n\"'$&|;<>()*?\\`{}[]#~!") == std::string::npos;
    if (!out.empty()) out += ' ';
    out += plain ? argument : "'" + argument + "'";
  }
  return out;
}

std::string Output(const char* command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command, "r"), pclose);
  std::string out;
  char buffer[4096];
  while (pipe && std::fgets(buffer, sizeof buffer, pipe.get()) != nullptr) out += buffer;
  return out;
}

std::vector<Gpu> Gpus() {
  std::vector<Gpu> gpus;
  std::istringstream lines(
      Output("nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader,nounits 2>/dev/null"));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(", ");
    const size_t second = line.find(", ", first + 2);
    if (first == std::string::npos || second == std::string::npos) continue;
    Gpu gpu{line.substr(0, first), line.substr(first + 2, second - first - 2), 0};
    int64_t mib = 0;
    std::from_chars(line.data() + second + 2, line.data() + line.size(), mib);
    gpu.memory_bytes = mib << 20;
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

// Read-only streams of 8 GB on each, medians of small CUDA programs (docs/benchmarks.md).
struct KnownGpu {
  const char* part_of_name;
  double read_gbs;
};
constexpr KnownGpu kKnownGpus[] = {{"H200", 4540}, {"H100", 3110}};

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

std::string BuildCommit() { return MINIMO_COMMIT; }

Environment CollectEnvironment() {
  Environment e;
  e.commit = BuildCommit();
  e.command = CommandLine();
  e.date = UtcNow();
  utsname name{};
  if (uname(&name) == 0) {
    e.host = name.nodename;
    e.os = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  }
  e.cpu = CpuModel();
  e.cores = AvailableCores();
  e.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  e.gpus = Gpus();
  return e;
}

double GpuReadGbs(const Environment& e) {
  for (const KnownGpu& known : kKnownGpus) {
    if (!e.gpus.empty() && e.gpus[0].name.find(known.part_of_name) != std::string::npos) return known.read_gbs;
  }
  return 0;
}

nlohmann::json ToJson(const Environment& e) {
  nlohmann::json json = {{"commit", e.commit}, {"command", e.command}, {"date", e.date},
                         {"host", e.host},     {"os", e.os},           {"cpu", e.cpu},
                         {"cores", e.cores},   {"memory_bytes", e.memory_bytes}};
  json["gpus"] = nlohmann::json::array();
  for (const Gpu& gpu : e.gpus) {
    json["gpus"].push_back({{"name", gpu.name}, {"driver", gpu.driver}, {"memory_bytes", gpu.memory_bytes}});
  }
  if (e.memory_bandwidth) {
    const MemoryBandwidth& b = *e.memory_bandwidth;
    json["memory_read_bandwidth"] = {{"best_gbs", b.best_gbs},         {"median_gbs", b.median_gbs},
                                     {"worst_gbs", b.worst_gbs},       {"threads", b.threads},
                                     {"passes", b.passes},             {"streams", b.streams},
                                     {"buffer_bytes", b.buffer_bytes}, {"huge_pages", b.huge_pages}};
  }
  return json;
}

std::string Describe(const Environment& e) {
  std::string text = fmt::format("minimo {}, {}\n{}, {} cores, {:.0f} GB", e.commit, e.date, e.cpu, e.cores,
                                 static_cast<double>(e.memory_bytes) * 1e-9);
  if (e.memory_bandwidth) {
    text += fmt::format(", reads {:.1f} GB/s (best of {}, median {:.1f}, {} threads)", e.memory_bandwidth->best_gbs,
                        e.memory_bandwidth->passes, e.memory_bandwidth->median_gbs, e.memory_bandwidth->threads);
  }
  for (const Gpu& gpu : e.gpus) text += fmt::format("\n{}, driver {}", gpu.name, gpu.driver);
  return text + "\n";
}

}  // namespace minimo::bench
