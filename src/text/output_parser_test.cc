#include "minimo/output_parser.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>

#include "tests/support/shared.h"
#include "text/chat_protocol.h"
#include "text/output_parser_cases.h"

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;
using Kind = ParsedDelta::Kind;

// Feeds the pieces; checks what must hold of every delta on the way.
Outcome Parse(const Case& c, const std::vector<std::string_view>& pieces, OutputParserOptions options = {}) {
  options.starts_in_reasoning |= c.in_reasoning;
  Result<std::unique_ptr<OutputParser>> parser = MakeOutputParser(c.model, c.tools, options);
  EXPECT_TRUE(parser.ok());
  ParsedOutput output;
  int calls = 0;
  const auto add = [&](const std::vector<ParsedDelta>& deltas) {
    for (const ParsedDelta& delta : deltas) {
      if (delta.kind == Kind::kToolCall) {
        EXPECT_EQ(delta.index, calls++);
      }
      if (delta.kind == Kind::kArguments) {
        EXPECT_EQ(delta.index, calls - 1);
      }
      EXPECT_NO_THROW((void)Json(delta.text).dump()) << "a delta splits a character";
      output.Add(delta);
    }
  };
  for (const std::string_view piece : pieces) add((*parser)->Feed(piece));
  add((*parser)->Finish());
  EXPECT_EQ((*parser)->tool_calls(), static_cast<int>(output.tool_calls.size()));
  Outcome outcome{output.reasoning, output.content, {}};
  for (const auto& call : output.tool_calls) {
    EXPECT_TRUE(Json::parse(call.arguments, nullptr, false).is_object()) << call.arguments;
    EXPECT_TRUE(std::regex_match(call.id, std::regex("call_[0-9a-f]{24}"))) << call.id;
    outcome.calls.emplace_back(call.name, call.arguments);
  }
  return outcome;
}

TEST(OutputParser, SplitsWholeTexts) {
  for (const Case& c : Cases()) EXPECT_EQ(Parse(c, {c.text}), c.expected) << c.name << ": " << c.text;
}

// The property: every split into two, byte by byte, and random splits give what the whole text gives.
void CheckEverySplit(const Case& c) {
  const std::string_view text = c.text;
  const Outcome whole = Parse(c, {text});
  for (size_t at = 0; at <= text.size(); ++at) {
    ASSERT_EQ(Parse(c, {text.substr(0, at), text.substr(at)}), whole) << c.name << " split at " << at << ": " << c.text;
  }
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) bytes.push_back(text.substr(i, 1));
  ASSERT_EQ(Parse(c, bytes), whole) << c.name << " byte by byte: " << c.text;
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string_view> pieces;
    for (size_t begin = 0; begin < text.size();) {
      const size_t size = std::min<size_t>(text.size() - begin, random() % 9);
      pieces.push_back(text.substr(begin, size));
      begin += size;
    }
    ASSERT_EQ(Parse(c, pieces), whole) << c.name << " in random pieces: " << c.text;
  }
}

TEST(OutputParser, EverySplitGivesWhatTheWholeGives) {
  for (const Case& c : Cases()) CheckEverySplit(c);
}

TEST(OutputParser, RecordedOutputs) {
  MINIMO_REQUIRE_SHARED();
  const std::pair<const char*, const char*> models[] = {{"nano-minimax-m2", "minimax_m2"},
                                                        {"nano-mimo-v2-flash", "mimo_v2_flash"}};
  for (const auto& [folder, model] : models) {
    std::ifstream in(testing::SharedDir() / "golden" / folder / "cases.json");
    const Json recorded = Json::parse(in, nullptr, false);
    ASSERT_TRUE(recorded.is_array());
    int calls = 0;
    for (const Json& item : recorded) {
      std::string text = item["greedy_text"];
      for (const std::string end : {"[e~[", "<|im_end|>"}) {
        if (text.ends_with(end)) text.resize(text.size() - end.size());
      }
      const bool in_reasoning = PromptOpensReasoning(item["prompt"].get<std::string>());
      EXPECT_TRUE(in_reasoning);
      const Case c{folder, model, text, in_reasoning, {}, item["tools"].dump()};
      const Outcome whole = Parse(c, {text});
      EXPECT_FALSE(whole.reasoning.empty());
      EXPECT_EQ(whole.reasoning.find('<'), std::string::npos) << whole;
      EXPECT_EQ(whole.content.find('<'), std::string::npos) << whole;
      if (item["tools"].is_array()) {
        ++calls;
        EXPECT_EQ(whole, (Outcome{"I should call get_weather for Madrid.",
                                  "",
                                  {{"get_weather", R"({"location": "Madrid", "unit": "fahrenheit"})"}}}));
      } else {
        EXPECT_FALSE(whole.content.empty());
        EXPECT_NE(whole.content.front(), '\n');
      }
      CheckEverySplit(c);
    }
    EXPECT_EQ(calls, 1);
  }
}

