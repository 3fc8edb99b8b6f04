// Finds stop strings in text that arrives in pieces. What has been let out is the same however the text was cut.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace minimo {

// The first stop string to be complete ends the text; of several complete at one place, the one that began first.
class StopChecker {
 public:
  explicit StopChecker(std::vector<std::string> stops = {}, bool include_in_output = false);

  struct Output {
    std::string text;         // may be shown now
    bool stopped = false;     // a stop string is complete; later text is ignored
    std::string stop_string;  // which
  };

  // `delta`: whole UTF-8 characters. Text that may begin a stop string is held back. With check = false (before
  // min_tokens) the text passes unseen: no match may begin or end in it.
  Output Push(std::string_view delta, bool check = true);

  // The end of the text: what is held back.
  std::string Flush();

  bool stopped() const { return stopped_; }
  size_t held_back_bytes() const { return held_.size(); }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // Knuth-Morris-Pratt: longest proper border of text[0, i]
    size_t matched = 0;          // the last `matched` bytes seen are text[0, matched)
  };

  std::vector<Pattern> patterns_;
  bool include_in_output_;
  bool stopped_ = false;
  std::string held_;
};

}  // namespace minimo
