#include "apps/flag_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

namespace minimo {
namespace {

template <typename T>
bool Is(const std::string& text, T* value) {
  const char* end = text.data() + text.size();
  const auto [at, fault] = std::from_chars(text.data(), end, *value);
  return fault == std::errc() && at == end;
}

}  // namespace

CLI::Validator AtLeast(int64_t least) {
  const auto check = [least](std::string& text) {
    int64_t value;
    uint64_t large;  // a seed may be
    if (Is(text, &value) ? value >= least : Is(text, &large)) return std::string();
    return fmt::format("found {}, expected a whole number of at least {}", text, least);
  };
  return {check, fmt::format("at least {}", least)};
}

CLI::Validator NumberIn(double least, double most) {
  const auto check = [least, most](std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (end != text.c_str() && *end == '\0' && value >= least && value <= most) return std::string();
    return fmt::format("found {}, expected a number from {} to {}", text, least, most);
  };
  return {check, fmt::format("{} to {}", least, most)};
}

}  // namespace minimo
