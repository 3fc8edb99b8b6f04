// Whether text stands in quotes or code, where a tag is spoken of and not meant: within a fenced block, within `code`
// or "quotes" opened on the same line, or right after a single quote that follows a space (others are apostrophes).
#pragma once

#include <string_view>

namespace minimo {

class CodeContext {
 public:
  void Add(std::string_view text) {
    for (const char c : text) Add(c);
  }

  bool Quoted() const {
    return in_fence_ || in_code_ || in_quotes_ ||
           (last_ == '\'' && (before_ == ' ' || before_ == '\n' || before_ == '('));
  }

 private:
  void Add(char c) {
    if (c == '`') {
      if (++backticks_ == 3) {
        // Three backticks open or close a block; what they did as single ones is undone.
        in_fence_ = !in_fence_;
        in_code_ = false;
      } else {
        in_code_ = !in_code_;
      }
    } else {
      backticks_ = 0;
    }
    if (c == '"') in_quotes_ = !in_quotes_;
    if (c == '\n') in_code_ = in_quotes_ = false;
    before_ = last_;
    last_ = c;
  }

  char before_ = '\n';
  char last_ = '\n';
  int backticks_ = 0;
  bool in_fence_ = false;
  bool in_code_ = false;
  bool in_quotes_ = false;
};

}  // namespace minimo
