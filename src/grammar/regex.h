// Regular expressions of JSON Schema ("pattern": ECMA-262 without look-around and back-references) to automata over
// code points.
//
// Dialects disagree on \w, \d, \s, the dot and $ beyond ASCII. Where the automaton says what may be written, it takes
// what every dialect accepts (kInner); where it says what must be avoided (names that additionalProperties governs), it
// takes what any dialect accepts (kOuter).
#pragma once

#include <string_view>

#include "grammar/automaton.h"
#include "minimo/result.h"

namespace minimo::grammar {

enum class RegexBound { kInner, kOuter };

// Strings in which the pattern is found somewhere (a search, as JSON Schema means it).
Result<Dfa> CompileSearch(std::string_view pattern, RegexBound bound = RegexBound::kInner);

// Strings that the pattern matches from end to end.
Result<Dfa> CompileFullMatch(std::string_view pattern);

}  // namespace minimo::grammar
