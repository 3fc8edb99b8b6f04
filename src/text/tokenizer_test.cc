// Ids and texts of the Hugging Face library, for the shipped models and for Qwen2's whole vocabulary.
#include "minimo/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "tests/support/shared.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

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

// tests/data/*.json is written by tools/tokenizer_reference.py from the library itself.
void CheckHardCases(const std::string& name, const std::filesystem::path& folder) {
  const auto tokenizer = Load(folder);
  ASSERT_NE(tokenizer, nullptr);
  const Json cases = ReadJson(RepoDir() / "tests/data/tokenizer_cases.json");
  ASSERT_GT(cases.size(), 400u);
  for (const Json& c : cases) {
    SCOPED_TRACE(c.dump(-1, ' ', true).substr(0, 300));
    if (c.contains("text")) {
      const auto ids = tokenizer->Encode(c["text"].get<std::string>());
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      EXPECT_EQ(*ids, c["ids"][name].get<std::vector<int32_t>>());
    } else {
      const Json& decode = c["decode"][name];
      const auto ids = decode[0].get<std::vector<int32_t>>();
      for (const bool skip : {false, true}) {
        EXPECT_EQ(tokenizer->Decode(ids, skip), decode[skip ? 2 : 1].get<std::string>());
        EXPECT_EQ(DecodeByPiece(*tokenizer, ids, skip), decode[skip ? 2 : 1].get<std::string>());
      }
    }
  }
}

TEST(TokenizerHardCases, NanoMiniMaxM2) { CheckHardCases("nano-minimax-m2", RepoDir() / "models/nano-minimax-m2"); }
TEST(TokenizerHardCases, NanoMimoV2Flash) {
  CheckHardCases("nano-mimo-v2-flash", RepoDir() / "models/nano-mimo-v2-flash");
}
TEST(TokenizerHardCases, Qwen2) {
  MINIMO_REQUIRE_SHARED();
  CheckHardCases("qwen2", SharedDir() / "tokenizers/qwen2");
}

// Other pre-tokenizers, normalizers, added tokens and post-processors, put into a shipped tokenizer.json.
TEST(TokenizerVariants, AgreeWithTheLibrary) {
  const Json base = ReadJson(RepoDir() / "models/nano-mimo-v2-flash/tokenizer.json");
  const Json variants = ReadJson(RepoDir() / "tests/data/tokenizer_variants.json");
  ASSERT_GT(variants.size(), 40u);
  const auto folder = std::filesystem::path(::testing::TempDir()) / "minimo_tokenizer_variant";
  std::filesystem::create_directories(folder);
  for (const Json& variant : variants) {
    Json whole = base;
    whole.merge_patch(variant["patch"]);
    SCOPED_TRACE(variant["patch"].dump(-1, ' ', true).substr(0, 600));
    std::ofstream(folder / "tokenizer.json") << whole.dump();
    const auto tokenizer = Load(folder);
    ASSERT_NE(tokenizer, nullptr);
    for (const Json& c : variant["texts"]) {
      SCOPED_TRACE(c[0].dump(-1, ' ', true));
      const auto ids = tokenizer->Encode(c[0].get<std::string>(), {.add_special_tokens = true});
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      EXPECT_EQ(*ids, c[1].get<std::vector<int32_t>>());
      for (const bool skip : {false, true}) {
        EXPECT_EQ(tokenizer->Decode(*ids, skip), c[skip ? 3 : 2].get<std::string>());
      }
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(Tokenizer, SpecialTokensInTextCanBeLeftAsText) {
  const auto tokenizer = Load(RepoDir() / "models/nano-mimo-v2-flash");
  ASSERT_NE(tokenizer, nullptr);
  const int32_t start = *tokenizer->TokenToId("<|im_start|>"), think = *tokenizer->TokenToId("<think>");
  EXPECT_EQ(*tokenizer->Encode("<|im_start|><think>"), (std::vector<int32_t>{start, think}));
  const auto as_text = *tokenizer->Encode("<|im_start|><think>", {.parse_special_tokens = false});
  EXPECT_GT(as_text.size(), 2u);
  EXPECT_EQ(as_text.back(), think);  // an added token that is not special
  EXPECT_EQ(tokenizer->Decode(as_text, true), "<|im_start|><think>");
}

TEST(Tokenizer, AnswersAboutTokens) {
  const auto tokenizer = Load(RepoDir() / "models/nano-minimax-m2");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 2063);
  EXPECT_EQ(tokenizer->bos_id(), tokenizer->TokenToId("]~!b["));
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->TokenToId("[e~["));
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(*tokenizer->eos_id()));
  const int32_t think = *tokenizer->TokenToId("<think>");
  EXPECT_TRUE(tokenizer->IsAdded(think));
  EXPECT_FALSE(tokenizer->IsSpecial(think));
  EXPECT_EQ(tokenizer->TokenBytes(think), "<think>");
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->TokenToId("\u010A\u010A")), "\n\n");  // by the byte alphabet
  for (const int32_t id : {-1, 2063, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->IdToToken(id), std::nullopt);
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{id}), "");
  }
}

// Bytes of any kind: read as UTF-8 with replacements, and given back as that (this model has no normalizer).
TEST(Tokenizer, RandomBytesComeBackRepaired) {
  const auto tokenizer = Load(RepoDir() / "models/nano-minimax-m2");
  ASSERT_NE(tokenizer, nullptr);
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(random() % 40, '\0');
    const int kinds = round % 3 == 0 ? 256 : 0x80 + 64 * (round % 3);
    for (char& c : bytes) c = static_cast<char>(random() % kinds);
    const auto ids = tokenizer->Encode(bytes);
    ASSERT_TRUE(ids.ok());
    ASSERT_EQ(tokenizer->Decode(*ids), ToValidUtf8(bytes));
  }
}

TEST(Tokenizer, LongRunsTakeLinearTime) {
  const std::vector<std::string> units = {"a", " ", "\n", " \n", "A", "\u4e2d", "\u0301\u0316", "\u1100\u1161\u11a8",
                                          "<|im_", "]~", "-", "'", std::string(1, '\0'), "\xff", "\xf0\x9f\x98"};
  for (const char* model : {"models/nano-minimax-m2", "models/nano-mimo-v2-flash"}) {
    const auto tokenizer = Load(RepoDir() / model);
    ASSERT_NE(tokenizer, nullptr);
    for (const std::string& unit : units) {
      std::string text = "x";
      while (text.size() < 400'000) text += unit;  // anything quadratic takes minutes
      const auto ids = tokenizer->Encode(text + "x");
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      EXPECT_FALSE(ids->empty());
    }
  }
}

TEST(Tokenizer, ThreadsGetWhatOneGets) {
  const auto tokenizer = Load(RepoDir() / "models/nano-mimo-v2-flash");
  ASSERT_NE(tokenizer, nullptr);
  std::vector<std::string> texts;
  for (const Json& c : ReadJson(RepoDir() / "tests/data/tokenizer_cases.json")) {
    if (c.contains("text")) texts.push_back(c["text"]);
  }
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(*tokenizer->Encode(text));
  const auto fresh = Load(RepoDir() / "models/nano-mimo-v2-flash");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) wrong += *fresh->Encode(texts[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace minimo
