#include "grammar/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <regex>
#include <string>

#include "grammar/formats.h"
#include "grammar/utf8_bytes.h"

namespace minimo::grammar {
namespace {

using ::testing::HasSubstr;

bool Accepts(const Dfa& dfa, const std::string& text) { return dfa.Accepts(*DecodeUtf8(text)); }

Dfa Search(const std::string& pattern, RegexBound bound = RegexBound::kInner) {
  auto dfa = CompileSearch(pattern, bound);
  EXPECT_TRUE(dfa.ok()) << pattern << ": " << (dfa.ok() ? "" : dfa.error().message);
  return dfa.ok() ? *dfa : Dfa();
}

// Random patterns over a small alphabet, against the standard library's ECMAScript.
class RandomPattern {
 public:
  explicit RandomPattern(std::mt19937* rng) : rng_(*rng) {}
  std::string Make(int depth) {
    std::string out;
    for (size_t n = 1 + rng_() % 3; n > 0; --n) out += Piece(depth);
    if (depth > 0 && rng_() % 4 == 0) out += "|" + Make(depth - 1);
    return out;
  }

 private:
  std::string Piece(int depth) {
    static const char* kAtoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "\\d", "\\w", "[a-c]", "1", "[^\\d]", "\\W"};
    static const char* kQuantifiers[] = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,1}", "{2,}", "*?"};
    std::string atom = depth > 0 && rng_() % 3 == 0 ? "(" + Make(depth - 1) + ")" : kAtoms[rng_() % 12];
    return atom + kQuantifiers[rng_() % 11];
  }
  std::mt19937& rng_;
};

TEST(Regex, AgreesWithTheStandardLibraryOnRandomPatterns) {
  std::mt19937 rng(1);
  RandomPattern make(&rng);
  int accepted = 0, compared = 0;
  for (int round = 0; round < 400; ++round) {
    std::string pattern = make.Make(2);
    if (rng() % 3 == 0) pattern = "^" + pattern;
    if (rng() % 3 == 0) pattern += "$";
    // The library reads ^a|b as (^a)|b, as we do.
    const std::regex reference(pattern);
    const Dfa dfa = Search(pattern);
    const auto full = CompileFullMatch(pattern);
    ASSERT_TRUE(full.ok());
    for (int k = 0; k < 60; ++k) {
      std::string text;
      for (size_t n = rng() % 7; n > 0; --n) text += "aabbc1- "[rng() % 8];
      const bool expected = std::regex_search(text, reference);
      ASSERT_EQ(Accepts(dfa, text), expected) << pattern << " on '" << text << "'";
      ASSERT_EQ(Accepts(*full, text), std::regex_match(text, reference)) << pattern << " on '" << text << "'";
      accepted += expected;
      ++compared;
    }
  }
  EXPECT_GT(accepted, compared / 10);
  EXPECT_LT(accepted, compared * 9 / 10);
}

TEST(Regex, DialectsDifferBetweenTheBounds) {
  struct Case {
    const char* pattern;
    const char* text;
    bool inner, outer;
  };
  const Case cases[] = {
      {"^\\w$", "a", true, true},       {"^\\w$", "é", false, true},   {"^\\W$", "-", true, true},
      {"^\\W$", "é", false, true},      {"^\\d$", "7", true, true},    {"^\\d$", "\xD9\xA3", false, true},  // ٣
      {"^[^\\d]$", "\xD9\xA3", false, true}, {"^\\s$", "\xC2\xA0", false, true}, {"^\\S$", "\xC2\xA0", false, true},
      {"^.$", "\r", false, true},       {"^a$", "a\n", false, true},   {"^[^]$", "\n", true, true},
      {"^[]$", "a", false, false},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(Accepts(Search(c.pattern), c.text), c.inner) << c.pattern << " " << c.text;
    EXPECT_EQ(Accepts(Search(c.pattern, RegexBound::kOuter), c.text), c.outer) << c.pattern << " " << c.text;
  }
}

TEST(Regex, EscapesAndClasses) {
  EXPECT_TRUE(Accepts(Search("^\\u00e9\\x41\\u{1F600}\\/\\.\\-$"), "éA😀/.-"));
  EXPECT_TRUE(Accepts(Search("^[\\]\\-a-c\\n]+$"), "]-b\n"));
  EXPECT_FALSE(Accepts(Search("^[\\]\\-a-c\\n]+$"), "d"));
  EXPECT_TRUE(Accepts(Search("^[a\\-c]$"), "-"));
  EXPECT_TRUE(Accepts(Search("^{a}$"), "{a}"));  // a brace that begins no quantifier
  EXPECT_TRUE(Accepts(Search("^(?<y>a)(?:b)(?P<z>c)$"), "abc"));
}

