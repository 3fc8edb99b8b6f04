#include "text/utf8.h"

#include <gtest/gtest.h>

namespace minimo {
namespace {

TEST(Utf8, RoundTripsEveryScalarValue) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    ASSERT_EQ(IsValidUtf8(text), !surrogate) << static_cast<uint32_t>(c);
    if (surrogate) continue;
    uint32_t size = 0;
    ASSERT_EQ(DecodeUtf8(text, &size), c);
    ASSERT_EQ(size, text.size());
  }
}

// The examples of Unicode 3.9, tables 3-8 to 3-11.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(ToValidUtf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ToValidUtf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(ToValidUtf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(ToValidUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_EQ(ToValidUtf8("plain ascii text \xE4\xBD"), "plain ascii text " + r);
}

TEST(Utf8, TellsPartialFromInvalid) {
  EXPECT_EQ(NextUtf8("\xF0\x9F\x98").kind, Utf8Step::kPartial);
  EXPECT_EQ(NextUtf8("\xF0\x9F\x98").size, 3u);
  EXPECT_EQ(NextUtf8("\xF0\x9Fx").kind, Utf8Step::kInvalid);
  EXPECT_EQ(NextUtf8("\xF0\x9Fx").size, 2u);
  EXPECT_EQ(NextUtf8("\xF5").kind, Utf8Step::kInvalid);
}

}  // namespace
}  // namespace minimo
