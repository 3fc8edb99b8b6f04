#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/support/shared.h"
#include "text/utf8.h"

namespace minimo {
namespace {

class DetokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::FromFolder((testing::RepoDir() / "models/nano-minimax-m2").string());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    tokenizer_ = std::move(loaded).value();
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(DetokenizerTest, HoldsACharacterUntilItIsWhole) {
  const auto ids = *tokenizer_->Encode("\U0001F600!");  // four byte tokens and one
  ASSERT_EQ(ids.size(), 5u);
  Detokenizer detokenizer(*tokenizer_);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(detokenizer.Append(ids[i]), "");
  EXPECT_EQ(detokenizer.Append(ids[3]), "\U0001F600");
  EXPECT_EQ(detokenizer.Append(ids[4]), "!");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, ReplacesWhatCannotBecomeACharacter) {
  const auto ids = *tokenizer_->Encode("\U0001F600!");
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.Append(ids[0]), "");
  EXPECT_EQ(detokenizer.Append(ids[4]), "\uFFFD!");
  EXPECT_EQ(detokenizer.Append(ids[0]), "");
  EXPECT_EQ(detokenizer.Append(ids[1]), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, PiecesJoinToTheDecodingAndAreWholeCharacters) {
  std::mt19937 random(3);
  for (int round = 0; round < 4000; ++round) {
    std::vector<int32_t> ids(random() % 12);
    // Mostly single bytes beyond ASCII (ids 94 to 255 here), some words, special tokens and ids that are none.
    for (int32_t& id : ids) {
      id = 94 + static_cast<int32_t>(random() % 162);
      if (random() % 3 == 0) id = static_cast<int32_t>(random() % 2 ? random() % 2070 : 2048 + random() % 15);
    }
    for (const bool skip : {false, true}) {
      Detokenizer detokenizer(*tokenizer_, skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = detokenizer.Append(id);
        ASSERT_TRUE(IsValidUtf8(piece));
        text += piece;
      }
      text += detokenizer.Flush();
      ASSERT_EQ(text, tokenizer_->Decode(ids, skip));
    }
  }
}

}  // namespace
}  // namespace minimo
