#include "apps/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"

namespace minimo {
namespace {

constexpr int64_t kTerminalUs = 100'000;
constexpr int64_t kPlainUs = 5'000'000;
constexpr int kWidth = 30;

}  // namespace

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0), began_us_(SteadyClock().NowUs()) {
  shown_us_ = terminal_ ? 0 : began_us_;  // plain lines only for what takes a while
}

ProgressBar::~ProgressBar() {
  if (open_line_) fmt::print(stderr, "\n");
}

void ProgressBar::Show(int64_t done, int64_t total) {
  const int64_t now = SteadyClock().NowUs();
  const bool last = done >= total && open_line_;
  if (!last && now - shown_us_ < (terminal_ ? kTerminalUs : kPlainUs)) return;
  shown_us_ = now;
  const double seconds = std::max(1e-6, static_cast<double>(now - began_us_) * 1e-6);
  const double rate = static_cast<double>(done) / seconds;
  const double left = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  const std::string text = fmt::format("{:5.1f} %  {:.2f} of {:.2f} GB  {:.2f} GB/s  {:.0f} s left", 100 * share,
                                       static_cast<double>(done) * 1e-9, static_cast<double>(total) * 1e-9, rate * 1e-9,
                                       left);
  if (terminal_) {
    const int filled = static_cast<int>(share * kWidth);
    fmt::print(stderr, "\r{} [{:=<{}}{: <{}}] {} ", label_, "", filled, "", kWidth - filled, text);
    open_line_ = true;
  } else {
    fmt::print(stderr, "{}: {}\n", label_, text);
  }
  std::fflush(stderr);
}

}  // namespace minimo
