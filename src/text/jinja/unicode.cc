#include "text/jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace minimo::jinja {
namespace {

constexpr char32_t kReplacement = 0xfffd;

utf8proc_category_t Category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

struct SpecialCase {
  char32_t letter;
  std::u32string_view upper;
  std::u32string_view title;
};

constexpr SpecialCase kSpecialCases[] = {
#include "text/jinja/special_casing.inc"
};

const SpecialCase* FindSpecial(char32_t c) {
  if (c < 0xdf) return nullptr;
  const auto found = std::lower_bound(std::begin(kSpecialCases), std::end(kSpecialCases), c,
                                      [](const SpecialCase& row, char32_t letter) { return row.letter < letter; });
  return found != std::end(kSpecialCases) && found->letter == c ? found : nullptr;
}

bool IsCased(char32_t c) { return IsUpper(c) || IsLower(c) || IsTitle(c); }

void AppendUpper(std::string& out, char32_t c) {
  if (const SpecialCase* special = FindSpecial(c)) {
    out += Encode(special->upper);
  } else {
    AppendUtf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void AppendTitle(std::string& out, char32_t c) {
  if (const SpecialCase* special = FindSpecial(c)) {
    out += Encode(special->title);
  } else {
    AppendUtf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

// A capital sigma that ends a word becomes the final form.
void AppendLower(std::string& out, std::u32string_view text, size_t i) {
  const char32_t c = text[i];
  if (c == 0x130) {
    out += "i\xcc\x87";
  } else if (c == 0x3a3 && i > 0 && IsCased(text[i - 1]) && (i + 1 == text.size() || !IsCased(text[i + 1]))) {
    AppendUtf8(out, 0x3c2);
  } else {
    AppendUtf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

char32_t DecodeAt(std::string_view text, size_t& position) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(position);
  if (lead < 0x80) {
    ++position;
    return lead;
  }
  utf8proc_int32_t c = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position;
  const auto used =
      utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(std::min<size_t>(4, text.size() - position)), &c);
  if (used <= 0) {
    ++position;
    return kReplacement;
  }
  position += static_cast<size_t>(used);
  return static_cast<char32_t>(c);
}

bool ValidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (DecodeAt(text, i) == kReplacement && text.substr(start, 3) != "\xef\xbf\xbd") return false;
  }
  return true;
}

void AppendUtf8(std::string& text, char32_t c) {
  if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) c = kReplacement;
  utf8proc_uint8_t bytes[4];
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

size_t CodePoints(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

size_t ByteOffset(std::string_view text, size_t code_points) {
  size_t i = 0;
  for (; i < text.size(); ++i) {
    if ((text[i] & 0xc0) != 0x80 && code_points-- == 0) break;
  }
  return i;
}

std::u32string Decode(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) out.push_back(DecodeAt(text, i));
  return out;
}

std::string Encode(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) AppendUtf8(out, c);
  return out;
}

bool IsSpace(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool IsAlpha(char32_t c) {
  const auto category = Category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimal(char32_t c) { return Category(c) == UTF8PROC_CATEGORY_ND; }

bool IsNumeric(char32_t c) {
  const auto category = Category(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  const auto category = Category(c);
  return category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS;
}

bool IsUpper(char32_t c) { return Category(c) == UTF8PROC_CATEGORY_LU; }
bool IsLower(char32_t c) { return Category(c) == UTF8PROC_CATEGORY_LL || c == 0xaa || c == 0xba; }
bool IsTitle(char32_t c) { return Category(c) == UTF8PROC_CATEGORY_LT; }

bool IsIdentifier(std::string_view text) {
  if (text.empty()) return false;
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = DecodeAt(text, i);
    const auto category = Category(c);
    const bool start = c == '_' || IsAlpha(c) || category == UTF8PROC_CATEGORY_NL;
    const bool inside = start || category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                        category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_PC || c == 0xb7;
    if (first ? !start : !inside) return false;
  }
  return true;
}

std::string Upper(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) AppendUpper(out, DecodeAt(text, i));
  return out;
}

std::string Lower(std::string_view text) {
  const std::u32string decoded = Decode(text);
  std::string out;
  for (size_t i = 0; i < decoded.size(); ++i) AppendLower(out, decoded, i);
  return out;
}

std::string Capitalize(std::string_view text) {
  const std::u32string decoded = Decode(text);
  std::string out;
  for (size_t i = 0; i < decoded.size(); ++i) {
    if (i == 0) {
      AppendTitle(out, decoded[0]);
    } else {
      AppendLower(out, decoded, i);
    }
  }
  return out;
}

std::string Title(std::string_view text) {
  const std::u32string decoded = Decode(text);
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < decoded.size(); ++i) {
    if (in_word) {
      AppendLower(out, decoded, i);
    } else {
      AppendTitle(out, decoded[i]);
    }
    in_word = IsCased(decoded[i]);
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  const std::u32string decoded = Decode(text);
  std::string out;
  for (size_t i = 0; i < decoded.size(); ++i) {
    if (IsUpper(decoded[i])) {
      AppendLower(out, decoded, i);
    } else if (IsLower(decoded[i])) {
      AppendUpper(out, decoded[i]);
    } else {
      AppendUtf8(out, decoded[i]);
    }
  }
  return out;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> chars, Side side) {
  const std::u32string set = chars ? Decode(*chars) : std::u32string();
  const auto drop = [&](char32_t c) { return chars ? set.find(c) != set.npos : IsSpace(c); };
  if (side != Side::kRight) {
    while (!text.empty()) {
      size_t next = 0;
      if (!drop(DecodeAt(text, next))) break;
      text.remove_prefix(next);
    }
  }
  if (side != Side::kLeft) {
    while (!text.empty()) {
      size_t start = text.size() - 1;
      while (start > 0 && (text[start] & 0xc0) == 0x80) --start;
      size_t next = start;
      if (!drop(DecodeAt(text, next))) break;
      text.remove_suffix(text.size() - start);
    }
  }
  return text;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    const char32_t c = DecodeAt(text, i);
    const bool breaks = (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(start, (keep_ends ? i : end) - start));
    start = i;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

}  // namespace minimo::jinja
