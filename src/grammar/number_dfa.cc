#include "grammar/number_dfa.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace minimo::grammar {
namespace {

constexpr int kMaxIntegerDigits = 18;  // 10^18 - 1 fits int64
constexpr int kMaxSignificant = 15;    // any decimal of 15 digits survives a double (DBL_DIG)
constexpr int64_t kMaxMultiple = 1000;

// A non-negative decimal, without leading zeros before or trailing zeros after the point; zero is "" and "".
struct Magnitude {
  std::string whole, fraction;
  bool exclusive = false;
  bool IsZero() const { return whole.empty() && fraction.empty(); }
};

Magnitude ParseMagnitude(std::string_view decimal, bool exclusive) {
  if (!decimal.empty() && decimal[0] == '-') decimal.remove_prefix(1);
  const size_t point = decimal.find('.');
  Magnitude m;
  m.whole = decimal.substr(0, point);
  if (point != std::string_view::npos) m.fraction = decimal.substr(point + 1);
  m.whole.erase(0, std::min(m.whole.find_first_not_of('0'), m.whole.size()));
  m.fraction.erase(m.fraction.find_last_not_of('0') + 1);
  m.exclusive = exclusive;
  return m;
}

bool IsNegative(const Bound& bound) {
  return bound.decimal[0] == '-' && !ParseMagnitude(bound.decimal, false).IsZero();
}

// Values x >= 0 with low <= x <= high, digit by digit. How the digits so far compare to a bound's is part of the state.
class MagnitudeSteps {
 public:
  enum Order { kLess = 0, kEqual = 1, kGreater = 2 };
  struct State {
    int digits = 0;      // before the point
    int decimals = -1;   // after the point; -1: no point yet
    Order low = kEqual, high = kEqual;  // before the point: of the equally long prefixes
    bool zero = false;   // the whole part is a single 0
    int64_t remainder = 0;
    bool nonzero = false;

    int64_t Encode() const {
      return ((((((remainder * 32 + digits) * 32 + (decimals + 1)) * 3 + low) * 3 + high) * 2 + zero) * 2 + nonzero);
    }
    static State Decode(int64_t code) {
      State s;
      s.nonzero = code % 2, code /= 2;
      s.zero = code % 2, code /= 2;
      s.high = static_cast<Order>(code % 3), code /= 3;
      s.low = static_cast<Order>(code % 3), code /= 3;
      s.decimals = static_cast<int>(code % 32) - 1, code /= 32;
      s.digits = static_cast<int>(code % 32), code /= 32;
      s.remainder = code;
      return s;
    }
  };

  MagnitudeSteps(std::optional<Magnitude> low, std::optional<Magnitude> high, int64_t multiple_of, bool fractions,
                 bool need_nonzero)
      : low_(std::move(low)), high_(std::move(high)), multiple_of_(multiple_of), fractions_(fractions),
        need_nonzero_(need_nonzero) {}

  int64_t Next(int64_t code, uint32_t symbol) const {
    State s = State::Decode(code);
    if (symbol == '.') {
      if (!fractions_ || s.decimals >= 0 || s.digits == 0) return -1;
      s.low = low_ ? WholeOrder(s, s.low, low_->whole) : kGreater;
      s.high = high_ ? WholeOrder(s, s.high, high_->whole) : kLess;
      if (s.low == kLess || s.high == kGreater) return -1;
      s.decimals = 0;
      return s.Encode();
    }
    const int digit = static_cast<int>(symbol - '0');
    if (digit < 0 || digit > 9) return -1;
    if (digit > 0) s.nonzero = true;
    return s.decimals < 0 ? NextWhole(s, digit) : NextDecimal(s, digit);
  }

  bool Accepting(int64_t code) const {
    const State s = State::Decode(code);
    if (s.digits == 0 || s.decimals == 0 || (need_nonzero_ && !s.nonzero)) return false;
    if (multiple_of_ > 0 && s.remainder != 0) return false;
    Order low = s.low, high = s.high;
    if (s.decimals < 0) {
      low = low_ ? WholeOrder(s, s.low, low_->whole) : kGreater;
      high = high_ ? WholeOrder(s, s.high, high_->whole) : kLess;
    }
    const size_t decimals = s.decimals < 0 ? 0 : static_cast<size_t>(s.decimals);
    // An equal prefix of a bound that has more (nonzero) decimals is below it.
    if (low == kEqual && decimals < low_->fraction.size()) low = kLess;
    if (high == kEqual && decimals < high_->fraction.size()) high = kLess;
    const bool above = low == kGreater || (low == kEqual && !low_->exclusive);
    const bool below = high == kLess || (high == kEqual && !high_->exclusive);
    return above && below;
  }

