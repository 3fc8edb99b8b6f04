#include "grammar/structured_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "grammar/grammar_matcher.h"
#include "grammar/tokenizer_vocabulary.h"
#include "minimo/output_parser.h"
#include "tests/grammar/random_walk.h"
#include "tests/support/repo_dir.h"
#include "text/chat_protocol.h"

namespace minimo::grammar {
namespace {

using ::testing::HasSubstr;
using minimo::testing::RandomWalk;
using nlohmann::json;

struct Model {
  std::unique_ptr<Tokenizer> tokenizer;
  Vocabulary vocabulary;
  int32_t eos;
};

const Model& Load(const char* name, int32_t eos) {
  static std::map<std::string, Model> models;
  Model& model = models[name];
  if (model.tokenizer == nullptr) {
    auto tokenizer = Tokenizer::FromFolder((testing::RepoDir() / "models" / name).string());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    model.tokenizer = std::move(*tokenizer);
    model.vocabulary = VocabularyOf(*model.tokenizer, std::vector<int32_t>{eos});
    model.eos = eos;
  }
  return model;
}
const Model& M2() { return Load("nano-minimax-m2", 2056); }
const Model& MiMo() { return Load("nano-mimo-v2-flash", 2050); }
constexpr int32_t kRows = 2112;  // of logits

Matcher Ok(Result<Matcher> matcher) {
  EXPECT_TRUE(matcher.ok()) << (matcher.ok() ? "" : matcher.error().message);
  return matcher.ok() ? *matcher : nullptr;
}

std::string Walk(const Matcher& matcher, const Model& model, uint32_t seed, int free_tokens = 40) {
  std::mt19937 rng(seed);
  const auto text = RandomWalk(*matcher, *model.tokenizer, kRows, free_tokens, &rng);
  EXPECT_TRUE(text.ok()) << text.error().message;
  return text.ok() ? *text : "";
}

// Whether the matcher takes a text, byte by byte where the vocabulary has the byte, and may then end.
bool Takes(const Matcher& prototype, const Model& model, const std::string& text) {
  auto matcher = prototype->Clone();
  const auto ids = model.tokenizer->Encode(text);
  EXPECT_TRUE(ids.ok());
  for (const int32_t id : *ids) {
    std::vector<uint32_t> mask((kRows + 31) / 32);
    matcher->FillMask(mask.data(), mask.size());
    const bool allowed = mask[id / 32] >> (id % 32) & 1;
    const bool accepted = matcher->Accept(id);
    EXPECT_EQ(allowed, accepted) << text << " at token " << id;
    if (!accepted) return false;
  }
  return matcher->Accept(model.eos);
}

TEST(StructuredOutput, TheMaskIsWhatTheMatcherAccepts) {
  const char* schemas[] = {
      R"({"type": "object", "properties": {"a": {"type": "string"},
                                           "b": {"type": "array", "items": {"type": "number"}}}})",
      R"({"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 5}})",
      R"({"anyOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}},
                    {"type": "object", "properties": {"kind": {"type": "string", "pattern": "^[a-c]{1,3}$"}}},
                    {"type": "null"}]})",
      R"({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"})",
      R"({"type": "object", "additionalProperties": {"type": "string", "format": "date"}})",
  };
  for (const Model* model : {&M2(), &MiMo()}) {
    for (const char* schema : schemas) {
      for (const Reasoning reasoning : {Reasoning::kNone, Reasoning::kOptional}) {
        const Matcher prototype = Ok(CompileJsonSchema(schema, model->vocabulary, {}, reasoning));
        std::mt19937 rng(5);
        auto matcher = prototype->Clone();
        for (int step = 0; step < 40 && !matcher->Finished(); ++step) {
          std::vector<uint32_t> mask((kRows + 31) / 32);
          matcher->FillMask(mask.data(), mask.size());
          std::vector<int32_t> allowed;
          for (int32_t t = 0; t < kRows; ++t) {
            const bool in_mask = mask[t / 32] >> (t % 32) & 1;
            ASSERT_EQ(in_mask, matcher->Clone()->Accept(t)) << schema << " step " << step << " token " << t;
            if (in_mask && t != model->eos) allowed.push_back(t);
          }
          if (allowed.empty()) break;
          ASSERT_TRUE(matcher->Accept(allowed[rng() % allowed.size()]));
        }
      }
    }
  }
}

