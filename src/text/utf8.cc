#include "text/utf8.h"

#include <cstring>

namespace minimo {
namespace {

uint8_t Byte(std::string_view bytes, size_t i) { return static_cast<uint8_t>(bytes[i]); }

// Length of the leading run of ASCII, eight bytes at a time.
size_t AsciiPrefix(std::string_view bytes) {
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (i < bytes.size() && Byte(bytes, i) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step NextUtf8(std::string_view bytes) {
  const uint8_t lead = Byte(bytes, 0);
  if (lead < 0x80) return {Utf8Step::kValid, 1};
  // Unicode table 3-7: the length by lead byte and the range of the second byte.
  uint32_t size = 0;
  uint8_t low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    size = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    size = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    size = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Step::kInvalid, 1};
  }
  for (uint32_t i = 1; i < size; ++i) {
    if (i == bytes.size()) return {Utf8Step::kPartial, i};
    const uint8_t next = Byte(bytes, i);
    if (next < low || next > high) return {Utf8Step::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::kValid, size};
}

char32_t DecodeUtf8(std::string_view text, uint32_t* size) {
  const uint8_t lead = Byte(text, 0);
  if (lead < 0x80) {
    *size = 1;
    return lead;
  }
  *size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code_point = lead & (0x7Fu >> *size);
  for (uint32_t i = 1; i < *size; ++i) code_point = (code_point << 6) | (Byte(text, i) & 0x3F);
  return code_point;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F))); };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (code_point >> 6)));
    tail(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (code_point >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (code_point >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsValidUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    bytes.remove_prefix(AsciiPrefix(bytes));
    if (bytes.empty()) break;
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind != Utf8Step::kValid) return false;
    bytes.remove_prefix(step.size);
  }
  return true;
}

std::string ToValidUtf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t ascii = AsciiPrefix(bytes);
    out.append(bytes.substr(0, ascii));
    bytes.remove_prefix(ascii);
    if (bytes.empty()) break;
    const Utf8Step step = NextUtf8(bytes);
    out.append(step.kind == Utf8Step::kValid ? bytes.substr(0, step.size) : kReplacementCharacter);
    bytes.remove_prefix(step.size);
  }
  return out;
}

}  // namespace minimo
