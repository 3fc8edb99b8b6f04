#include "text/output_parser_cases.h"

namespace minimo {
namespace {

const std::string kM2 = "minimax_m2", kMimo = "mimo_v2_flash";
const std::string kOpen = "<minimax:tool_call>\n<invoke name=\"get_weather\">\n";
const std::string kClose = "</invoke>\n</minimax:tool_call>";

Outcome One(const std::string& arguments) { return {"", "", {{"get_weather", arguments}}}; }

std::string Distant() { return "<minimax:tool_call>" + std::string(600, ' ') + "<invoke name=\"ping\"></invoke>"; }

// Reasoning, content, and tags that are none or not whole.
std::vector<Case> Texts() {
  return {
    {"plain", kM2, "Hello <b>you</b> & 1 < 2", false, {"", "Hello <b>you</b> & 1 < 2", {}}},
    {"empty", kM2, "", false, {}},
    {"reasoning then content", kM2, "I think.\n</think>\n\nHi.\n\nBye\n", true, {"I think.", "Hi.\n\nBye\n", {}}},
    {"newlines inside reasoning stay", kM2, "\n\na\n\nb\n\n</think>c", true, {"a\n\nb", "c", {}}},
    {"opening tag repeated", kM2, "<think>\nI think.\n</think>\n\nHi", true, {"I think.", "Hi", {}}},
    {"opening tag where none is expected", kM2, "<think>R</think>C", false, {"R", "C", {}}},
    {"opening tag after white space", kMimo, "\n<think>R</think>C", false, {"R", "C", {}}},
    {"no tags is content", kMimo, "Just text", false, {"", "Just text", {}}},
    {"reasoning cut off", kM2, "I think\n", true, {"I think", "", {}}},
    {"closing tag without reasoning", kMimo, "C</think>D", false, {"", "CD", {}}},
    {"empty reasoning", kMimo, "<think></think>5", false, {"", "5", {}}},
    {"mimo keeps newlines", kMimo, "a\n</think>\n\nb", true, {"a\n", "\n\nb", {}}},
    {"thinking tag in the middle is text", kMimo, "say <think> now", false, {"", "say <think> now", {}}},
    {"cut-off closing tag", kM2, "R</thin", true, {"R", "", {}}},
    {"lonely bracket at the end", kM2, "1 <", false, {"", "1 <", {}}},
    {"cut-off tool tag", kM2, "text<minimax:tool_c", false, {"", "text", {}}},
    {"cut-off call tag", kM2, "text<minimax:tool_call>\n<invoke name=\"get", false, {"", "text", {}}},
    {"tag without a call is text", kM2, "the <minimax:tool_call> tag", false, {"", "the <minimax:tool_call> tag", {}}},
    {"tag with nonsense is text",
     kMimo,
     "<tool_call>{\"name\": 1}</tool_call>",
     false,
     {"", "<tool_call>{\"name\": 1}</tool_call>", {}}},
    {"near tags", kM2, "<minimax:tool_cal><minimax><min<<", false, {"", "<minimax:tool_cal><minimax><min<<", {}}},
    {"white space after reasoning", kMimo, "R</think>\n\n", true, {"R", "", {}}},
    {"white space alone", kMimo, " \n", false, {"", " \n", {}}},
    {"too much white space for a section", kM2, Distant(), false, {"", Distant(), {}}},
    {"invalid bytes in text", kMimo, "a\xff\xe2\x82z\xf0\x9f", false, {"", "a\uFFFD\uFFFDz\uFFFD", {}}},
    {"another model",
     "llama",
     "<think>R</think><tool_call><function=f></function></tool_call>",
     false,
     {"R", "<tool_call><function=f></function></tool_call>", {}}},
  };
}

// Calls beside content and reasoning; tags that are quoted are text.
std::vector<Case> CallsInText() {
  return {
    {"call",
     kM2,
     "R\n</think>\n\n" + M2("location", "Paris"),
     true,
     {"R", "", {{"get_weather", R"({"location": "Paris"})"}}}},
    {"call after content",
     kM2,
     "Let me look.\n" + M2("location", "Paris"),
     false,
     {"", "Let me look.\n", {{"get_weather", R"({"location": "Paris"})"}}}},
    {"content after call",
     kMimo,
     Mimo("location", "Rome") + "\n\nDone\n",
     false,
     {"", "Done\n", {{"get_weather", R"({"location": "Rome"})"}}}},
    {"call ends reasoning",
     kM2,
     "Let me call.\n" + M2("days", "3"),
     true,
     {"Let me call.", "", {{"get_weather", R"({"days": 3})"}}}},
    {"call ends reasoning, closed late",
     kMimo,
     "Hm " + Mimo("days", "3") + "</think>",
     true,
     {"Hm ", "", {{"get_weather", R"({"days": 3})"}}}},
    {"tag in code stays reasoning",
     kM2,
     "use `<minimax:tool_call>\n<invoke name=\"x\">` ok\n</think>C",
     true,
     {"use `<minimax:tool_call>\n<invoke name=\"x\">` ok", "C", {}}},
    {"tag in quotes stays reasoning",
     kMimo,
     "say \"<tool_call><function=f>\" here</think>C",
     true,
     {"say \"<tool_call><function=f>\" here", "C", {}}},
    {"tag in a fence",
     kMimo,
     "```\n<tool_call>\n<function=f>\n</function>\n</tool_call>\n```\nend",
     false,
     {"", "```\n<tool_call>\n<function=f>\n</function>\n</tool_call>\n```\nend", {}}},
    {"after closed quotes it counts",
     kMimo,
     "for \"Paris\"" + Mimo("days", "1"),
     true,
     {"for \"Paris\"", "", {{"get_weather", R"({"days": 1})"}}}},
    {"an apostrophe is no quote",
     kMimo,
     "I'll do it'" + Mimo("days", "1"),
     false,
     {"", "I'll do it'", {{"get_weather", R"({"days": 1})"}}}},
  };
}

// Several parameters and calls; what is not closed, cut off or out of place.
std::vector<Case> Sections() {
  return {
    {"several parameters", kM2,
     kOpen +
         "<parameter name=\"location\">A</parameter>\n<parameter name=\"days\">2</parameter>\n<parameter "
         "name=\"metric\">true</parameter>\n" +
         kClose,
     false, One(R"({"location": "A", "days": 2, "metric": true})")},
    {"several calls in one section",
     kM2,
     "<minimax:tool_call>\n<invoke name=\"ping\">\n</invoke>\n<invoke name=\"get_weather\">\n<parameter "
     "name=\"days\">1</parameter>\n</invoke>\n</minimax:tool_call>",
     false,
     {"", "", {{"ping", "{}"}, {"get_weather", R"({"days": 1})"}}}},
    {"several sections",
     kMimo,
     Mimo("days", "1") + "\n" + Mimo("days", "2"),
     false,
     {"", "", {{"get_weather", R"({"days": 1})"}, {"get_weather", R"({"days": 2})"}}}},
    {"no white space",
     kM2,
     "<minimax:tool_call><invoke name=\"ping\"></invoke></minimax:tool_call>",
     false,
     {"", "", {{"ping", "{}"}}}},
    {"single quotes", kM2,
     "<minimax:tool_call><invoke name='get_weather'><parameter "
     "name='days'>4</parameter></invoke></minimax:tool_call>",
     false, One(R"({"days": 4})")},
    {"no quotes",
     kM2,
     "<minimax:tool_call><invoke name=ping></invoke></minimax:tool_call>",
     false,
     {"", "", {{"ping", "{}"}}}},
    {"section not closed", kM2, kOpen + "<parameter name=\"days\">4</parameter>\n</invoke>\n", false,
     One(R"({"days": 4})")},
    {"call not closed", kM2, kOpen + "<parameter name=\"days\">4</parameter>\n</minimax:tool_call>", false,
     One(R"({"days": 4})")},
    {"nothing closed", kM2, kOpen + "<parameter name=\"days\">4</parameter>", false, One(R"({"days": 4})")},
    {"value not closed", kM2, kOpen + "<parameter name=\"location\">Par\n" + kClose, false,
     One(R"({"location": "Par"})")},
    {"value cut off", kMimo, "<tool_call>\n<function=get_weather>\n<parameter=location>Par", false,
     One(R"({"location": "Par"})")},
    {"value cut off in its end tag", kMimo, "<tool_call>\n<function=get_weather>\n<parameter=location>Par</para",
     false, One(R"({"location": "Par"})")},
    {"integer cut off", kMimo, "<tool_call>\n<function=get_weather>\n<parameter=days>4", false, One(R"({"days": 4})")},
    {"parameter tag cut off", kMimo, "<tool_call>\n<function=get_weather>\n<parameter=da", false, One("{}")},
    {"second call without the first's end",
     kM2,
     kOpen + "<parameter name=\"days\">1</parameter>\n<invoke name=\"ping\">\n" + kClose,
     false,
     {"", "", {{"get_weather", R"({"days": 1})"}, {"ping", "{}"}}}},
    {"stray end tags",
     kM2,
     "<minimax:tool_call><invoke name=\"ping\"></invoke></invoke></minimax:tool_call>",
     false,
     {"", "", {{"ping", "{}"}}}},
    {"text after a call in a section",
     kM2,
     "<minimax:tool_call><invoke name=\"ping\"></invoke> so",
     false,
     {"", "so", {{"ping", "{}"}}}},
    {"text between parameters is dropped", kM2, kOpen + "junk <x> <parameter name=\"days\">1</parameter> more" + kClose,
     false, One(R"({"days": 1})")},
    {"unknown function",
     kM2,
     "<minimax:tool_call><invoke name=\"nope\"><parameter name=\"a\">1</parameter></invoke></minimax:tool_call>",
     false,
     {"", "", {{"nope", R"({"a": "1"})"}}}},
    {"no tools offered", kMimo, Mimo("days", "3"), false, One(R"({"days": "3"})"), ""},
    {"no tools, null", kMimo, Mimo("days", "null"), false, One(R"({"days": null})"), "null"},
  };
}

// White space, escapes and tags in a value.
std::vector<Case> Values() {
  return {
    {"m2 strips one newline each side", kM2, M2("location", "\n\nParis\n\n"), false,
     One(R"({"location": "\nParis\n"})")},
    {"m2 keeps spaces", kM2, M2("location", "\n  a b \n"), false, One(R"({"location": "  a b "})")},
    {"m2 newline alone", kM2, M2("location", "\n"), false, One(R"({"location": ""})")},
    {"mimo keeps all", kMimo, Mimo("location", "\n Paris\n"), false, One(R"({"location": "\n Paris\n"})")},
    {"no html unescape", kMimo, Mimo("location", "a &lt; b"), false, One(R"({"location": "a &lt; b"})")},
    {"empty value", kMimo, Mimo("location", ""), false, One(R"({"location": ""})")},
    {"json escapes", kM2, M2("location", "q\" b\\ t\t n\nc\x01 é日😀"), false,
     One("{\"location\": \"q\\\" b\\\\ t\\t n\\nc\\u0001 é日😀\"}")},
    {"tags in a value", kM2, M2("location", "<b>x</b> </invoke> </param <parameter"), false,
     One(R"({"location": "<b>x</b> </invoke> </param <parameter"})")},
    {"end tags in a value", kMimo, Mimo("location", "a</function>b</tool_call>c"), false,
     One(R"({"location": "a</function>b</tool_call>c"})")},
    {"invalid bytes", kMimo, Mimo("location", "a\xff\xe2\x82z\xf0\x9f"), false,
     One("{\"location\": \"a\uFFFD\uFFFDz\uFFFD\"}")},
  };
}

// Values by the type that the schema gives them.
std::vector<Case> Types() {
  return {
    {"strings like numbers", kM2, M2("location", "123"), false, One(R"({"location": "123"})")},
    {"string null", kM2, M2("location", "null"), false, One(R"({"location": "null"})")},
    {"nullable null", kM2, M2("note", "null"), false, One(R"({"note": null})")},
    {"nullable null on its line", kM2, M2("note", "\nnull\n"), false, One(R"({"note": null})")},
    {"nullable text", kM2, M2("note", "nullable"), false, One(R"({"note": "nullable"})")},
    {"nullable none", kM2, M2("note", "None"), false, One(R"({"note": "None"})")},
    {"nullable empty", kM2, M2("note", ""), false, One(R"({"note": ""})")},
    {"unknown type null", kM2, M2("any", "null"), false, One(R"({"any": null})")},
    {"unknown type number", kM2, M2("any", "5"), false, One(R"({"any": "5"})")},
    {"maybe integer", kM2, M2("maybe", "5"), false, One(R"({"maybe": 5})")},
    {"maybe null", kM2, M2("maybe", "null"), false, One(R"({"maybe": null})")},
    {"integer null is text", kM2, M2("days", "null"), false, One(R"({"days": "null"})")},
    {"integer in space", kMimo, Mimo("days", "\n 007 \n"), false, One(R"({"days": 7})")},
    {"integer negative", kMimo, Mimo("days", "-12"), false, One(R"({"days": -12})")},
    {"integer as float", kMimo, Mimo("days", "5.0"), false, One(R"({"days": 5})")},
    {"integer huge", kMimo, Mimo("days", "123456789012345678901234567890"), false,
     One(R"({"days": 123456789012345678901234567890})")},
    {"integer bad", kMimo, Mimo("days", "two"), false, One(R"({"days": "two"})")},
    {"number", kMimo, Mimo("ratio", "1.50"), false, One(R"({"ratio": 1.50})")},
    {"number odd forms", kMimo, Mimo("ratio", "+.5"), false, One(R"({"ratio": 0.5})")},
    {"number bad", kMimo, Mimo("ratio", "nan"), false, One(R"({"ratio": "nan"})")},
    {"boolean", kMimo, Mimo("metric", "True"), false, One(R"({"metric": true})")},
    {"boolean no", kMimo, Mimo("metric", "no"), false, One(R"({"metric": false})")},
    {"boolean bad", kMimo, Mimo("metric", "maybe"), false, One(R"({"metric": "maybe"})")},
    {"object", kMimo, Mimo("opts", "{\"a\": [1, {\"b\": null}]}"), false, One(R"({"opts": {"a": [1, {"b": null}]}})")},
    {"object broken", kMimo, Mimo("opts", "{\"a\": "), false, One(R"({"opts": "{\"a\": "})")},
    {"object given a list", kMimo, Mimo("opts", "[1]"), false, One(R"({"opts": "[1]"})")},
    {"array", kMimo, Mimo("list", "[\"x\", 2]"), false, One(R"({"list": ["x", 2]})")},
    {"enum text", kM2, M2("unit", "celsius"), false, One(R"({"unit": "celsius"})")},
    {"enum number", kM2, M2("level", "2"), false, One(R"({"level": 2})")},
    {"text or integer", kM2, M2("mixed", "2"), false, One(R"({"mixed": 2})")},
    {"text or integer, text", kM2, M2("mixed", "2b"), false, One(R"({"mixed": "2b"})")},
    {"nullable keyword", kM2, M2("nul", "null"), false, One(R"({"nul": null})")},
    {"reference", kM2, M2("ref", "2"), false, One(R"({"ref": 2})")},
    {"all of", kM2, M2("all", "true"), false, One(R"({"all": true})")},
  };
}

}  // namespace

std::string M2(const std::string& name, const std::string& value) {
  return "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"" + name + "\">" + value +
         "</parameter>\n</invoke>\n</minimax:tool_call>";
}

std::string Mimo(const std::string& name, const std::string& value) {
  return "<tool_call>\n<function=get_weather>\n<parameter=" + name + ">" + value +
         "</parameter>\n</function>\n</tool_call>";
}

std::vector<Case> Cases() {
  std::vector<Case> all;
  for (const auto family : {Texts, CallsInText, Sections, Values, Types}) {
    for (Case& c : family()) all.push_back(std::move(c));
  }
  return all;
}

}  // namespace minimo