TEST(StructuredOutput, JsonObjectsParse) {
  const Matcher matcher = Ok(CompileJsonObject(M2().vocabulary));
  std::set<std::string> texts;
  for (uint32_t seed = 0; seed < 100; ++seed) {
    const std::string text = Walk(matcher, M2(), seed, 60);
    EXPECT_TRUE(json::parse(text, nullptr, false).is_object()) << text;
    texts.insert(text);
  }
  EXPECT_GT(texts.size(), 60u);
  EXPECT_TRUE(Takes(matcher, M2(), "{\n  \"a\": [1, 2.5, null, {\"b\": \"\\u00e9\\n\"}]\n}"));
  EXPECT_FALSE(Takes(matcher, M2(), "[1]"));
  EXPECT_FALSE(Takes(matcher, M2(), "{\"a\": 01}"));
  EXPECT_FALSE(Takes(matcher, M2(), "{\"a\": \"\\ud800\"}"));
  EXPECT_FALSE(Takes(matcher, M2(), "{\"a\": 1"));
}

TEST(StructuredOutput, CompactJsonHasNoBlanks) {
  const Matcher matcher = Ok(CompileJsonSchema(R"({"type": "array", "items": {"type": "integer"}, "minItems": 2})",
                                               M2().vocabulary, {.flexible_whitespace = false}));
  EXPECT_TRUE(Takes(matcher, M2(), "[1,2]"));
  EXPECT_FALSE(Takes(matcher, M2(), "[1, 2]"));
}

TEST(StructuredOutput, StrictnessDecidesAboutUnnamedMembers) {
  const char* schema = R"({"type": "object", "properties": {"a": {"type": "integer"}}})";
  EXPECT_FALSE(Takes(Ok(CompileJsonSchema(schema, M2().vocabulary)), M2(), "{\"a\": 1, \"b\": 2}"));
  EXPECT_TRUE(Takes(Ok(CompileJsonSchema(schema, M2().vocabulary, {.strict = false})), M2(), "{\"a\": 1, \"b\": 2}"));
}

TEST(StructuredOutput, RegexAndChoice) {
  const Matcher regex = Ok(CompileRegex("^(yes|no)[!?]{0,2} \\d{2}$", MiMo().vocabulary));
  const std::regex reference("(yes|no)[!?]{0,2} [0-9]{2}");
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::string text = Walk(regex, MiMo(), seed);
    EXPECT_TRUE(std::regex_match(text, reference)) << text;
  }
  const std::vector<std::string> choices = {"positive", "negative", "neutral", "neutral or so", "é中😀"};
  const Matcher choice = Ok(CompileChoice(choices, MiMo().vocabulary));
  std::set<std::string> seen;
  for (uint32_t seed = 0; seed < 300; ++seed) seen.insert(Walk(choice, MiMo(), seed));
  EXPECT_EQ(seen, std::set<std::string>(choices.begin(), choices.end()));
  EXPECT_FALSE(CompileChoice({}, MiMo().vocabulary).ok());
  EXPECT_THAT(CompileRegex("(a", MiMo().vocabulary).error().message, HasSubstr("regex: "));
}

TEST(StructuredOutput, ReasoningComesFirst) {
  const std::vector<std::string> choices = {"yes"};
  const Matcher open = Ok(CompileChoice(choices, M2().vocabulary, Reasoning::kOpen));
  EXPECT_TRUE(Takes(open, M2(), "Let me <b>think</b> about {it}.\n</think>yes"));
  EXPECT_TRUE(Takes(open, M2(), "</think>yes"));
  EXPECT_FALSE(Takes(open, M2(), "hm</think>\n\nyes"));  // the blanks would be part of the answer
  const Matcher object = Ok(CompileJsonObject(M2().vocabulary, {}, Reasoning::kOpen));
  EXPECT_TRUE(Takes(object, M2(), "Let me <b>think</b> about {it}.\n</think>\n\n{}"));
  EXPECT_TRUE(Takes(open, M2(), "<minimax:tool_call>, a mark inside, is text</think>yes"));
  EXPECT_FALSE(Takes(open, M2(), "yes"));
  EXPECT_FALSE(Takes(open, M2(), "hm</think>no"));
  const Matcher optional = Ok(CompileChoice(choices, MiMo().vocabulary, Reasoning::kOptional));
  EXPECT_TRUE(Takes(optional, MiMo(), "yes"));
  EXPECT_TRUE(Takes(optional, MiMo(), "<think>hm</think>yes"));
  EXPECT_FALSE(Takes(optional, MiMo(), "hm</think>yes"));
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::string text = Walk(open, M2(), seed, 200);
    ASSERT_EQ(text.substr(text.size() - 3), "yes");
    EXPECT_NE(text.find("</think>"), std::string::npos);
    EXPECT_EQ(text.find("</think>"), text.rfind("</think>"));
  }
}

