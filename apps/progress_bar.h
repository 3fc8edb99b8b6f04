// Progress of long work in bytes, on standard error: a bar with rate and time left on a terminal, a plain line every
// few seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace minimo {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // ends the line
  void Show(int64_t done, int64_t total);

 private:
  std::string label_;
  bool terminal_;
  int64_t began_us_;
  int64_t shown_us_ = 0;
  bool open_line_ = false;
};

}  // namespace minimo
