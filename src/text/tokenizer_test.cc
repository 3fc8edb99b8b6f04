// Ids and texts of the Hugging Face library, for the shipped models and for Qwen2's whole vocabulary.
#include "minimo/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/shared.h"
#include "text/detokenizer.h"

namespace minimo {
namespace {

using Json = nlohmann::json;
using testing::RepoDir;
using testing::SharedDir;

Json ReadJson(const std::filesystem::path& path) {
  std::ifstream file(path);
  return Json::parse(file, nullptr, false);
}

std::unique_ptr<Tokenizer> Load(const std::filesystem::path& folder) {
  auto tokenizer = Tokenizer::FromFolder(folder.string());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

std::string DecodeByPiece(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Append(id);
  return text + detokenizer.Flush();
}

// Every case: {"text", "ids"} and perhaps "decoded", "decoded_skip_special".
void CheckCases(const Tokenizer& tokenizer, const Json& cases) {
  ASSERT_TRUE(cases.is_array());
  ASSERT_FALSE(cases.empty());
  for (const Json& c : cases) {
    const std::string text = c["text"];
    SCOPED_TRACE(c["text"].dump(-1, ' ', /*ensure_ascii=*/true));
    const auto ids = tokenizer.Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    const auto expected = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(*ids, expected);
    for (const bool skip : {false, true}) {
      const std::string decoded = tokenizer.Decode(expected, skip);
      EXPECT_EQ(DecodeByPiece(tokenizer, expected, skip), decoded);
      const char* key = skip ? "decoded_skip_special" : "decoded";
      if (c.contains(key)) {
        EXPECT_EQ(decoded, c[key].get<std::string>());
      }
    }
  }
}

TEST(TokenizerGolden, NanoMiniMaxM2) {
  MINIMO_REQUIRE_SHARED();
  const auto tokenizer = Load(RepoDir() / "models/nano-minimax-m2");
  ASSERT_NE(tokenizer, nullptr);
  CheckCases(*tokenizer, ReadJson(SharedDir() / "golden/nano-minimax-m2/tokenizer.json"));
}

TEST(TokenizerGolden, NanoMimoV2Flash) {
  MINIMO_REQUIRE_SHARED();
  const auto tokenizer = Load(RepoDir() / "models/nano-mimo-v2-flash");
  ASSERT_NE(tokenizer, nullptr);
  CheckCases(*tokenizer, ReadJson(SharedDir() / "golden/nano-mimo-v2-flash/tokenizer.json"));
}

TEST(TokenizerGolden, Qwen2) {
  MINIMO_REQUIRE_SHARED();
  const auto tokenizer = Load(SharedDir() / "tokenizers/qwen2");
  ASSERT_NE(tokenizer, nullptr);
  CheckCases(*tokenizer, ReadJson(SharedDir() / "tokenizers/qwen2/expected.json"));
}

}  // namespace
}  // namespace minimo