const Tool kWeather = {"get_weather", R"({"type": "object", "properties": {"location": {"type": "string"},
    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["location"]})"};
const Tool kCalculate = {"calculate",
                         R"({"type": "object", "properties": {"expression": {"type": "string", "minLength": 1},
    "options": {"type": "object", "properties": {"digits": {"type": "integer"}}, "required": ["digits"]}},
    "required": ["expression", "options"]})"};

TEST(StructuredOutput, ToolCallsOfMiniMax) {
  const std::vector<Tool> tools = {kWeather, kCalculate};
  const Matcher matcher =
      Ok(CompileToolCalls(tools, FindChatProtocol("minimax_m2"), true, M2().vocabulary, Reasoning::kOpen));
  // What the model itself writes (shared/golden/nano-minimax-m2/cases.json).
  EXPECT_TRUE(
      Takes(matcher, M2(),
            "I should call get_weather for Madrid.\n</think>\n\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n"
            "<parameter name=\"location\">Madrid</parameter>\n<parameter name=\"unit\">fahrenheit</parameter>\n"
            "</invoke>\n</minimax:tool_call>"));
  EXPECT_FALSE(Takes(matcher, M2(), "No.\n</think>\n\nI would rather not."));
  EXPECT_FALSE(
      Takes(matcher, M2(),
            "</think>\n\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n</invoke>\n</minimax:tool_call>"));
  const std::regex shape(
      "[^]*</think>[\n ]{0,2}<minimax:tool_call>\n(<invoke name=\"(get_weather|calculate)\">\n"
      "(<parameter name=\"[a-z]+\">[^]*?</parameter>\n)+</invoke>\n)+</minimax:tool_call>");
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::string text = Walk(matcher, M2(), seed, 30);
    EXPECT_TRUE(std::regex_match(text, shape)) << text;
  }
}

TEST(StructuredOutput, ToolCallsOfMiMo) {
  const Matcher matcher =
      Ok(CompileToolCalls({&kWeather, 1}, FindChatProtocol("mimo_v2_flash"), false, MiMo().vocabulary));
  EXPECT_TRUE(Takes(matcher, MiMo(),
                    "<tool_call>\n<function=get_weather>\n<parameter=location>Madrid</parameter>\n"
                    "<parameter=unit>fahrenheit</parameter>\n</function>\n</tool_call>"));
  EXPECT_FALSE(Takes(matcher, MiMo(),
                     "<tool_call>\n<function=get_weather>\n<parameter=location>Madrid</parameter>\n"
                     "<parameter=unit>kelvin</parameter>\n</function>\n</tool_call>"));
  EXPECT_FALSE(Takes(matcher, MiMo(), "<tool_call>\n<function=other>\n</function>\n</tool_call>"));
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::string text = Walk(matcher, MiMo(), seed, 60);
    EXPECT_EQ(text.find("<tool_call>\n<function=get_weather>\n<parameter=location>"), 0u) << text;
    EXPECT_EQ(text.rfind("</function>\n</tool_call>"), text.size() - 24) << text;
  }
}

