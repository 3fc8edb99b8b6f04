#include "bench/progress.h"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

#include "base/clock.h"

namespace minimo::bench {
namespace {

constexpr double kTerminalEveryS = 0.2;
constexpr double kPlainEveryS = 5.0;

double NowS() { return static_cast<double>(SteadyClock().NowUs()) * 1e-6; }

}  // namespace

ProgressLine::ProgressLine(bool enabled) : enabled_(enabled), terminal_(isatty(STDERR_FILENO) != 0), start_s_(NowS()) {
  last_s_ = terminal_ ? 0 : start_s_;
}

ProgressLine::~ProgressLine() {
  if (dirty_ && terminal_) std::fputs("\r\033[K", stderr);
}

bool ProgressLine::Due() const {
  return enabled_ && NowS() - last_s_ >= (terminal_ ? kTerminalEveryS : kPlainEveryS);
}

void ProgressLine::Show(const std::string& text) {
  if (!enabled_) return;
  last_s_ = NowS();
  dirty_ = true;
  const std::string line = terminal_ ? fmt::format("\r\033[K{}", text) : text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

double ProgressLine::elapsed_s() const { return NowS() - start_s_; }

std::string FormatSeconds(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f}s", seconds);
  const int whole = static_cast<int>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}m {:02}s", whole / 60, whole % 60);
  return fmt::format("{}h {:02}m", whole / 3600, whole / 60 % 60);
}

}  // namespace minimo::bench
