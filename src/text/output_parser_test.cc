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

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;
using Kind = ParsedDelta::Kind;

constexpr const char* kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
    "location": {"type": "string"}, "days": {"type": "integer"}, "ratio": {"type": "number"},
    "metric": {"type": "boolean"}, "note": {"type": ["string", "null"]}, "opts": {"type": "object"},
    "list": {"type": "array"}, "any": {}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "unit": {"enum": ["celsius", "fahrenheit"]}, "level": {"enum": [1, 2]}, "mixed": {"type": ["string", "integer"]},
    "nul": {"type": "integer", "nullable": true}, "ref": {"$ref": "#/$defs/count"}, "all": {"allOf": [{"type": "boolean"}]}},
    "$defs": {"count": {"type": "integer"}}}}},
  {"type": "function", "function": {"name": "ping"}}])";

// What the deltas come to: {"reasoning", "content", "calls": [[name, arguments], ...]}.
struct Outcome {
  std::string reasoning, content;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Outcome&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Outcome& o) {
  out << "reasoning [" << o.reasoning << "] content [" << o.content << "]";
  for (const auto& [name, arguments] : o.calls) out << " " << name << "(" << arguments << ")";
  return out;
}

struct Case {
  std::string name, model, text;
  bool in_reasoning = false;
  Outcome expected;
  std::string tools = kTools;
};

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

// M2's form of one call with one parameter.
std::string M2(const std::string& name, const std::string& value) {
  return "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"" + name + "\">" + value +
         "</parameter>\n</invoke>\n</minimax:tool_call>";
}
std::string Mimo(const std::string& name, const std::string& value) {
  return "<tool_call>\n<function=get_weather>\n<parameter=" + name + ">" + value +
         "</parameter>\n</function>\n</tool_call>";
}

