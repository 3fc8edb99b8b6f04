// A pattern of a tokenizer.json, matched as Oniguruma matches it. Immutable; usable from any thread at once.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo {

class Regex {
 public:
  static Result<std::unique_ptr<const Regex>> Compile(std::string_view pattern);
  // Matches `text` as it stands.
  static Result<std::unique_ptr<const Regex>> CompileLiteral(std::string_view text);
  ~Regex();

  // Calls `on_match` with the byte range [begin, end) of each match, in order, none overlapping; an empty match is
  // given unless it follows a match immediately. Requires valid UTF-8. Fails if the pattern needs too much time or
  // memory.
  Status FindAll(std::string_view text, const std::function<void(size_t begin, size_t end)>& on_match) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace minimo
