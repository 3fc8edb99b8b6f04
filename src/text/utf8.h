// UTF-8 helpers. "Lossy" means what Rust's String::from_utf8_lossy does: each maximal subpart of an ill-formed
// sequence (Unicode 3.9, "U+FFFD Substitution of Maximal Subparts") becomes one U+FFFD.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace minimo {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// One step of decoding at the front of `bytes`, which must not be empty.
struct Utf8Step {
  enum Kind {
    kValid,    // `size` bytes are a character
    kInvalid,  // `size` bytes are a maximal subpart of an ill-formed sequence
    kPartial,  // all `size` bytes, up to the end, may yet become a character
  };
  Kind kind = kInvalid;
  uint32_t size = 1;
};
Utf8Step NextUtf8(std::string_view bytes);

// The code point of a valid character at the front of `text`; `size` receives its length.
char32_t DecodeUtf8(std::string_view text, uint32_t* size);
void AppendUtf8(char32_t code_point, std::string* out);

bool IsValidUtf8(std::string_view bytes);
std::string ToValidUtf8(std::string_view bytes);

}  // namespace minimo
