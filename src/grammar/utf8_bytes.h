// From automata over code points to automata over the bytes of a JSON string or of plain UTF-8 text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "minimo/result.h"

namespace minimo::grammar {

// Nothing if the text is not valid UTF-8.
std::optional<std::vector<uint32_t>> DecodeUtf8(std::string_view text);

// Links the UTF-8 forms of the code points low..high (no surrogates) from `from` to `to`.
void LinkUtf8(Nfa* nfa, int32_t from, uint32_t low, uint32_t high, int32_t to);

// The strings of `dfa` as UTF-8.
Result<Dfa> AsPlainBytes(const Dfa& dfa);

// The strings of `dfa` as JSON string literals, quotes included. A character is written raw where JSON allows it, else
// by its short escape, else by \u00XX.
Result<Dfa> AsJsonString(const Dfa& dfa);

// The rest of any JSON string after its opening quote, the closing one included, in every spelling that JSON allows
// (escapes of lone surrogates left out: parsers disagree on them). State 0, and only it, is between two characters.
const Dfa& AnyStringBody();

// `text` as a JSON string literal in the spelling of AsJsonString.
std::string QuoteJson(std::string_view text);

}  // namespace minimo::grammar