TEST(Regex, FaultsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"(", "not closed"},         {")", "unmatched ')'"},
      {"[a", "not closed"},        {"a**", "nothing to repeat"},
      {"*a", "nothing to repeat"}, {"a{3,2}", "out of order"},
      {"[b-a]", "out of order"},   {"(?=a)", "look-ahead"},
      {"(?<!a)", "look-behind"},   {"(a)\\1", "back-reference"},
      {"\\bx", "word boundary"},   {"\\p{L}", "Unicode property"},
      {"a\\", "backslash"},        {"\\u12", "hexadecimal"},
      {"\\uD800", "no Unicode"},   {"(?i)a", "this kind of group"},
      {"a{20000}", "10000"},       {"\\q", "unknown escape"},
      {"a++", "possessive"},       {"\xFF", "UTF-8"},
  };
  for (const auto& [pattern, message] : cases) {
    const auto dfa = CompileSearch(pattern);
    ASSERT_FALSE(dfa.ok()) << pattern;
    EXPECT_THAT(dfa.error().message, HasSubstr(message)) << pattern;
  }
}

TEST(Regex, HostilePatternsEndSoon) {
  std::string nested = "a", groups;
  for (int i = 0; i < 90; ++i) nested = "(" + nested + "*)*";
  for (int i = 0; i < 5000; ++i) groups += '(';
  const std::string patterns[] = {
      "(a|b)*a(a|b){20}",          "((((a{1000}){1000}){1000}){1000})", "(x+x+)+y(a|b|aa){900}.{900}", nested, groups,
      "(.*a){30}.{200}b(.*c){30}", "^(([a-z])+.)+[A-Z]([a-z])+$"};
  for (const std::string& pattern : patterns) {
    const auto begin = std::chrono::steady_clock::now();
    (void)CompileSearch(pattern).ok();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10)) << pattern.substr(0, 60);
  }
}

TEST(Formats, HoldTheirExamplesAndNoOthers) {
  struct Case {
    const char* format;
    std::vector<const char*> good, bad;
  };
  const Case cases[] = {
      {"date",
       {"2024-02-29", "2000-02-29", "2023-12-31"},
       {"2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "24-01-01"}},
      {"time", {"23:59:59Z", "00:00:00.5+01:30"}, {"24:00:00Z", "12:00Z", "12:00:00"}},
      {"date-time", {"2024-02-29T12:00:00Z"}, {"2024-02-29 12:00:00Z"}},
      {"duration", {"P1Y2M3D", "PT5M", "P2W"}, {"P", "PT", "1D"}},
      {"email", {"a.b@c.org", "x+y@a-b.c.de"}, {"a@b", "@c.org", "a..b@c.org", "a@-b.org"}},
      {"ipv4", {"0.0.0.0", "255.255.255.255"}, {"256.1.1.1", "1.1.1", "01.1.1.1"}},
      {"ipv6",
       {"::", "::1", "1::", "1:2:3:4:5:6:7:8", "fe80::1:2"},
       {"1:2:3", ":::", "1::2::3", "12345::", "1:2:3:4:5:6:7:8:9"}},
      {"uuid", {"123e4567-e89b-12d3-a456-426614174000"}, {"123e4567e89b12d3a456426614174000"}},
      {"uri", {"https://example.org/a?b=c#d", "ftp://h:21"}, {"example.org", "http://", "http://a b"}},
      {"hostname", {"a-b.example"}, {"-a", "a..b"}},
      {"json-pointer", {"", "/a~1b/0"}, {"a", "/~2"}},
  };
  for (const Case& c : cases) {
    const auto pattern = PatternOfFormat(c.format);
    ASSERT_TRUE(pattern.ok());
    const Dfa dfa = Search(*pattern);
    for (const char* text : c.good) EXPECT_TRUE(Accepts(dfa, text)) << c.format << " " << text;
    for (const char* text : c.bad) EXPECT_FALSE(Accepts(dfa, text)) << c.format << " " << text;
  }
}

}  // namespace
}  // namespace minimo::grammar
