// Finds added tokens (special or not) written out in a text, as the Hugging Face library's AddedVocabulary does.
// Immutable.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace minimo {

// One of tokenizer.json's "added_tokens".
struct AddedToken {
  std::string content;
  bool single_word = false;  // not where a word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // looked for in the normalized text
  bool special = false;      // left out by Decode with skip_special_tokens
};

// A set of tokens looked for together: leftmost first, of those the longest.
class AddedTokenMatcher {
 public:
  // `content` as it appears in the text to search (normalized, for normalized tokens). Empty content is never found.
  void Add(const AddedToken& token, std::string content, int32_t id);
  void Finish();  // after the last Add

  // Calls `on_text` with each stretch of plain text (not empty) and `on_token` with each token's id, in order.
  // `parse_special` false: special tokens stay plain text. Linear in the text.
  using OnText = std::function<void(std::string_view)>;
  using OnToken = std::function<void(int32_t)>;
  void Split(std::string_view text, bool parse_special, const OnText& on_text, const OnToken& on_token) const;

 private:
  struct Entry {
    std::string content;
    int32_t id;
    bool single_word, lstrip, rstrip, special;
  };
  const Entry* LongestAt(std::string_view text) const;

  std::vector<Entry> entries_;  // sorted by content
  std::array<bool, 256> first_bytes_{};
};

}  // namespace minimo
