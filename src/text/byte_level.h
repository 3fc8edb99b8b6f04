// GPT-2's byte alphabet: each of the 256 bytes is written as one printable character, so that tokens of arbitrary bytes
// are strings. Source: github.com/openai/gpt-2, encoder.py, bytes_to_unicode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace minimo {

// The character that stands for a byte, in UTF-8.
std::string_view ByteLevelCharacter(uint8_t byte);

// The bytes that a token stands for. A token with any character outside the alphabet stands for its own UTF-8.
std::string ByteLevelBytes(std::string_view token);

}  // namespace minimo