 private:
  int64_t NextWhole(State s, int digit) const {
    const int most = fractions_ ? kMaxSignificant : kMaxIntegerDigits;
    if (s.zero || s.digits >= most) return -1;
    const auto compare = [&](Order order, const std::string& bound) {
      const size_t at = static_cast<size_t>(s.digits);
      if (order != kEqual || at >= bound.size()) return order;
      const int other = bound[at] - '0';
      return digit < other ? kLess : digit > other ? kGreater : kEqual;
    };
    if (s.digits == 0 && digit == 0) s.zero = true;
    if (low_) s.low = compare(s.low, low_->whole);
    if (high_) s.high = compare(s.high, high_->whole);
    if (multiple_of_ > 0) s.remainder = (s.remainder * 10 + digit) % multiple_of_;
    ++s.digits;
    return s.Encode();
  }

  int64_t NextDecimal(State s, int digit) const {
    const int whole = s.zero ? 0 : s.digits;
    if (whole + s.decimals >= kMaxSignificant) return -1;
    const auto compare = [&](Order order, const std::string& bound) {
      if (order != kEqual) return order;
      const size_t at = static_cast<size_t>(s.decimals);
      const int other = at < bound.size() ? bound[at] - '0' : 0;
      return digit < other ? kLess : digit > other ? kGreater : kEqual;
    };
    if (low_) s.low = compare(s.low, low_->fraction);
    if (high_) s.high = compare(s.high, high_->fraction);
    if (s.low == kLess || s.high == kGreater) return -1;
    ++s.decimals;
    return s.Encode();
  }

  // The whole part against a bound's, given how the common prefix compares.
  static Order WholeOrder(const State& s, Order prefix, const std::string& bound) {
    const size_t digits = s.zero ? 0 : static_cast<size_t>(s.digits);
    if (digits != bound.size()) return digits < bound.size() ? kLess : kGreater;
    return digits == 0 ? kEqual : prefix;
  }

