// Finite automata over 32-bit symbols (code points, or bytes), with edges on ranges. Used to compile patterns, formats
// and numeric ranges; nothing here runs while text is generated.
//
// Every construction takes a budget, so that a hostile pattern ends in an error and not in exponential time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "minimo/result.h"

namespace minimo::grammar {

inline constexpr uint32_t kMaxCodePoint = 0x10FFFF;

struct Range {
  uint32_t low, high;  // inclusive
};
using CharSet = std::vector<Range>;  // sorted, disjoint, not adjacent

CharSet Normalise(CharSet set);
CharSet ComplementOf(const CharSet& set);  // within the Unicode scalar values (no surrogates)
const CharSet& AllScalars();

struct Edge {
  uint32_t low, high;
  int32_t to;
};

struct Nfa {
  struct State {
    std::vector<Edge> edges;
    std::vector<int32_t> epsilons;
    bool accepting = false;
  };
  std::vector<State> states;
  int32_t start = 0;

  int32_t Add() {
    states.emplace_back();
    return static_cast<int32_t>(states.size()) - 1;
  }
  void Link(int32_t from, const CharSet& set, int32_t to) {
    for (const Range& r : set) states[static_cast<size_t>(from)].edges.push_back({r.low, r.high, to});
  }
  void Link(int32_t from, uint32_t symbol, int32_t to) {
    states[static_cast<size_t>(from)].edges.push_back({symbol, symbol, to});
  }
  void LinkEmpty(int32_t from, int32_t to) { states[static_cast<size_t>(from)].epsilons.push_back(to); }
  // The symbols of `text` (its bytes) in a row; returns the state after the last.
  int32_t AddBytes(int32_t from, std::string_view text);
};

// Deterministic and trimmed: from every state an accepting one can be reached. State 0 is the start; no states at all:
// the empty language. Edges of a state are sorted and disjoint.
struct Dfa {
  struct State {
    std::vector<Edge> edges;
    bool accepting = false;
  };
  std::vector<State> states;

  bool empty() const { return states.empty(); }
  int32_t Next(int32_t state, uint32_t symbol) const;  // -1: none
  bool Accepts(std::span<const uint32_t> symbols) const;
};

inline constexpr size_t kMaxDfaStates = 20000;

// `minimise` off: for what is known to be small and nearly minimal.
Result<Dfa> Determinize(const Nfa& nfa, bool minimise = true);
Result<Dfa> Intersect(const Dfa& a, const Dfa& b);
Result<Dfa> Complement(const Dfa& a);  // within strings of Unicode scalar values
Nfa ToNfa(const Dfa& dfa);
Dfa DfaOfStrings(const std::vector<std::vector<uint32_t>>& strings);

// The automaton of a step function over states encoded as integers; `next` returns a negative value for "no".
Result<Dfa> DfaOfSteps(int64_t start, std::span<const uint32_t> symbols,
                       const std::function<int64_t(int64_t state, uint32_t symbol)>& next,
                       const std::function<bool(int64_t state)>& accepting);

}  // namespace minimo::grammar
