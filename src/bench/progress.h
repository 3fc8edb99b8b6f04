// A line about long work on standard error: rewritten in place on a terminal, a plain line now and then elsewhere.
#pragma once

#include <string>

namespace minimo::bench {

class ProgressLine {
 public:
  explicit ProgressLine(bool enabled);
  ~ProgressLine();  // clears or ends the line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // True if enough time has passed since the last Show for another to be worth printing.
  bool Due() const;
  void Show(const std::string& text);
  double elapsed_s() const;

 private:
  bool enabled_;
  bool terminal_;
  bool dirty_ = false;
  double start_s_;
  double last_s_ = 0;
};

// "1m 05s", "12.3s".
std::string FormatSeconds(double seconds);

}  // namespace minimo::bench