  std::optional<Magnitude> low_, high_;
  int64_t multiple_of_;
  bool fractions_;
  bool need_nonzero_;
};

constexpr std::array<uint32_t, 11> kSymbols = {'.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'};

Result<Dfa> MagnitudeDfa(const MagnitudeSteps& steps) {
  return DfaOfSteps(
      MagnitudeSteps::State().Encode(), kSymbols, [&](int64_t s, uint32_t c) { return steps.Next(s, c); },
      [&](int64_t s) { return steps.Accepting(s); });
}

// Both signs of a number within limits.
Result<Dfa> SignedDfa(const NumberLimits& limits, bool fractions) {
  Dfa out;
  out.states.emplace_back();  // before the sign or the first digit
  const auto append = [&](const Dfa& dfa) {
    const int32_t offset = static_cast<int32_t>(out.states.size());
    for (Dfa::State state : dfa.states) {
      for (Edge& e : state.edges) e.to += offset;
      out.states.push_back(std::move(state));
    }
    return offset;
  };
  const auto magnitude = [](const Bound& b) { return ParseMagnitude(b.decimal, b.exclusive); };
  if (!limits.high || !IsNegative(*limits.high)) {
    std::optional<Magnitude> low, high;
    if (limits.low && !IsNegative(*limits.low)) low = magnitude(*limits.low);
    if (limits.high) high = magnitude(*limits.high);
    MINIMO_ASSIGN(const Dfa dfa, MagnitudeDfa(MagnitudeSteps(low, high, limits.multiple_of, fractions, false)));
    if (!dfa.empty()) {
      const auto offset = static_cast<size_t>(append(dfa));
      out.states[0].edges = out.states[offset].edges;
    }
  }
  if (!limits.low || IsNegative(*limits.low)) {
    std::optional<Magnitude> low, high;
    if (limits.high && IsNegative(*limits.high)) low = magnitude(*limits.high);
    if (limits.low) high = magnitude(*limits.low);
    // "-0" is left out: languages disagree on what it is.
    MINIMO_ASSIGN(const Dfa dfa, MagnitudeDfa(MagnitudeSteps(low, high, limits.multiple_of, fractions, true)));
    if (!dfa.empty()) {
      const int32_t offset = append(dfa);
      out.states[0].edges.insert(out.states[0].edges.begin(), {'-', '-', offset});
    }
  }
  if (out.states[0].edges.empty()) out.states.clear();
  return out;
}

Result<Dfa> AnyNumberDfa() {
  Nfa nfa;
  const CharSet digits = {{'0', '9'}};
  nfa.start = nfa.Add();
  const int32_t sign = nfa.Add(), whole = nfa.Add(), mantissa = nfa.Add(), end = nfa.Add();
  nfa.Link(nfa.start, '-', sign);
  nfa.LinkEmpty(nfa.start, sign);
  nfa.Link(sign, '0', whole);
  int32_t at = nfa.Add();
  nfa.Link(sign, CharSet{{'1', '9'}}, at);
  for (int i = 1;; ++i) {
    nfa.LinkEmpty(at, whole);
    if (i == kMaxSignificant) break;
    const int32_t next = nfa.Add();
    nfa.Link(at, digits, next);
    at = next;
  }
  nfa.LinkEmpty(whole, mantissa);
  at = nfa.Add();
  nfa.Link(whole, '.', at);
  for (int i = 0; i < kMaxSignificant; ++i) {
    const int32_t next = nfa.Add();
    nfa.Link(at, digits, next);
    nfa.LinkEmpty(next, mantissa);
    at = next;
  }
  nfa.LinkEmpty(mantissa, end);
  const int32_t e = nfa.Add(), e_sign = nfa.Add(), one = nfa.Add();
  nfa.Link(mantissa, CharSet{{'E', 'E'}, {'e', 'e'}}, e);
  nfa.Link(e, CharSet{{'+', '+'}, {'-', '-'}}, e_sign);
  nfa.LinkEmpty(e, e_sign);
  nfa.Link(e_sign, digits, one);
  nfa.LinkEmpty(one, end);
  nfa.Link(one, digits, end);
  nfa.states[static_cast<size_t>(end)].accepting = true;
  return Determinize(nfa);
}

}  // namespace

std::optional<std::string> PlainDecimal(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  const std::string shortest = fmt::format("{:e}", value);  // for the exponent's size alone
  const int exponent = std::atoi(shortest.c_str() + shortest.find('e') + 1);
  if (std::abs(exponent) > 25) return std::nullopt;
  // The shortest digits that read back as the same double, then the point moved.
  std::string digits;
  int precision = 0;
  do {
    digits = fmt::format("{:.{}e}", std::fabs(value), precision++);
  } while (precision < 18 && std::strtod(digits.c_str(), nullptr) != std::fabs(value));
  const size_t e = digits.find('e');
  const int power = std::atoi(digits.c_str() + e + 1);
  std::string significant = digits.substr(0, e);
  std::erase(significant, '.');
  std::string out;
  if (power < 0) {
    out = "0." + std::string(static_cast<size_t>(-power - 1), '0') + significant;
  } else {
    const size_t whole = static_cast<size_t>(power) + 1;
    if (significant.size() < whole) significant.append(whole - significant.size(), '0');
    out = significant.substr(0, whole);
    if (whole < significant.size()) out += "." + significant.substr(whole);
  }
  return std::signbit(value) && value != 0 ? "-" + out : out;
}

Result<Dfa> IntegerDfa(const NumberLimits& limits) {
  if (limits.multiple_of < 0 || limits.multiple_of > kMaxMultiple) {
    return Errorf("only integers from 1 to {} are supported", kMaxMultiple);
  }
  return SignedDfa(limits, /*fractions=*/false);
}

Result<Dfa> NumberDfa(const NumberLimits& limits) {
  if (!limits.low && !limits.high) return AnyNumberDfa();
  return SignedDfa(limits, /*fractions=*/true);
}

}  // namespace minimo::grammar
