// Exact automata for JSON numbers within bounds.
#pragma once

#include <optional>
#include <string>

#include "grammar/automaton.h"
#include "minimo/result.h"

namespace minimo::grammar {

// A bound as decimal text, as written by the shortest form that reads back as the same double.
struct Bound {
  std::string decimal;  // -?digits[.digits], no exponent
  bool exclusive = false;
};

struct NumberLimits {
  std::optional<Bound> low, high;
  int64_t multiple_of = 0;  // integers alone; 0: any
};

// Integers, at most 18 digits (they fit 64 bits), never "-0". An empty automaton if there are none.
Result<Dfa> IntegerDfa(const NumberLimits& limits);

// Numbers with at most 15 digits before and after the point when there are no bounds, and an exponent of at most two
// digits; within bounds, no exponent and at most 15 significant digits, so that the double read back stays inside.
Result<Dfa> NumberDfa(const NumberLimits& limits);

// A finite double as a decimal without exponent, exact to its shortest form; nothing where it would need more than 40
// digits.
std::optional<std::string> PlainDecimal(double value);

}  // namespace minimo::grammar
