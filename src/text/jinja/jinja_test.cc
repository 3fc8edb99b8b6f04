#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/shared.h"
#include "text/jinja/template.h"

namespace minimo::jinja {
namespace {

using Json = nlohmann::ordered_json;

Json ReadJson(const std::filesystem::path& path) {
  std::ifstream in(path);
  return Json::parse(in, nullptr, false);
}

// 2026-03-04 05:06:07.000089 in local time.
std::chrono::system_clock::time_point TestNow() {
  std::tm local = {};
  local.tm_year = 126;
  local.tm_mon = 2;
  local.tm_mday = 4;
  local.tm_hour = 5;
  local.tm_min = 6;
  local.tm_sec = 7;
  local.tm_isdst = -1;
  return std::chrono::system_clock::from_time_t(std::mktime(&local)) + std::chrono::microseconds(89);
}

// The text, or "ERROR: " and the message.
std::string RenderText(const std::string& source, const Json& context) {
  const Result<JinjaTemplate> parsed = JinjaTemplate::Parse(source);
  if (!parsed.ok()) return "SYNTAX: " + parsed.error().message;
  const Result<Value> variables = FromJson(context);
  if (!variables.ok()) return "ERROR: " + variables.error().message;
  const Result<std::string> text = parsed->Render(*variables, TestNow());
  return text.ok() ? *text : "ERROR: " + text.error().message;
}

// What the real Jinja2 made of the same snippets (tests/data/make_jinja_cases.py).
TEST(Jinja, RendersWhatJinja2Renders) {
  const Json data = ReadJson(testing::RepoDir() / "tests/data/jinja_cases.json");
  ASSERT_TRUE(data.is_object());
  EXPECT_GT(data["cases"].size(), 700u);
  int messages = 0;
  int equal_messages = 0;
  for (const Json& item : data["cases"]) {
    const std::string source = item["template"];
    const std::string got = RenderText(source, data["context"]);
    if (item.contains("rendered")) {
      EXPECT_EQ(got, item["rendered"].get<std::string>()) << source;
      continue;
    }
    const bool syntax = item.contains("syntax_error");
    const std::string wanted = syntax ? item["syntax_error"] : item["error"];
    EXPECT_TRUE(got.starts_with("SYNTAX: ") || got.starts_with("ERROR: ")) << source << " should fail with " << wanted;
    ++messages;
    const bool equal = syntax ? got.ends_with(": " + wanted) : got == "ERROR: " + wanted;
    equal_messages += equal;
    if (!equal) std::printf("%s\n  Jinja2: %s\n  here:   %s\n", source.c_str(), wanted.c_str(), got.c_str());
  }
  EXPECT_GT(messages, 190);
  EXPECT_GE(equal_messages, messages - 6);  // the rest say the same in other words
}

// Expected renderings of two released families' templates.
TEST(Jinja, RendersTheSharedTemplates) {
  MINIMO_REQUIRE_SHARED();
  const auto dir = testing::SharedDir() / "templates";
  const Json cases = ReadJson(dir / "cases.json");
  ASSERT_EQ(cases.size(), 16u);
  for (const Json& item : cases) {
    std::ifstream in(dir / item["template"].get<std::string>());
    const std::string source{std::istreambuf_iterator<char>(in), {}};
    const std::string wanted =
        item.contains("error") ? "ERROR: " + item["error"].get<std::string>() : item["rendered"].get<std::string>();
    EXPECT_EQ(RenderText(source, item["input"]), wanted) << item["template"] << ": " << item["name"];
  }
}

// What only a hostile template does ends in an error, soon.
TEST(Jinja, RefusesWhatWouldRunAway) {
  const std::string deep(5000, '(');
  std::string chain = "x";
  for (int i = 0; i < 5000; ++i) chain += "|upper";
  std::string sums = "1";
  for (int i = 0; i < 100'000; ++i) sums += "+1";
  std::string ifs, loops;
  for (int i = 0; i < 1000; ++i) ifs += "{% if 1 %}";
  for (int i = 0; i < 100; ++i) loops += "{% for a in range(1000) %}";
  for (int i = 0; i < 100; ++i) loops += "{% endfor %}";
  const std::string hostile[] = {
      "{{ " + deep + " }}",
      "{{ " + std::string(5000, '[') + " }}",
      "{{ " + std::string(5000, '-') + "1 }}",
      "{{ " + chain + " }}",
      "{{ " + sums + " }}",
      ifs,
      loops,
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [0] * 1000000000000 }}",
      "{{ 'aaaaaaaaaa' * 1000000 * 1000 }}",
      "{{ 9 ** 9 ** 9 }}",
      "{{ '%1000000000000d' % 1 }}",
      "{{ '{:1000000000000}'.format(1) }}",
      "{{ 'a'.center(1000000000000) }}",
      "{{ 'a'|center(1000000000000) }}",
      "{{ 'a\nb'|indent(1000000000000) }}",
      "{{ [1]|batch(1000000000000, 0)|list }}",
      "{{ [1]|slice(1000000000000)|list }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      "{{ ('a' * 1000000).join('b' * 1000000) }}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') %}{% for i in range(90) %}{% set ns.s = ns.s ~ ns.s "
      "%}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100000) %}{% set ns.l = [ns.l.index] %}{% endfor %}",
      "{% set a = [0] * 100000 %}{% for i in a %}{{ a == [0] * 100000 }}{% endfor %}",
      "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
      "{{ nested|tojson(indent=1000000000) }}",
  };
  for (const std::string& source : hostile) {
    const std::string got = RenderText(source, {{"x", 1}, {"nested", {{"a", {1, 2}}}}});
    EXPECT_TRUE(got.starts_with("SYNTAX: ") || got.starts_with("ERROR: "))
        << source.substr(0, 80) << " gave " << got.substr(0, 80);
  }
}

// Values that hold each other are let go of at the end (the leak checker owns this test), and can be printed.
TEST(Jinja, CyclesAreLetGoOf) {
  EXPECT_EQ(RenderText("{% set ns = namespace(a=1) %}{% set ns.me = ns %}{{ ns }}", Json::object()),
            "<Namespace {'a': 1, 'me': <Namespace {...}>}>");
  const char* const cyclic[] = {
      "{% macro f() %}{{ f }}{% endmacro %}{{ f() }}",
      "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ loop.changed(loop) }}{% endfor %}",
      "{% set ns = namespace() %}{% for i in range(1000) %}{% for j in [ns.x] %}{% set ns.x = loop %}{% endfor %}{% "
      "endfor %}",
      "{% set ns = namespace() %}{% macro m(p) %}{% macro inner() %}{{ p }}{% endmacro %}{% set ns.x = inner %}{% "
      "endmacro %}"
      "{% for i in range(5000) %}{{ m(ns.x) }}{% endfor %}",
      "{% set ns = namespace() %}{% for i in range(50000) %}{% set ns.n = namespace(p=ns.n) %}{% endfor %}",
  };
  for (const char* source : cyclic) EXPECT_FALSE(RenderText(source, Json::object()).starts_with("SYNTAX")) << source;
}

TEST(Jinja, ReportsTheLineOfAFault) {
  EXPECT_EQ(RenderText("a\n{% if x %}\n{{ x | }}\n{% endif %}", Json::object()),
            "SYNTAX: line 3: expected token 'name', got 'end of print statement'");
  EXPECT_EQ(RenderText("\xff", Json::object()), "SYNTAX: the template is not valid UTF-8");
}

// Random pieces of templates, spliced and spoiled: never a crash, always an end.
TEST(Jinja, SurvivesNoise) {
  const Json data = ReadJson(testing::RepoDir() / "tests/data/jinja_cases.json");
  ASSERT_TRUE(data.is_object());
  const Json& cases = data["cases"];
  std::mt19937 random(20260301);
  const auto pick = [&](size_t count) { return random() % count; };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  int rounds = 0;
  for (; rounds < 20'000 && std::chrono::steady_clock::now() < deadline; ++rounds) {
    std::string source;
    for (size_t piece = 0; piece <= pick(3); ++piece) {
      const std::string text = cases[pick(cases.size())]["template"];
      const size_t begin = pick(text.size() + 1);
      source += pick(2) == 0 ? text : text.substr(begin, pick(text.size() - begin + 1));
    }
    for (size_t spoil = pick(4); spoil > 0 && !source.empty(); --spoil) {
      static constexpr char kSpice[] = "{}%#-+|()[]'\"\\ \n.,:=~*/0aif\xc3\xff";
      source[pick(source.size())] = pick(2) == 0 ? kSpice[pick(sizeof kSpice - 1)] : static_cast<char>(pick(256));
    }
    (void)RenderText(source, data["context"]);
  }
  EXPECT_GT(rounds, 500);
}

}  // namespace
}  // namespace minimo::jinja
