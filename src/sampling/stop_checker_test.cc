#include "sampling/stop_checker.h"

#include <gtest/gtest.h>

#include <random>

namespace minimo {
namespace {

std::string Feed(StopChecker* checker, const std::vector<std::string>& pieces, std::string* stop) {
  std::string text;
  for (const std::string& piece : pieces) {
    const StopChecker::Output output = checker->Push(piece);
    text += output.text;
    if (output.stopped) *stop = output.stop_string;
  }
  return text + checker->Flush();
}

// The definition: the match that ends first; among those, the one that begins first.
std::string Whole(const std::string& text, const std::vector<std::string>& stops, bool include, std::string* stop) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& s : stops) {
      const bool here = s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0;
      if (here && (best == nullptr || s.size() > best->size())) best = &s;
    }
    if (best == nullptr) continue;
    *stop = *best;
    return text.substr(0, include ? end : end - best->size());
  }
  return text;
}

TEST(StopChecker, EverySplitGivesWhatTheWholeTextGives) {
  std::mt19937 rng(11);
  for (int round = 0; round < 20000; ++round) {
    const auto random_text = [&](size_t length) {
      std::string s;
      for (size_t i = 0; i < length; ++i) s += "aab"[rng() % 3];
      return s;
    };
    std::vector<std::string> stops(rng() % 4);
    for (std::string& s : stops) s = random_text(1 + rng() % 6);
    const std::string text = random_text(rng() % 30);
    const bool include = rng() % 2;
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t length = rng() % 5;
      pieces.push_back(text.substr(at, length));
      at += length;
    }
    std::string stop, expected_stop;
    StopChecker checker(stops, include);
    ASSERT_EQ(Feed(&checker, pieces, &stop), Whole(text, stops, include, &expected_stop));
    ASSERT_EQ(stop, expected_stop);
    ASSERT_EQ(checker.stopped(), !expected_stop.empty());
  }
}

TEST(StopChecker, HoldsBackNoMoreThanMayBeginAStop) {
  StopChecker checker({"\n\n", "END."});
  EXPECT_EQ(checker.Push("Hello EN").text, "Hello ");
  EXPECT_EQ(checker.Push("EN").text, "EN");
  EXPECT_EQ(checker.held_back_bytes(), 2u);
  EXPECT_EQ(checker.Push("ding\n").text, "ENding");
  const auto output = checker.Push("\nmore");
  EXPECT_TRUE(output.stopped);
  EXPECT_EQ(output.stop_string, "\n\n");
  EXPECT_EQ(output.text, "");
  EXPECT_EQ(checker.Push("more").text, "");
}

TEST(StopChecker, UncheckedTextNeitherEndsNorBeginsAMatch) {
  StopChecker checker({"ab"});
  EXPECT_EQ(checker.Push("ab a", false).text, "ab a");
  EXPECT_EQ(checker.Push("b").text, "b");
  EXPECT_TRUE(checker.Push("ab").stopped);
}

TEST(StopChecker, NeverCutsACharacter) {
  StopChecker checker({"\xc3\xa9\xc3\xa8"});  // é è
  EXPECT_EQ(checker.Push("x\xc3\xa9").text, "x");
  EXPECT_EQ(checker.Push("\xc3\xaa").text, "\xc3\xa9\xc3\xaa");
}

}  // namespace
}  // namespace minimo