// The parser behind the model finds every forced call, with arguments of the schema's types.
TEST(StructuredOutput, TheOutputParserReadsForcedCalls) {
  const std::vector<Tool> tools = {kWeather, kCalculate};
  json list = json::array();
  for (const Tool& tool : tools) {
    list.push_back(
        {{"type", "function"}, {"function", {{"name", tool.name}, {"parameters", json::parse(tool.parameters)}}}});
  }
  for (const bool m2 : {true, false}) {
    const Model& model = m2 ? M2() : MiMo();
    const Matcher matcher = Ok(CompileToolCalls(tools, FindChatProtocol(m2 ? "minimax_m2" : "mimo_v2_flash"), true,
                                                model.vocabulary, Reasoning::kOpen));
    int calls = 0;
    for (uint32_t seed = 0; seed < 30; ++seed) {
      const std::string text = Walk(matcher, model, seed, 50);
      const auto parsed =
          ParseOutput(m2 ? "minimax_m2" : "mimo_v2_flash", text, list.dump(), {.starts_in_reasoning = true});
      ASSERT_TRUE(parsed.ok());
      ASSERT_FALSE(parsed->tool_calls.empty()) << text;
      for (const ParsedOutput::ToolCall& call : parsed->tool_calls) {
        ++calls;
        const json arguments = json::parse(call.arguments, nullptr, false);
        ASSERT_TRUE(arguments.is_object()) << call.arguments;
        if (call.name == "get_weather") {
          EXPECT_TRUE(arguments.contains("location")) << text;
          EXPECT_TRUE(!arguments.contains("days") || arguments["days"].is_number_integer()) << text;
        } else {
          EXPECT_EQ(call.name, "calculate");
          EXPECT_TRUE(arguments.at("options").at("digits").is_number_integer()) << text;
        }
      }
    }
    EXPECT_GE(calls, 30);
  }
}

TEST(StructuredOutput, BadToolsAreErrors) {
  const auto error = [](Tool tool) {
    const auto result = CompileToolCalls({&tool, 1}, FindChatProtocol("mimo_v2_flash"), true, MiMo().vocabulary);
    return result.ok() ? "" : result.error().message;
  };
  EXPECT_THAT(error({"a>b", ""}), HasSubstr("cannot be written"));
  EXPECT_THAT(error({"f", "["}), HasSubstr("tool \"f\": not valid JSON"));
  EXPECT_THAT(error({"f", R"({"properties": {"x": {"not": {}}}})"}), HasSubstr("\"not\""));
  EXPECT_THAT(error({"f", R"({"properties": {"x<": {}}})"}), HasSubstr("parameter name"));
  EXPECT_EQ(error({"f", ""}), "");
  EXPECT_FALSE(CompileToolCalls({&kWeather, 1}, FindChatProtocol("of no known form"), true, MiMo().vocabulary).ok());
  EXPECT_FALSE(CompileToolCalls({}, FindChatProtocol("mimo_v2_flash"), true, MiMo().vocabulary).ok());
}

TEST(StructuredOutput, TheEndAndTokensThatDoNotFit) {
  const Matcher prototype = Ok(CompileJsonSchema(R"({"const": 1})", M2().vocabulary));
  auto matcher = prototype->Clone();
  EXPECT_FALSE(matcher->Finished());
  EXPECT_FALSE(matcher->Accept(M2().eos));
  for (const int32_t token : {-1, 2058, 2060, kRows, 1 << 30}) EXPECT_FALSE(matcher->Clone()->Accept(token)) << token;
  const auto one = M2().tokenizer->Encode("1");
  ASSERT_TRUE(matcher->Accept((*one)[0]));
  EXPECT_TRUE(matcher->Finished());
  std::vector<uint32_t> mask((kRows + 31) / 32);
  matcher->FillMask(mask.data(), mask.size());
  for (int32_t t = 0; t < kRows; ++t) EXPECT_EQ(mask[t / 32] >> (t % 32) & 1, t == M2().eos) << t;
  EXPECT_TRUE(matcher->Accept(M2().eos));
  EXPECT_TRUE(matcher->Accept(M2().eos));
  EXPECT_FALSE(matcher->Accept((*one)[0]));
  std::vector<uint32_t> narrow(1);
  matcher->FillMask(narrow.data(), 1);  // fewer rows than tokens: nothing is written beyond
  EXPECT_FALSE(prototype->Finished());
}

