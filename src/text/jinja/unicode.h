// Text as Python sees it: sequences of code points with Unicode's classes. Every string here is meant to be valid
// UTF-8; bytes that are not are read as U+FFFD one by one, never past the end.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace minimo::jinja {

bool ValidUtf8(std::string_view text);
char32_t DecodeAt(std::string_view text, size_t& position);  // advances position; requires position < size
void AppendUtf8(std::string& text, char32_t code_point);     // a surrogate or too large: U+FFFD
size_t CodePoints(std::string_view text);
size_t ByteOffset(std::string_view text, size_t code_points);  // of the code point with that index, or the end
std::u32string Decode(std::string_view text);
std::string Encode(std::u32string_view text);

// str.isspace and its sisters, of one code point.
bool IsSpace(char32_t c);
bool IsAlpha(char32_t c);
bool IsDecimal(char32_t c);
bool IsNumeric(char32_t c);
bool IsPrintable(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsTitle(char32_t c);
bool IsIdentifier(std::string_view text);                                          // str.isidentifier
inline bool IsWord(char32_t c) { return IsAlpha(c) || IsNumeric(c) || c == '_'; }  // \w

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);
std::string SwapCase(std::string_view text);

enum class Side { kLeft, kRight, kBoth };
// Without `chars`: white space.
std::string_view Strip(std::string_view text, std::optional<std::string_view> chars, Side side);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

}  // namespace minimo::jinja
