// Bad tokenizer files end in one plain line that names the file and the fault.
#include <gtest/gtest.h>

#include <functional>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "minimo/tokenizer.h"
#include "tests/support/shared.h"

namespace minimo {
namespace {

using Json = nlohmann::json;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class TokenizerFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("minimo_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    const auto model = testing::RepoDir() / "models/nano-mimo-v2-flash";
    tokenizer_ = ReadText(model / "tokenizer.json");
    config_ = ReadText(model / "tokenizer_config.json");
    ASSERT_FALSE(tokenizer_.empty());
    ASSERT_FALSE(config_.empty());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const char* name, const std::string& text) { std::ofstream(folder_ / name, std::ios::binary) << text; }

  // The error of loading the folder; "" if there is none.
  std::string Load() {
    const auto loaded = Tokenizer::FromFolder(folder_.string());
    return loaded.ok() ? "" : loaded.error().message;
  }

  // The error after `change` to tokenizer.json.
  std::string LoadChanged(const std::function<void(Json&)>& change) {
    Json json = Json::parse(tokenizer_);
    change(json);
    Write("tokenizer.json", json.dump());
    return Load();
  }

  void ExpectFault(const std::string& message, const std::string& file, const std::string& fault) {
    EXPECT_EQ(message.rfind((folder_ / file).string(), 0), 0u) << message;
    EXPECT_NE(message.find(fault), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }

  std::filesystem::path folder_;
  std::string tokenizer_, config_;
};

TEST_F(TokenizerFileTest, MissingEmptyOrCutShort) {
  ExpectFault(Load(), "tokenizer.json", "cannot be opened");
  Write("tokenizer.json", "");
  ExpectFault(Load(), "tokenizer.json", "is empty");
  for (const size_t size : {size_t{1}, size_t{1000}, tokenizer_.size() / 2, tokenizer_.size() - 3}) {
    Write("tokenizer.json", tokenizer_.substr(0, size));
    ExpectFault(Load(), "tokenizer.json", "cut short");
  }
  Write("tokenizer.json", tokenizer_ + "x");
  ExpectFault(Load(), "tokenizer.json", "not valid JSON");
  Write("tokenizer.json", std::string(100000, '['));
  ExpectFault(Load(), "tokenizer.json", "nested deeper");
  std::filesystem::remove(folder_ / "tokenizer.json");
  std::filesystem::create_directory(folder_ / "tokenizer.json");
  ExpectFault(Load(), "tokenizer.json", " ");
}

TEST_F(TokenizerFileTest, PartsThatAreMissingOrOfNoKnownKind) {
  const auto fault = [&](const std::string& expected, const std::function<void(Json&)>& change) {
    ExpectFault(LoadChanged(change), "tokenizer.json", expected);
  };
  fault("is not a JSON object", [](Json& j) { j = Json::array({1}); });
  fault("no \"model\"", [](Json& j) { j.erase("model"); });
  fault("model.type", [](Json& j) { j["model"]["type"] = "Unigram"; });
  fault("\"vocab\"", [](Json& j) { j["model"].erase("vocab"); });
  fault("\"merges\"", [](Json& j) { j["model"]["merges"] = 3; });
  fault("neither a string", [](Json& j) { j["model"]["merges"][5] = 3; });
  fault("3 tokens, not 2", [](Json& j) { j["model"]["merges"][5] = {"a", "b", "c"}; });
  fault("not two tokens", [](Json& j) { j["model"]["merges"] = {"a b c"}; });
  fault("has no \"\u0120nothere\"", [](Json& j) { j["model"]["merges"][0] = {"\u0120nothere", "e"}; });
  fault("absurd id", [](Json& j) { j["model"]["vocab"]["!"] = 4000000000u; });
  fault("no number", [](Json& j) { j["model"]["vocab"]["!"] = -1; });
  fault("the same id 1", [](Json& j) { j["model"]["vocab"]["!"] = 1; });
  fault("byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; });
  fault("dropout", [](Json& j) { j["model"]["dropout"] = 0.1; });
  fault("end_of_word_suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; });
  fault("version", [](Json& j) { j["version"] = "2.0"; });
  fault("normalizer \"Lowercase\"", [](Json& j) { j["normalizer"] = {{"type", "Lowercase"}}; });
  fault("pre_tokenizer \"Metaspace\"", [](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; });
  fault("no ByteLevel", [](Json& j) { j["pre_tokenizer"] = nullptr; });
  fault("post_processor \"Bert\"", [](Json& j) { j["post_processor"] = {{"type", "Bert"}}; });
  fault("no list \"single\"", [](Json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", 1}}; });
  const Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  fault("does not define \"<s>\"", [&](Json& j) {
    j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", Json::array({bos})}};
  });
  fault("decoder is missing", [](Json& j) { j["decoder"] = nullptr; });
  fault("decoder \"Metaspace\"", [](Json& j) { j["decoder"]["type"] = "Metaspace"; });
  fault("added_tokens[2] has no \"special\"", [](Json& j) { j["added_tokens"][2].erase("special"); });
  fault("added_tokens[0] has no \"id\"", [](Json& j) { j["added_tokens"][0]["id"] = -5; });
  const auto pattern = [](const char* regex) {
    return [regex](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex; };
  };
  fault("pattern \"(\"", pattern("("));
  fault("intersection", pattern("[a-z&&[^b]]"));
  fault("behavior", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Odd"; });
}

TEST_F(TokenizerFileTest, SpecialTokensThatTheConfigNamesMustBeThere) {
  Write("tokenizer.json", tokenizer_);
  Write("tokenizer_config.json", config_);
  EXPECT_EQ(Load(), "");
  const std::string message = LoadChanged([](Json& j) { j["added_tokens"] = Json::array(); });
  ExpectFault(message, "tokenizer_config.json", "eos_token \"<|im_end|>\" is not among the tokens of tokenizer.json");

  Write("tokenizer.json", tokenizer_);
  Json config = Json::parse(config_);
  config["added_tokens_decoder"]["2061"]["content"] = "<reason>";
  Write("tokenizer_config.json", config.dump());
  ExpectFault(Load(), "tokenizer_config.json", "\"<reason>\"");
  config["added_tokens_decoder"]["2061"]["content"] = "</think>";
  Write("tokenizer_config.json", config.dump());
  ExpectFault(Load(), "tokenizer_config.json", "has id 2061, but 2062");
  Write("tokenizer_config.json", config_.substr(0, 200));
  ExpectFault(Load(), "tokenizer_config.json", "cut short");
}

// Damage of any kind is either refused in one line or harmless; meant for the sanitizers.
TEST_F(TokenizerFileTest, RandomDamageNeverCrashes) {
  std::mt19937 random(5);
  const std::string tail = tokenizer_.substr(tokenizer_.size() - 40000);
  int refused = 0;
  for (int round = 0; round < 150; ++round) {
    std::string text = tokenizer_;
    for (int i = 0; i <= round % 4; ++i) {
      // Half of the damage goes to the head, where everything but the vocabulary and the merges is.
      const size_t at = random() % (random() % 2 ? std::min<size_t>(text.size(), 5000) : text.size());
      switch (random() % 4) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.erase(at, random() % 30); break;
        case 2: text.insert(at, text.substr(random() % text.size(), random() % 30)); break;
        default: text[at] = "{}[]\",:0-tn\\"[random() % 12];
      }
    }
    Write("tokenizer.json", text);
    const auto loaded = Tokenizer::FromFolder(folder_.string());
    if (!loaded.ok()) {
      ++refused;
      ASSERT_EQ(loaded.error().message.rfind((folder_ / "tokenizer.json").string(), 0), 0u);
      ASSERT_EQ(loaded.error().message.find('\n'), std::string::npos);
    } else if (const auto ids = (*loaded)->Encode("Hello <think>w\u00f6rld\n 123"); ids.ok()) {
      (void)(*loaded)->Decode(*ids);
    }
  }
  EXPECT_GT(refused, 75);
}

}  // namespace
}  // namespace minimo