TEST(StructuredOutput, ManyThreadsShareAGrammar) {
  const Matcher prototype = Ok(CompileJsonObject(M2().vocabulary));
  std::vector<std::string> alone(8), together(8);
  for (uint32_t i = 0; i < 8; ++i) alone[i] = Walk(Ok(CompileJsonObject(M2().vocabulary)), M2(), i, 100);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 8; ++i) threads.emplace_back([&, i] { together[i] = Walk(prototype, M2(), i, 100); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

// Long texts fill a runtime; matchers then move to a new one and go on.
TEST(StructuredOutput, LongTextsOutliveTheRuntime) {
  const Matcher prototype = Ok(CompileJsonSchema(R"({"type": "array", "items": {"enum": [10, 11]}, "minItems": 12000})",
                                                 M2().vocabulary));
  auto matcher = prototype->Clone();
  const auto slow = matcher->Clone();
  std::vector<int32_t> ids = *M2().tokenizer->Encode("[");
  const auto item = *M2().tokenizer->Encode("10"), comma = *M2().tokenizer->Encode(",");
  for (int i = 0; i < 12000; ++i) {
    if (i > 0) ids.insert(ids.end(), comma.begin(), comma.end());
    ids.insert(ids.end(), item.begin(), item.end());
  }
  std::vector<uint32_t> mask((kRows + 31) / 32);
  for (const int32_t id : ids) {
    std::fill(mask.begin(), mask.end(), 0);
    matcher->FillMask(mask.data(), mask.size());
    ASSERT_TRUE(mask[id / 32] >> (id % 32) & 1);
    ASSERT_TRUE(matcher->Accept(id));
  }
  EXPECT_TRUE(matcher->Accept((*M2().tokenizer->Encode("]"))[0]));
  EXPECT_TRUE(matcher->Finished());
  EXPECT_TRUE(slow->Accept(ids[0]));
}

// Whatever a client sends ends soon in a grammar or in words.
TEST(StructuredOutput, HostileSchemasEndSoon) {
  std::vector<std::string> schemas;
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"items\":";
  schemas.push_back(deep);
  std::string nested = "{}";
  for (int i = 0; i < 60; ++i) nested = "{\"anyOf\":[" + nested + "," + nested.substr(0, 2000) + "]}";
  schemas.push_back(nested.substr(0, 1000000));
  json cross;  // 4^16 combinations
  for (int i = 0; i < 16; ++i) {
    json branches = json::array();
    for (int k = 0; k < 4; ++k) branches.push_back({{"properties", {{"p" + std::to_string(i), {{"const", k}}}}}});
    cross["allOf"].push_back({{"anyOf", branches}});
  }
  schemas.push_back(cross.dump());
  json chain;  // 20,000 definitions in a row
  for (int i = 0; i < 20000; ++i)
    chain["$defs"]["d" + std::to_string(i)] = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
  chain["$ref"] = "#/$defs/d0";
  schemas.push_back(chain.dump());
  json doubling;  // 2^40 by references
  for (int i = 0; i < 40; ++i) {
    const json next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    doubling["$defs"]["d" + std::to_string(i)] = {{"allOf", {next, next}}};
  }
  doubling["$defs"]["d40"] = {{"type", "integer"}};
  doubling["$ref"] = "#/$defs/d0";
  schemas.push_back(doubling.dump());
  json wide;
  for (int i = 0; i < 20000; ++i) wide["properties"]["p" + std::to_string(i)] = {{"type", "string"}};
  schemas.push_back(wide.dump());
  json patterns;
  for (int i = 0; i < 200; ++i)
    patterns["properties"]["p" + std::to_string(i)] = {{"pattern", "(a|b)*a(a|b){" + std::to_string(9 + i % 4) + "}"}};
  schemas.push_back(patterns.dump());
  json values;
  for (int i = 0; i < 40000; ++i) values["enum"].push_back("value number " + std::to_string(i));
  values["minLength"] = 3;
  schemas.push_back(values.dump());
  json one_of;
  for (int i = 0; i < 60; ++i)
    one_of["oneOf"].push_back(
        {{"type", "object"}, {"properties", {{"k", {{"const", i}}}, {"v", {{"$ref", "#"}}}}}, {"required", {"k"}}});
  schemas.push_back(one_of.dump());
  schemas.push_back(R"({"type": "string", "minLength": 100000000})");
  schemas.push_back(R"({"type": "array", "items": {"type": "string"}, "minItems": 1e300})");
  schemas.push_back(R"({"type": "object", "minProperties": 1000000})");
  schemas.push_back(std::string(2000000, ' '));
  schemas.push_back("{\"enum\": [\"\xff\"]}");
  for (const std::string& schema : schemas) {
    const auto begin = std::chrono::steady_clock::now();
    const auto matcher = CompileJsonSchema(schema, M2().vocabulary);
    if (matcher.ok()) {
      std::vector<uint32_t> mask((kRows + 31) / 32);
      (*matcher)->Clone()->FillMask(mask.data(), mask.size());
    } else {
      EXPECT_LT(matcher.error().message.size(), 1000u);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_LT(seconds, 20) << schema.substr(0, 100);
  }
}

}  // namespace
}  // namespace minimo::grammar
