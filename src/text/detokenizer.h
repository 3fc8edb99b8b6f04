// Turns tokens into text as they come. A value type of one thread; the tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>

#include "minimo/tokenizer.h"

namespace minimo {

class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens = false)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that `token` completes: whole characters, empty while one is still open. The texts of all Appends and the
  // last Flush, joined, are Tokenizer::Decode of all the tokens.
  std::string Append(int32_t token);

  // At the end: U+FFFD if a character is still open, else nothing.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string open_;  // the first bytes, at most 3, of a character that is not complete
};

}  // namespace minimo
