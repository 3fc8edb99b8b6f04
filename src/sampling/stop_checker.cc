#include "sampling/stop_checker.h"

#include <algorithm>
#include <utility>

namespace minimo {

StopChecker::StopChecker(std::vector<std::string> stops, bool include_in_output)
    : include_in_output_(include_in_output) {
  for (std::string& text : stops) {
    if (text.empty()) continue;
    Pattern pattern;
    pattern.border.assign(text.size(), 0);
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = pattern.border[k - 1];
      if (text[i] == text[k]) ++k;
      pattern.border[i] = k;
    }
    pattern.text = std::move(text);
    patterns_.push_back(std::move(pattern));
  }
}

StopChecker::Output StopChecker::Push(std::string_view delta, bool check) {
  Output output;
  if (stopped_) return output;
  if (!check || patterns_.empty()) {
    output.text = Flush();
    output.text += delta;
    return output;
  }
  for (const char c : delta) {
    held_ += c;
    const Pattern* complete = nullptr;
    for (Pattern& pattern : patterns_) {
      size_t& k = pattern.matched;
      while (k > 0 && pattern.text[k] != c) k = pattern.border[k - 1];
      if (pattern.text[k] == c) ++k;
      if (k == pattern.text.size() && (complete == nullptr || k > complete->text.size())) complete = &pattern;
    }
    if (complete != nullptr) {
      stopped_ = true;
      output.stopped = true;
      output.stop_string = complete->text;
      output.text = std::move(held_);
      held_.clear();
      if (!include_in_output_) output.text.resize(output.text.size() - complete->text.size());
      return output;
    }
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.matched);
  output.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return output;
}

std::string StopChecker::Flush() {
  for (Pattern& pattern : patterns_) pattern.matched = 0;
  return std::exchange(held_, {});
}

}  // namespace minimo
