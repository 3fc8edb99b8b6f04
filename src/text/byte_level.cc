#include "text/byte_level.h"

#include <array>

#include "text/utf8.h"

namespace minimo {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;  // 256 + the 68 bytes that are not printable as themselves

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, kAlphabetEnd> bytes;  // -1: not in the alphabet

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(code_point, &characters[byte]);
      bytes[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view ByteLevelCharacter(uint8_t byte) { return GetAlphabet().characters[byte]; }

std::string ByteLevelBytes(std::string_view token) {
  const Alphabet& alphabet = GetAlphabet();
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t i = 0; i < token.size();) {
    uint32_t size = 0;
    const char32_t code_point = DecodeUtf8(token.substr(i), &size);
    const int16_t byte = code_point < kAlphabetEnd ? alphabet.bytes[code_point] : -1;
    if (byte < 0) return std::string(token);
    bytes.push_back(static_cast<char>(byte));
    i += size;
  }
  return bytes;
}

}  // namespace minimo