// Text arguments arrive while they are written, others with their end tag.
TEST(OutputParser, StreamsTextArguments) {
  auto parser = *MakeOutputParser("mimo_v2_flash", kTools);
  const auto joined = [](const std::vector<ParsedDelta>& deltas) {
    std::string text;
    for (const ParsedDelta& delta : deltas) text += delta.kind == Kind::kToolCall ? "#" + delta.name : delta.text;
    return text;
  };
  EXPECT_EQ(joined(parser->Feed("<tool_call>\n<function=get_weather")), "");
  EXPECT_EQ(joined(parser->Feed(">")), "#get_weather");
  EXPECT_EQ(joined(parser->Feed("\n<parameter=location>")), "{\"location\": ");
  EXPECT_EQ(joined(parser->Feed("P")), "\"P");
  EXPECT_EQ(joined(parser->Feed("\"a")), "\\\"a");
  EXPECT_EQ(joined(parser->Feed("<")), "");
  EXPECT_EQ(joined(parser->Feed("b")), "<b");
  EXPECT_EQ(joined(parser->Feed("</parameter>")), "\"");
  EXPECT_EQ(joined(parser->Feed("<parameter=days>1")), ", \"days\": ");
  EXPECT_EQ(joined(parser->Feed("2</parameter>")), "12");
  EXPECT_EQ(joined(parser->Feed("<parameter=note>nul")), ", \"note\": ");
  EXPECT_EQ(joined(parser->Feed("l")), "");
  EXPECT_EQ(joined(parser->Feed("s")), "\"nulls");
  EXPECT_EQ(joined(parser->Feed("</parameter></function>")), "\"}");
  EXPECT_EQ(joined(parser->Finish()), "");
}

TEST(OutputParser, Options) {
  const Case call{"", "minimax_m2", "R\n</think>\n\nC " + M2("days", "1") + M2("days", "2"), true, {}};
  OutputParserOptions no_tools;
  no_tools.parse_tools = false;
  EXPECT_EQ(Parse(call, {call.text}, no_tools), (Outcome{"R", "C " + M2("days", "1") + M2("days", "2"), {}}));
  OutputParserOptions one_call;
  one_call.parallel_tool_calls = false;
  EXPECT_EQ(Parse(call, {call.text}, one_call), (Outcome{"R", "C ", {{"get_weather", R"({"days": 1})"}}}));
  OutputParserOptions append;
  append.split_reasoning = false;
  EXPECT_EQ(
      Parse(call, {call.text}, append),
      (Outcome{
          "", "<think>R\n</think>\n\nC ", {{"get_weather", R"({"days": 1})"}, {"get_weather", R"({"days": 2})"}}}));
  EXPECT_FALSE(MakeOutputParser("minimax_m2", "{}").ok());
  EXPECT_FALSE(MakeOutputParser("minimax_m2", "[").ok());
}

TEST(OutputParser, PromptOpensReasoning) {
  EXPECT_TRUE(PromptOpensReasoning("]~b]ai\n<think>\n"));
  EXPECT_TRUE(PromptOpensReasoning("<|im_start|>assistant\n<think>"));
  EXPECT_FALSE(PromptOpensReasoning("<|im_start|>assistant\n<think></think>"));
  EXPECT_FALSE(PromptOpensReasoning("<|im_start|>user what is <think>?<|im_end|>"));
  EXPECT_FALSE(PromptOpensReasoning(""));
}

TEST(OutputParser, WholeTextAsJson) {
  const ParsedOutput output = *ParseOutput("mimo_v2_flash", "<think>R</think>" + Mimo("location", "Rome"), kTools);
  const Json calls = Json::parse(output.ToolCallsJson());
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_EQ(calls[0]["function"]["name"], "get_weather");
  EXPECT_EQ(calls[0]["function"]["arguments"], R"({"location": "Rome"})");
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(ParseOutput("mimo_v2_flash", Mimo("days", "1"))->tool_calls[0].id);
  EXPECT_EQ(ids.size(), 1000u);
}

// Random tags and noise, in random pieces: never a crash, valid arguments, the same however it is split.
TEST(OutputParser, SurvivesNoise) {
  static const std::string kPieces[] = {"<minimax:tool_call>",
                                        "</minimax:tool_call>",
                                        "<invoke name=\"get_weather\">",
                                        "</invoke>",
                                        "<parameter name=\"days\">",
                                        "<parameter name=\"note\">",
                                        "</parameter>",
                                        "<tool_call>",
                                        "</tool_call>",
                                        "<function=get_weather>",
                                        "</function>",
                                        "<parameter=location>",
                                        "<parameter=opts>",
                                        "<think>",
                                        "</think>",
                                        "\n",
                                        " ",
                                        "null",
                                        "5",
                                        "{\"a\":1}",
                                        "text",
                                        "\"",
                                        "`",
                                        "```",
                                        "'",
                                        "<",
                                        ">",
                                        "é",
                                        "\xf0\x9f\x98\x80",
                                        "\xff",
                                        "\\",
                                        "\t",
                                        "<invoke name=",
                                        "<parameter"};
  std::mt19937 random(99);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  int rounds = 0;
  for (; rounds < 6000 && std::chrono::steady_clock::now() < deadline; ++rounds) {
    Case c{"noise", random() % 2 == 0 ? "minimax_m2" : "mimo_v2_flash", "", random() % 2 == 0, {}};
    for (size_t count = random() % 24; count > 0; --count) {
      c.text +=
          random() % 12 == 0 ? std::string(1, static_cast<char>(random())) : kPieces[random() % std::size(kPieces)];
    }
    const std::string_view text = c.text;
    const Outcome whole = Parse(c, {text});
    std::vector<std::string_view> pieces;
    for (size_t begin = 0; begin < text.size();) {
      const size_t size = std::min<size_t>(text.size() - begin, 1 + random() % 5);
      pieces.push_back(text.substr(begin, size));
      begin += size;
    }
    ASSERT_EQ(Parse(c, pieces), whole) << c.text;
  }
  EXPECT_GT(rounds, 300);
}

}  // namespace
}  // namespace minimo
