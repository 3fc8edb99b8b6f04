#include "server/ids.h"

#include <random>

#include "base/error.h"

namespace minimo::server {

std::string NewId(std::string_view prefix) {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return fmt::format("{}{:016x}{:08x}", prefix, generator(), static_cast<uint32_t>(generator()));
}

std::string SafeHeaderValue(std::string_view text) {
  std::string safe;
  for (char c : text) {
    if (safe.size() == 200) break;
    if (c >= ' ' && c <= '~') safe += c;
  }
  return safe;
}

}  // namespace minimo::server