std::vector<Case> Cases() {
  const std::string m2 = "minimax_m2", mimo = "mimo_v2_flash";
  const std::string open = "<minimax:tool_call>\n<invoke name=\"get_weather\">\n",
                    close = "</invoke>\n</minimax:tool_call>";
  const auto one = [](const std::string& arguments) { return Outcome{"", "", {{"get_weather", arguments}}}; };
  const std::string distant = "<minimax:tool_call>" + std::string(600, ' ') + "<invoke name=\"ping\"></invoke>";
  std::vector<Case> cases = {
      {"plain", m2, "Hello <b>you</b> & 1 < 2", false, {"", "Hello <b>you</b> & 1 < 2", {}}},
      {"empty", m2, "", false, {}},
      {"reasoning then content", m2, "I think.\n</think>\n\nHi.\n\nBye\n", true, {"I think.", "Hi.\n\nBye\n", {}}},
      {"newlines inside reasoning stay", m2, "\n\na\n\nb\n\n</think>c", true, {"a\n\nb", "c", {}}},
      {"opening tag repeated", m2, "<think>\nI think.\n</think>\n\nHi", true, {"I think.", "Hi", {}}},
      {"opening tag where none is expected", m2, "<think>R</think>C", false, {"R", "C", {}}},
      {"opening tag after white space", mimo, "\n<think>R</think>C", false, {"R", "C", {}}},
      {"no tags is content", mimo, "Just text", false, {"", "Just text", {}}},
      {"reasoning cut off", m2, "I think\n", true, {"I think", "", {}}},
      {"closing tag without reasoning", mimo, "C</think>D", false, {"", "CD", {}}},
      {"empty reasoning", mimo, "<think></think>5", false, {"", "5", {}}},
      {"mimo keeps newlines", mimo, "a\n</think>\n\nb", true, {"a\n", "\n\nb", {}}},
      {"thinking tag in the middle is text", mimo, "say <think> now", false, {"", "say <think> now", {}}},
      {"cut-off closing tag", m2, "R</thin", true, {"R", "", {}}},
      {"lonely bracket at the end", m2, "1 <", false, {"", "1 <", {}}},
      {"cut-off tool tag", m2, "text<minimax:tool_c", false, {"", "text", {}}},
      {"cut-off call tag", m2, "text<minimax:tool_call>\n<invoke name=\"get", false, {"", "text", {}}},
      {"tag without a call is text", m2, "the <minimax:tool_call> tag", false, {"", "the <minimax:tool_call> tag", {}}},
      {"tag with nonsense is text",
       mimo,
       "<tool_call>{\"name\": 1}</tool_call>",
       false,
       {"", "<tool_call>{\"name\": 1}</tool_call>", {}}},
      {"near tags", m2, "<minimax:tool_cal><minimax><min<<", false, {"", "<minimax:tool_cal><minimax><min<<", {}}},
      {"call",
       m2,
       "R\n</think>\n\n" + M2("location", "Paris"),
       true,
       {"R", "", {{"get_weather", R"({"location": "Paris"})"}}}},
      {"call after content",
       m2,
       "Let me look.\n" + M2("location", "Paris"),
       false,
       {"", "Let me look.\n", {{"get_weather", R"({"location": "Paris"})"}}}},
      {"content after call",
       mimo,
       Mimo("location", "Rome") + "\n\nDone\n",
       false,
       {"", "Done\n", {{"get_weather", R"({"location": "Rome"})"}}}},
      {"call ends reasoning",
       m2,
       "Let me call.\n" + M2("days", "3"),
       true,
       {"Let me call.", "", {{"get_weather", R"({"days": 3})"}}}},
      {"call ends reasoning, closed late",
       mimo,
       "Hm " + Mimo("days", "3") + "</think>",
       true,
       {"Hm ", "", {{"get_weather", R"({"days": 3})"}}}},
      {"tag in code stays reasoning",
       m2,
       "use `<minimax:tool_call>\n<invoke name=\"x\">` ok\n</think>C",
       true,
       {"use `<minimax:tool_call>\n<invoke name=\"x\">` ok", "C", {}}},
      {"tag in quotes stays reasoning",
       mimo,
       "say \"<tool_call><function=f>\" here</think>C",
       true,
       {"say \"<tool_call><function=f>\" here", "C", {}}},
      {"tag in a fence",
       mimo,
       "```\n<tool_call>\n<function=f>\n</function>\n</tool_call>\n```\nend",
       false,
       {"", "```\n<tool_call>\n<function=f>\n</function>\n</tool_call>\n```\nend", {}}},
      {"after closed quotes it counts",
       mimo,
       "for \"Paris\"" + Mimo("days", "1"),
       true,
       {"for \"Paris\"", "", {{"get_weather", R"({"days": 1})"}}}},
      {"an apostrophe is no quote",
       mimo,
       "I'll do it'" + Mimo("days", "1"),
       false,
       {"", "I'll do it'", {{"get_weather", R"({"days": 1})"}}}},
      {"several parameters", m2,
       open +
           "<parameter name=\"location\">A</parameter>\n<parameter name=\"days\">2</parameter>\n<parameter "
           "name=\"metric\">true</parameter>\n" +
           close,
       false, one(R"({"location": "A", "days": 2, "metric": true})")},
      {"several calls in one section",
       m2,
       "<minimax:tool_call>\n<invoke name=\"ping\">\n</invoke>\n<invoke name=\"get_weather\">\n<parameter "
       "name=\"days\">1</parameter>\n</invoke>\n</minimax:tool_call>",
       false,
       {"", "", {{"ping", "{}"}, {"get_weather", R"({"days": 1})"}}}},
      {"several sections",
       mimo,
       Mimo("days", "1") + "\n" + Mimo("days", "2"),
       false,
       {"", "", {{"get_weather", R"({"days": 1})"}, {"get_weather", R"({"days": 2})"}}}},
      {"no white space",
       m2,
       "<minimax:tool_call><invoke name=\"ping\"></invoke></minimax:tool_call>",
       false,
       {"", "", {{"ping", "{}"}}}},
      {"single quotes", m2,
       "<minimax:tool_call><invoke name='get_weather'><parameter "
       "name='days'>4</parameter></invoke></minimax:tool_call>",
       false, one(R"({"days": 4})")},
      {"no quotes",
       m2,
       "<minimax:tool_call><invoke name=ping></invoke></minimax:tool_call>",
       false,
       {"", "", {{"ping", "{}"}}}},
      {"section not closed", m2, open + "<parameter name=\"days\">4</parameter>\n</invoke>\n", false,
       one(R"({"days": 4})")},
      {"call not closed", m2, open + "<parameter name=\"days\">4</parameter>\n</minimax:tool_call>", false,
       one(R"({"days": 4})")},
      {"nothing closed", m2, open + "<parameter name=\"days\">4</parameter>", false, one(R"({"days": 4})")},
      {"value not closed", m2, open + "<parameter name=\"location\">Par\n" + close, false,
       one(R"({"location": "Par"})")},
      {"value cut off", mimo, "<tool_call>\n<function=get_weather>\n<parameter=location>Par", false,
       one(R"({"location": "Par"})")},
      {"value cut off in its end tag", mimo, "<tool_call>\n<function=get_weather>\n<parameter=location>Par</para",
       false, one(R"({"location": "Par"})")},
      {"integer cut off", mimo, "<tool_call>\n<function=get_weather>\n<parameter=days>4", false, one(R"({"days": 4})")},
      {"parameter tag cut off", mimo, "<tool_call>\n<function=get_weather>\n<parameter=da", false, one("{}")},
      {"second call without the first's end",
       m2,
       open + "<parameter name=\"days\">1</parameter>\n<invoke name=\"ping\">\n" + close,
       false,
       {"", "", {{"get_weather", R"({"days": 1})"}, {"ping", "{}"}}}},
      {"stray end tags",
       m2,
       "<minimax:tool_call><invoke name=\"ping\"></invoke></invoke></minimax:tool_call>",
       false,
       {"", "", {{"ping", "{}"}}}},
      {"text after a call in a section",
       m2,
       "<minimax:tool_call><invoke name=\"ping\"></invoke> so",
       false,
       {"", "so", {{"ping", "{}"}}}},
      {"text between parameters is dropped", m2, open + "junk <x> <parameter name=\"days\">1</parameter> more" + close,
       false, one(R"({"days": 1})")},
      {"unknown function",
       m2,
       "<minimax:tool_call><invoke name=\"nope\"><parameter name=\"a\">1</parameter></invoke></minimax:tool_call>",
       false,
       {"", "", {{"nope", R"({"a": "1"})"}}}},
      {"no tools offered", mimo, Mimo("days", "3"), false, one(R"({"days": "3"})"), ""},
      {"no tools, null", mimo, Mimo("days", "null"), false, one(R"({"days": null})"), "null"},
      {"m2 strips one newline each side", m2, M2("location", "\n\nParis\n\n"), false,
       one(R"({"location": "\nParis\n"})")},
      {"m2 keeps spaces", m2, M2("location", "\n  a b \n"), false, one(R"({"location": "  a b "})")},
      {"m2 newline alone", m2, M2("location", "\n"), false, one(R"({"location": ""})")},
      {"mimo keeps all", mimo, Mimo("location", "\n Paris\n"), false, one(R"({"location": "\n Paris\n"})")},
      {"no html unescape", mimo, Mimo("location", "a &lt; b"), false, one(R"({"location": "a &lt; b"})")},
      {"empty value", mimo, Mimo("location", ""), false, one(R"({"location": ""})")},
      {"json escapes", m2, M2("location", "q\" b\\ t\t n\nc\x01 é日😀"), false,
       one("{\"location\": \"q\\\" b\\\\ t\\t n\\nc\\u0001 é日😀\"}")},
      {"tags in a value", m2, M2("location", "<b>x</b> </invoke> </param <parameter"), false,
       one(R"({"location": "<b>x</b> </invoke> </param <parameter"})")},
      {"end tags in a value", mimo, Mimo("location", "a</function>b</tool_call>c"), false,
       one(R"({"location": "a</function>b</tool_call>c"})")},
      {"strings like numbers", m2, M2("location", "123"), false, one(R"({"location": "123"})")},
      {"string null", m2, M2("location", "null"), false, one(R"({"location": "null"})")},
      {"nullable null", m2, M2("note", "null"), false, one(R"({"note": null})")},
      {"nullable null on its line", m2, M2("note", "\nnull\n"), false, one(R"({"note": null})")},
      {"nullable text", m2, M2("note", "nullable"), false, one(R"({"note": "nullable"})")},
      {"nullable none", m2, M2("note", "None"), false, one(R"({"note": "None"})")},
      {"nullable empty", m2, M2("note", ""), false, one(R"({"note": ""})")},
      {"unknown type null", m2, M2("any", "null"), false, one(R"({"any": null})")},
      {"unknown type number", m2, M2("any", "5"), false, one(R"({"any": "5"})")},
      {"maybe integer", m2, M2("maybe", "5"), false, one(R"({"maybe": 5})")},
      {"maybe null", m2, M2("maybe", "null"), false, one(R"({"maybe": null})")},
      {"integer null is text", m2, M2("days", "null"), false, one(R"({"days": "null"})")},
      {"integer in space", mimo, Mimo("days", "\n 007 \n"), false, one(R"({"days": 7})")},
      {"integer negative", mimo, Mimo("days", "-12"), false, one(R"({"days": -12})")},
      {"integer as float", mimo, Mimo("days", "5.0"), false, one(R"({"days": 5})")},
      {"integer huge", mimo, Mimo("days", "123456789012345678901234567890"), false,
       one(R"({"days": 123456789012345678901234567890})")},
      {"integer bad", mimo, Mimo("days", "two"), false, one(R"({"days": "two"})")},
      {"number", mimo, Mimo("ratio", "1.50"), false, one(R"({"ratio": 1.50})")},
      {"number odd forms", mimo, Mimo("ratio", "+.5"), false, one(R"({"ratio": 0.5})")},
      {"number bad", mimo, Mimo("ratio", "nan"), false, one(R"({"ratio": "nan"})")},
      {"boolean", mimo, Mimo("metric", "True"), false, one(R"({"metric": true})")},
      {"boolean no", mimo, Mimo("metric", "no"), false, one(R"({"metric": false})")},
      {"boolean bad", mimo, Mimo("metric", "maybe"), false, one(R"({"metric": "maybe"})")},
      {"object", mimo, Mimo("opts", "{\"a\": [1, {\"b\": null}]}"), false, one(R"({"opts": {"a": [1, {"b": null}]}})")},
      {"object broken", mimo, Mimo("opts", "{\"a\": "), false, one(R"({"opts": "{\"a\": "})")},
      {"object given a list", mimo, Mimo("opts", "[1]"), false, one(R"({"opts": "[1]"})")},
      {"array", mimo, Mimo("list", "[\"x\", 2]"), false, one(R"({"list": ["x", 2]})")},
      {"enum text", m2, M2("unit", "celsius"), false, one(R"({"unit": "celsius"})")},
      {"enum number", m2, M2("level", "2"), false, one(R"({"level": 2})")},
      {"text or integer", m2, M2("mixed", "2"), false, one(R"({"mixed": 2})")},
      {"text or integer, text", m2, M2("mixed", "2b"), false, one(R"({"mixed": "2b"})")},
      {"nullable keyword", m2, M2("nul", "null"), false, one(R"({"nul": null})")},
      {"white space after reasoning", mimo, "R</think>\n\n", true, {"R", "", {}}},
      {"white space alone", mimo, " \n", false, {"", " \n", {}}},
      {"too much white space for a section", m2, distant, false, {"", distant, {}}},
      {"reference", m2, M2("ref", "2"), false, one(R"({"ref": 2})")},
      {"all of", m2, M2("all", "true"), false, one(R"({"all": true})")},
      {"invalid bytes", mimo, Mimo("location", "a\xff\xe2\x82z\xf0\x9f"), false,
       one("{\"location\": \"a\uFFFD\uFFFDz\uFFFD\"}")},
      {"invalid bytes in text", mimo, "a\xff\xe2\x82z\xf0\x9f", false, {"", "a\uFFFD\uFFFDz\uFFFD", {}}},
      {"another model",
       "llama",
       "<think>R</think><tool_call><function=f></function></tool_call>",
       false,
       {"R", "<tool_call><function=f></function></tool_call>", {}}},
  };
  return cases;
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
