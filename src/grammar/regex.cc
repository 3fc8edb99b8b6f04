#include "grammar/regex.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

// Zero-width anchors are turned into symbols of their own: the text is read as kBegin text kEnd.
constexpr uint32_t kBegin = kMaxCodePoint + 1;
constexpr uint32_t kEnd = kMaxCodePoint + 2;

constexpr size_t kMaxPatternBytes = 8192;
constexpr size_t kMaxNfaStates = 50000;
constexpr size_t kMaxPieces = 200000;  // parsed, counting every copy
constexpr int kMaxDepth = 100;
constexpr uint32_t kUnbounded = UINT32_MAX;

const CharSet kDigits = {{'0', '9'}};
const CharSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CharSet kSpace = {{'\t', '\r'}, {' ', ' '}};
// ECMA's and Python's white space together.
const CharSet kAnySpace = {{'\t', '\r'},     {0x1C, ' '},      {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
                           {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
                           {0xFEFF, 0xFEFF}};
// No digit of any script lies below U+0660.
const CharSet kAnyDigit = {{'0', '9'}, {0x660, kMaxCodePoint}};
const CharSet kAnyWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {0x80, kMaxCodePoint}};
const CharSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// A recursive-descent parser that builds the NFA as it goes (Thompson's construction). A quantified piece is parsed
// anew for each copy, which keeps the builder free of a tree.
class Parser {
 public:
  Parser(std::vector<uint32_t> pattern, RegexBound bound)
      : pattern_(std::move(pattern)), outer_(bound == RegexBound::kOuter) {}

  Result<Nfa> Parse(bool search) {
    const CharSet everything = [] {
      CharSet set = AllScalars();
      set.push_back({kBegin, kEnd});
      return set;
    }();
    nfa_.start = nfa_.Add();
    int32_t from = nfa_.start;
    if (search) {
      nfa_.Link(from, everything, from);
      const int32_t begin = nfa_.Add();
      nfa_.LinkEmpty(from, begin);
      from = begin;
    } else {
      const int32_t begin = nfa_.Add();
      nfa_.Link(from, kBegin, begin);
      nfa_.LinkEmpty(from, begin);  // the pattern may have an anchor of its own
      from = begin;
    }
    MINIMO_ASSIGN(int32_t to, Alternatives(from, 0));
    if (at_ < pattern_.size()) return Errorf("unmatched ')' at character {}", at_);
    if (search) {
      const int32_t rest = nfa_.Add();
      nfa_.LinkEmpty(to, rest);
      nfa_.Link(rest, everything, rest);
      to = rest;
    } else {
      const int32_t end = nfa_.Add();
      nfa_.Link(to, kEnd, end);
      nfa_.LinkEmpty(to, end);
      to = end;
    }
    nfa_.states[static_cast<size_t>(to)].accepting = true;
    return std::move(nfa_);
  }

 private:
  bool More() const { return at_ < pattern_.size(); }
  bool Peek(uint32_t c) const { return More() && pattern_[at_] == c; }
  bool Take(uint32_t c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  Error Unsupported(const char* what) const { return Errorf("{} (at character {}) is not supported", what, at_); }

  Status CheckSize() {
    if (nfa_.states.size() > kMaxNfaStates || ++pieces_ > kMaxPieces)
      return Error{"it is too complex (its repeats unfold to too many states)"};
    return {};
  }

  Result<int32_t> Alternatives(int32_t from, int depth) {
    if (depth > kMaxDepth) return Error{"its groups are nested too deeply"};
    const int32_t to = nfa_.Add();
    for (;;) {
      const int32_t begin = nfa_.Add();
      nfa_.LinkEmpty(from, begin);
      int32_t at = begin;
      while (More() && !Peek('|') && !Peek(')')) {
        MINIMO_ASSIGN(at, Piece(at, depth));
      }
      nfa_.LinkEmpty(at, to);
      if (!Take('|')) return to;
    }
  }

  // One atom with its quantifier.
  Result<int32_t> Piece(int32_t from, int depth) {
    MINIMO_TRY(CheckSize());
    const size_t atom_begin = at_;
    // A first copy that nothing leads to finds where the atom ends and what quantifier follows.
    const size_t states_before = nfa_.states.size();
    const int32_t probe = nfa_.Add();
    MINIMO_ASSIGN(const int32_t probe_end, Atom(probe, depth));
    const size_t atom_end = at_;
    uint32_t min = 1, max = 1;
    MINIMO_ASSIGN(const bool quantified, Quantifier(&min, &max));
    if (!quantified) {
      nfa_.LinkEmpty(from, probe);
      return probe_end;
    }
    const size_t after = at_;
    nfa_.states.resize(states_before);
    const auto copy = [&](int32_t begin) -> Result<int32_t> {
      MINIMO_TRY(CheckSize());
      at_ = atom_begin;
      auto end = Atom(begin, depth);
      at_ = atom_end;
      return end;
    };
    int32_t at = nfa_.Add();
    nfa_.LinkEmpty(from, at);
    for (uint32_t i = 0; i < min; ++i) {
      MINIMO_ASSIGN(at, copy(at));
    }
    if (max == kUnbounded) {
      const int32_t loop = nfa_.Add(), out = nfa_.Add();
      nfa_.LinkEmpty(at, loop);
      MINIMO_ASSIGN(const int32_t end, copy(loop));
      nfa_.LinkEmpty(end, loop);
      nfa_.LinkEmpty(loop, out);
      at = out;
    } else {
      const int32_t out = nfa_.Add();
      for (uint32_t i = min; i < max; ++i) {
        nfa_.LinkEmpty(at, out);
        const int32_t begin = nfa_.Add();
        nfa_.LinkEmpty(at, begin);
        MINIMO_ASSIGN(at, copy(begin));
      }
      nfa_.LinkEmpty(at, out);
      at = out;
    }
    at_ = after;
    return at;
  }

  Result<bool> Quantifier(uint32_t* min, uint32_t* max) {
    if (Take('*')) {
      *min = 0, *max = kUnbounded;
    } else if (Take('+')) {
      *min = 1, *max = kUnbounded;
    } else if (Take('?')) {
      *min = 0, *max = 1;
    } else if (Peek('{')) {
      const size_t begin = at_++;
      const std::optional<uint32_t> low = Number();
      if (!low.has_value()) {  // a brace that begins no quantifier is a character (ECMA annex B)
        at_ = begin;
        return false;
      }
      *min = *max = *low;
      if (Take(',')) *max = Peek('}') ? kUnbounded : Number().value_or(0);
      if (!Take('}')) return Errorf("a bad quantifier at character {}", begin);
      if (*max < *min) return Errorf("a quantifier with its bounds out of order at character {}", begin);
      if (*min > 10000 || (*max != kUnbounded && *max > 10000))
        return Error{"it repeats something more than 10000 times"};
    } else {
      return false;
    }
    if (!Take('?') && Peek('+')) return Unsupported("a possessive quantifier");  // lazy: the same language
    if (Peek('*') || Peek('+') || Peek('?')) return Errorf("nothing to repeat at character {}", at_);
    return true;
  }

  std::optional<uint32_t> Number() {
    uint32_t value = 0;
    const size_t begin = at_;
    while (More() && pattern_[at_] >= '0' && pattern_[at_] <= '9') {
      value = value > 100000 ? value : value * 10 + (pattern_[at_] - '0');
      ++at_;
    }
    if (at_ == begin) return std::nullopt;
    return value;
  }

  Result<int32_t> Atom(int32_t from, int depth) {
    const uint32_t c = pattern_[at_];
    if (c == '(') return Group(from, depth);
    if (c == '*' || c == '+' || c == '?') return Errorf("nothing to repeat at character {}", at_);
    const int32_t to = nfa_.Add();
    ++at_;
    switch (c) {
      case '^': nfa_.Link(from, kBegin, to); return to;
      case '$':
        nfa_.Link(from, kEnd, to);
        if (outer_) {  // Python: also before a final line end
          const int32_t middle = nfa_.Add();
          nfa_.Link(from, '\n', middle);
          nfa_.Link(middle, kEnd, to);
        }
        return to;
      case '.': nfa_.Link(from, outer_ ? AllScalars() : ComplementOf(kLineEnds), to); return to;
      case '[': {
        MINIMO_ASSIGN(const CharSet set, Class());
        nfa_.Link(from, set, to);
        return to;
      }
      case '\\': {
        MINIMO_ASSIGN(const CharSet set, Escape(/*in_class=*/false, /*outer=*/outer_));
        nfa_.Link(from, set, to);
        return to;
      }
      default: nfa_.Link(from, c, to); return to;
    }
  }

  Result<int32_t> Group(int32_t from, int depth) {
    ++at_;
    if (Take('?')) {
      if (Take(':')) {
      } else if (Peek('=') || Peek('!')) {
        return Unsupported("look-ahead");
      } else if (Take('<') || (Take('P') && Take('<'))) {
        if (Peek('=') || Peek('!')) return Unsupported("look-behind");
        while (More() && !Peek('>')) ++at_;
        if (!Take('>')) return Error{"a group name that does not end"};
      } else {
        return Unsupported("this kind of group");
      }
    }
    MINIMO_ASSIGN(const int32_t to, Alternatives(from, depth + 1));
    if (!Take(')')) return Error{"a '(' that is not closed"};
    return to;
  }

  // After '['.
  Result<CharSet> Class() {
    const bool negated = Take('^');
    const bool outer = outer_ != negated;  // what is left out of an inner bound must be an outer one
    CharSet set;
    bool first = true;
    for (;; first = false) {
      if (!More()) return Error{"a '[' that is not closed"};
      if (Peek(']') && !first) break;
      if (Peek(']') && first) break;  // ECMA: [] is empty, [^] is everything
      bool single = true;
      MINIMO_ASSIGN(const CharSet low, ClassAtom(outer, &single));
      if (single && Peek('-') && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        ++at_;
        bool high_single = true;
        MINIMO_ASSIGN(const CharSet high, ClassAtom(outer, &high_single));
        if (!high_single) return Error{"a range in a class that ends in another class"};
        if (high[0].low < low[0].low) return Error{"a range in a class that is out of order"};
        set.push_back({low[0].low, high[0].low});
      } else {
        set.insert(set.end(), low.begin(), low.end());
      }
    }
    ++at_;
    set = Normalise(std::move(set));
    return ComplementOf(negated ? set : ComplementOf(set));  // twice: drops surrogates
  }

  Result<CharSet> ClassAtom(bool outer, bool* single) {
    const uint32_t c = pattern_[at_++];
    if (c != '\\') return CharSet{{c, c}};
    if (!More()) return Error{"it ends in a backslash"};
    const uint32_t kind = pattern_[at_];
    *single = !(kind == 'd' || kind == 'D' || kind == 'w' || kind == 'W' || kind == 's' || kind == 'S');
    return Escape(/*in_class=*/true, outer);
  }

  // After '\'.
  Result<CharSet> Escape(bool in_class, bool outer) {
    if (!More()) return Error{"it ends in a backslash"};
    const uint32_t c = pattern_[at_++];
    switch (c) {
      case 'd': return outer ? kAnyDigit : kDigits;
      case 'D': return ComplementOf(outer ? kDigits : kAnyDigit);
      case 'w': return outer ? kAnyWord : kWord;
      case 'W': return ComplementOf(outer ? kWord : kAnyWord);
      case 's': return outer ? kAnySpace : kSpace;
      case 'S': return ComplementOf(outer ? kSpace : kAnySpace);
      case 't': return CharSet{{'\t', '\t'}};
      case 'n': return CharSet{{'\n', '\n'}};
      case 'r': return CharSet{{'\r', '\r'}};
      case 'f': return CharSet{{'\f', '\f'}};
      case 'v': return CharSet{{'\v', '\v'}};
      case 'x': return Hex(2);
      case 'u':
        if (Take('{')) {
          MINIMO_ASSIGN(const CharSet set, Hex(0));
          if (!Take('}')) return Error{"a \\u{...} that is not closed"};
          return set;
        }
        return Hex(4);
      case 'p':
      case 'P': return Unsupported("a Unicode property class (\\p)");
      case 'c': return Unsupported("a control escape (\\c)");
      case 'b':
        if (in_class) return CharSet{{'\b', '\b'}};
        return Unsupported("a word boundary (\\b)");
      case 'B':
      case 'k': return Unsupported("\\B or \\k");
      default: break;
    }
    if (c == '0' && !(More() && pattern_[at_] >= '0' && pattern_[at_] <= '9')) return CharSet{{0, 0}};
    if (c >= '0' && c <= '9') return Unsupported("a back-reference");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Unsupported("an unknown escape");
    return CharSet{{c, c}};
  }

  Result<CharSet> Hex(int digits) {
    uint32_t value = 0;
    int count = 0;
    for (; More() && (digits == 0 ? count < 6 : count < digits); ++count, ++at_) {
      const uint32_t c = pattern_[at_];
      const uint32_t digit = c >= '0' && c <= '9'   ? c - '0'
                             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                    : 16;
      if (digit == 16) break;
      value = value * 16 + digit;
    }
    if (count == 0 || (digits != 0 && count != digits)) return Error{"a bad hexadecimal escape"};
    if (value > kMaxCodePoint || (value >= 0xD800 && value <= 0xDFFF)) {
      return Error{"an escape that is no Unicode character"};
    }
    return CharSet{{value, value}};
  }

  const std::vector<uint32_t> pattern_;
  const bool outer_;
  size_t at_ = 0;
  size_t pieces_ = 0;
  Nfa nfa_;
};

// kBegin and kEnd become empty moves.
Nfa DropAnchors(const Dfa& dfa) {
  Nfa nfa = ToNfa(dfa);
  for (Nfa::State& state : nfa.states) {
    std::vector<Edge> kept;
    for (const Edge& e : state.edges) {
      if (e.high > kMaxCodePoint) state.epsilons.push_back(e.to);
      if (e.low <= kMaxCodePoint) kept.push_back({e.low, std::min(e.high, kMaxCodePoint), e.to});
    }
    state.edges = std::move(kept);
  }
  return nfa;
}

Result<Dfa> Compile(std::string_view pattern, RegexBound bound, bool search) {
  if (pattern.size() > kMaxPatternBytes)
    return Errorf("it has {} bytes; at most {} are taken", pattern.size(), kMaxPatternBytes);
  auto code_points = DecodeUtf8(pattern);
  if (!code_points.has_value()) return Error{"it is not valid UTF-8"};
  MINIMO_ASSIGN(const Nfa nfa, Parser(std::move(*code_points), bound).Parse(search));
  MINIMO_ASSIGN(const Dfa marked, Determinize(nfa));
  Dfa frame;  // kBegin text kEnd
  frame.states.resize(3);
  frame.states[0].edges = {{kBegin, kBegin, 1}};
  for (const Range& r : AllScalars()) frame.states[1].edges.push_back({r.low, r.high, 1});
  frame.states[1].edges.push_back({kEnd, kEnd, 2});
  frame.states[2].accepting = true;
  MINIMO_ASSIGN(const Dfa framed, Intersect(marked, frame));
  return Determinize(DropAnchors(framed));
}

}  // namespace

Result<Dfa> CompileSearch(std::string_view pattern, RegexBound bound) { return Compile(pattern, bound, true); }

Result<Dfa> CompileFullMatch(std::string_view pattern) { return Compile(pattern, RegexBound::kInner, false); }

}  // namespace minimo::grammar
