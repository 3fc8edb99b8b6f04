#include "grammar/number_dfa.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace minimo::grammar {
namespace {

bool Accepts(const Dfa& dfa, const std::string& text) {
  return dfa.Accepts(std::vector<uint32_t>(text.begin(), text.end()));
}

NumberLimits Limits(const char* low, bool low_exclusive, const char* high, bool high_exclusive) {
  NumberLimits limits;
  if (low != nullptr) limits.low = Bound{low, low_exclusive};
  if (high != nullptr) limits.high = Bound{high, high_exclusive};
  return limits;
}

bool Inside(double x, const NumberLimits& limits) {
  if (limits.low) {
    const double low = std::strtod(limits.low->decimal.c_str(), nullptr);
    if (x < low || (limits.low->exclusive && x == low)) return false;
  }
  if (limits.high) {
    const double high = std::strtod(limits.high->decimal.c_str(), nullptr);
    if (x > high || (limits.high->exclusive && x == high)) return false;
  }
  return true;
}

const NumberLimits kCases[] = {
    Limits("0", false, "10", false),        Limits("-5", false, "5", true),      Limits("7", true, "1234", true),
    Limits(nullptr, false, "99", false),    Limits("100", false, nullptr, false), Limits("-1500", true, "-3", false),
    Limits("0", true, nullptr, false),      Limits(nullptr, false, "0", true),   Limits("1.5", false, "20.25", false),
    Limits("-0.5", false, "0.5", false),    Limits("0.001", true, "0.125", true), Limits("-20.75", true, "-3.5", true),
    Limits("3", false, "3", false),         Limits("999", false, "1001", false), Limits("12.34", true, "12.35", true),
};

TEST(NumberDfa, IntegersAreExactlyThoseInside) {
  for (const NumberLimits& base : kCases) {
    for (const int64_t multiple : {0, 1, 3, 10, 25}) {
      NumberLimits limits = base;
      limits.multiple_of = multiple;
      const auto dfa = IntegerDfa(limits);
      ASSERT_TRUE(dfa.ok());
      for (int x = -2000; x <= 2000; ++x) {
        const bool expected = Inside(x, limits) && (multiple == 0 || x % multiple == 0);
        ASSERT_EQ(Accepts(*dfa, std::to_string(x)), expected) << x << " in " << (limits.low ? limits.low->decimal : "")
                                                              << ".." << (limits.high ? limits.high->decimal : "");
      }
      for (const char* odd : {"", "-", "-0", "00", "01", "-01", "1.0", "+1", "1e2"})
        EXPECT_FALSE(Accepts(*dfa, odd)) << odd;
    }
  }
}

TEST(NumberDfa, NumbersAreExactlyThoseInside) {
  std::mt19937 rng(3);
  for (const NumberLimits& limits : kCases) {
    const auto dfa = NumberDfa(limits);
    ASSERT_TRUE(dfa.ok());
    for (int round = 0; round < 20000; ++round) {
      // Near the bounds as often as not.
      std::string text = fmt::format(
          "{:.{}f}", (static_cast<double>(rng()) / 4294967296.0 - 0.5) * (rng() % 2 ? 4000 : 50), rng() % 6);
      if (rng() % 4 == 0 && limits.low) text = limits.low->decimal;
      if (rng() % 4 == 0 && limits.high) text = limits.high->decimal;
      if (rng() % 4 == 0) text += text.find('.') == std::string::npos ? ".0" : rng() % 2 ? "0" : "1";
      if (std::strtod(text.c_str(), nullptr) == 0 && text[0] == '-') continue;  // -0 is never written
      ASSERT_EQ(Accepts(*dfa, text), Inside(std::strtod(text.c_str(), nullptr), limits)) << text;
    }
    for (const char* odd : {"", "-", "-0", "-0.0", ".", "1.", ".5", "00.5", "1.2.3"})
      EXPECT_FALSE(Accepts(*dfa, odd)) << odd;
  }
}

TEST(NumberDfa, UnboundedNumbersStayFinite) {
  const auto dfa = NumberDfa({});
  ASSERT_TRUE(dfa.ok());
  for (const char* text : {"0", "-0", "12.5", "1e10", "-1.5E-20", "0.000001", "123456789012345"})
    EXPECT_TRUE(Accepts(*dfa, text)) << text;
  for (const char* text : {"01", "1.", "1e", "1e999", "--1", "1234567890123456", "Infinity", "NaN"})
    EXPECT_FALSE(Accepts(*dfa, text)) << text;
}

TEST(NumberDfa, LargeMultiplesAndImpossibleOnes) {
  NumberLimits limits;
  limits.multiple_of = 1000;
  const auto dfa = IntegerDfa(limits);
  ASSERT_TRUE(dfa.ok());
  EXPECT_TRUE(Accepts(*dfa, "0"));
  EXPECT_TRUE(Accepts(*dfa, "-123456789012345000"));
  EXPECT_FALSE(Accepts(*dfa, "1500"));
  limits.low = Bound{"1"}, limits.high = Bound{"999"};
  EXPECT_TRUE(IntegerDfa(limits)->empty());
  limits.multiple_of = 1001;
  EXPECT_FALSE(IntegerDfa(limits).ok());
}

TEST(PlainDecimal, IsExact) {
  EXPECT_EQ(PlainDecimal(0.1), "0.1");
  EXPECT_EQ(PlainDecimal(-2.5), "-2.5");
  EXPECT_EQ(PlainDecimal(1e21), "1000000000000000000000");
  EXPECT_EQ(PlainDecimal(1e-7), "0.0000001");
  EXPECT_EQ(PlainDecimal(123456.789), "123456.789");
  EXPECT_EQ(PlainDecimal(0), "0");
  EXPECT_EQ(PlainDecimal(100), "100");
  EXPECT_FALSE(PlainDecimal(1e300).has_value());
  EXPECT_FALSE(PlainDecimal(1e-300).has_value());
}

}  // namespace
}  // namespace minimo::grammar
