#include "server/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "server/json_writer.h"
#include "tests/support/repo_dir.h"

namespace minimo::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

TEST(FieldsTest, ReadsWhatIsThereAndNotesWhatNobodyKnows) {
  Fields fields;
  fields.params.top_p = 0.95;  // the model's default
  const Json body = Json::parse(R"({"temperature": 0, "top_k": -1, "stop": ["", "x"], "n": 3, "top_p": null,
      "logit_bias": {"17": -5}, "stream_options": {"include_usage": true}, "colour": "red"})");
  EXPECT_FALSE(ReadFields(body, kCompletions, &fields).has_value());
  EXPECT_EQ(fields.params.temperature, 0);
  EXPECT_EQ(fields.params.top_k, 0);
  EXPECT_EQ(fields.params.top_p, 0.95);
  EXPECT_THAT(fields.params.stop, ElementsAre("x"));
  EXPECT_THAT(fields.params.logit_bias, ElementsAre(std::pair<int32_t, float>(17, -5)));
  EXPECT_EQ(fields.n, 3);
  EXPECT_TRUE(fields.include_usage);
  EXPECT_THAT(fields.unknown, ElementsAre("colour"));
}

TEST(FieldsTest, SaysWhatWasFoundAndWhatWasExpected) {
  Fields fields;
  const auto error = ReadFields(Json::parse(R"({"n": "two"})"), kChat, &fields);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "n");
  EXPECT_EQ(error->message, R"(n: found "two", expected integer from 1 to 128.)");
}

// A field means different things to different endpoints.
TEST(FieldsTest, LogprobsIsABooleanInChatAndANumberInCompletions) {
  Fields fields;
  EXPECT_FALSE(ReadFields(Json::parse(R"({"logprobs": true})"), kChat, &fields).has_value());
  EXPECT_TRUE(fields.logprobs);
  EXPECT_TRUE(ReadFields(Json::parse(R"({"logprobs": true})"), kCompletions, &fields).has_value());
}

TEST(FieldsTest, EveryFieldIsDocumented) {
  std::ifstream file(testing::RepoDir() / "docs/api.md");
  std::stringstream text;
  text << file.rdbuf();
  for (const FieldRow& row : FieldTable()) {
    EXPECT_THAT(text.str(), HasSubstr("`" + std::string(row.name) + "`")) << "missing in docs/api.md";
  }
}

TEST(JsonWriterTest, EscapesAndReplacesWhatIsNotUtf8) {
  JsonWriter json;
  json.Object()
      .Member("a\"b", std::string_view("\x01\n\"\\\x7f\xc3\xa9\xff\xed\xa0\x80", 12))
      .Key("c")
      .Float(0.1f)
      .EndObject();
  const Json parsed = Json::parse(json.str());  // strict
  EXPECT_EQ(parsed["a\"b"].get<std::string>().substr(0, 7), "\x01\n\"\\\x7f\xc3\xa9");
  EXPECT_THAT(json.str(), HasSubstr("\"c\":0.1}"));
}

}  // namespace
}  // namespace minimo::server
