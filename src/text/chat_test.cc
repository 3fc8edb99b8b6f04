#include "minimo/chat.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/scratch_dir.h"
#include "tests/support/shared.h"

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The prompt, or "ERROR: " and the message.
std::string Render(const ChatTemplate& chat, const Json& messages, const Json& tools = {},
                   const ChatOptions& options = {}) {
  const Result<std::string> text = chat.Render(messages, tools, options);
  return text.ok() ? *text : "ERROR: " + text.error().message;
}

ChatTemplate Nano(const char* name) {
  Result<ChatTemplate> chat = ChatTemplate::FromFolder(testing::RepoDir() / "models" / name);
  EXPECT_TRUE(chat.ok());
  return *std::move(chat);
}

TEST(Chat, SharedCases) {
  MINIMO_REQUIRE_SHARED();
  const auto dir = testing::SharedDir() / "templates";
  const Json cases = Json::parse(ReadText(dir / "cases.json"));
  ASSERT_EQ(cases.size(), 16u);
  for (const Json& item : cases) {
    const Result<ChatTemplate> chat = ChatTemplate::FromText(ReadText(dir / item["template"].get<std::string>()));
    ASSERT_TRUE(chat.ok()) << chat.error().message;
    ChatOptions options;
    options.add_generation_prompt = item["input"]["add_generation_prompt"];
    const std::string expected =
        item.contains("error") ? "ERROR: " + item["error"].get<std::string>() : item["rendered"].get<std::string>();
    EXPECT_EQ(Render(*chat, item["input"]["messages"], item["input"].value("tools", Json()), options), expected)
        << item["template"] << ": " << item["name"];
  }
}

TEST(Chat, NanoPrompts) {
  MINIMO_REQUIRE_SHARED();
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    const Json cases = Json::parse(ReadText(testing::SharedDir() / "golden" / name / "cases.json"));
    ASSERT_GE(cases.size(), 4u);
    const ChatTemplate chat = Nano(name);
    for (const Json& item : cases) {
      EXPECT_EQ(Render(chat, item["messages"], item["tools"]), item["prompt"].get<std::string>());
      EXPECT_EQ(*chat.RenderText(item["messages"].dump(), item["tools"].dump()), item["prompt"].get<std::string>());
    }
  }
}

TEST(Chat, ReasoningComesBackUnderAnyName) {
  const ChatTemplate m2 = Nano("nano-minimax-m2");
  const auto history = [](const char* fields) {
    return Json::parse(std::string(R"([{"role": "user", "content": "q"}, {"role": "assistant", )") + fields + "}]");
  };
  ChatOptions options;
  options.add_generation_prompt = false;
  const std::string expected =
      "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n]~b]user\nq[e~[\n]~b]ai\n<think>\nR\n</think>\n\nA[e~[\n";
  for (const char* fields :
       {R"("reasoning_content": "R", "content": "A")", R"("reasoning": "R", "content": "A")",
        R"("reasoning_content": null, "reasoning": "R", "content": "A")",
        R"("reasoning_details": [{"type": "reasoning.text", "text": "R"}], "content": "A")",
        R"("content": "<think>\nR\n</think>\n\nA")", R"("content": "R\n</think>\n\nA")",
        R"("content": [{"type": "text", "text": "<think>R</think>"}, {"type": "text", "text": "A"}])"}) {
    EXPECT_EQ(Render(m2, history(fields), {}, options), expected) << fields;
  }
  // Where tags do not stand on lines of their own, newlines are part of the reasoning.
  EXPECT_EQ(Render(Nano("nano-mimo-v2-flash"), history(R"("content": "<think>\nR\n</think>\nA")"), {}, options),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
            "<|im_start|>assistant\n<think>\nR\n</think>\nA<|im_end|>\n");
}

TEST(Chat, ToolCallsComeBackInAnyForm) {
  const ChatTemplate m2 = Nano("nano-minimax-m2");
  ChatOptions options;
  options.add_generation_prompt = false;
  const std::string expected =
      "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n]~b]ai\n<minimax:tool_call>\n<invoke name=\"f\">\n"
      "<parameter name=\"a\">x</parameter>\n<parameter name=\"b\">[1, "
      "2.5]</parameter>\n</invoke>\n</minimax:tool_call>[e~[\n";
  for (
      const char* message :
      {R"({"role": "assistant", "tool_calls": [{"id": "1", "type": "function",
            "function": {"name": "f", "arguments": "{\"a\": \"x\", \"b\": [1, 2.5]}"}}]})",
       R"({"role": "assistant", "content": null,
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": "x", "b": [1, 2.5]}}}]})",
       R"({"role": "assistant", "content": "",
            "tool_calls": [{"name": "f", "arguments": "{\"a\": \"x\", \"b\": [1, 2.5]}"}]})",
       R"({"role": "assistant", "function_call": {"name": "f", "arguments": "{\"a\": \"x\", \"b\": [1, 2.5]}"}})"}) {
    EXPECT_EQ(Render(m2, Json::array({Json::parse(message)}), {}, options), expected) << message;
  }
}

TEST(Chat, Content) {
  const ChatTemplate m2 = Nano("nano-minimax-m2");
  const std::string expected = "]~!b[]~b]system\nS[e~[\n]~b]user\nab[e~[\n]~b]ai\n<think>\n";
  EXPECT_EQ(
      Render(
          m2,
          Json::parse(
              R"([{"role": "developer", "content": "S"}, {"role": "user",
                     "content": [{"type": "text", "text": "a"}, "b"]}])")),
      expected);
  // A template that takes lists gets them: one answer per part of a tool's result.
  const Result<ChatTemplate> lists =
      ChatTemplate::FromText("{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}");
  ASSERT_TRUE(lists.ok());
  EXPECT_EQ(Render(*lists, Json::parse(R"([{"role": "tool", "content": [{"type": "text", "text": "a"}, "b"]}])")),
            "[a][b]");
}

TEST(Chat, Variables) {
  const Result<ChatTemplate> chat = ChatTemplate::FromText(
      "{{ bos_token }}{{ eos_token is defined }} {{ enable_thinking }} {{ reasoning_effort }} {{ tools }} {{ x }} {{ "
      "add_generation_prompt }}",
      R"({"bos_token": "<s>"})");
  ASSERT_TRUE(chat.ok());
  const Json messages = Json::parse(R"([{"role": "user", "content": "q"}])");
  EXPECT_EQ(Render(*chat, messages), "<s>False   None  True");
  ChatOptions options;
  options.reasoning_effort = "none";
  options.extra = R"({"x": [1], "eos_token": "E"})";
  options.add_generation_prompt = false;
  EXPECT_EQ(Render(*chat, messages, Json::array(), options), "<s>True False none None [1] False");
  options.enable_thinking = true;
  EXPECT_EQ(Render(*chat, messages, {}, options), "<s>True True none None [1] False");
  EXPECT_EQ(Render(Nano("nano-mimo-v2-flash"), messages, {}, {.enable_thinking = false}),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>");
}

TEST(Chat, ContinuesTheFinalMessage) {
  ChatOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  const Json messages =
      Json::parse(R"([{"role": "user", "content": "Go"}, {"role": "assistant", "content": "Once upon "}])");
  EXPECT_EQ(Render(Nano("nano-minimax-m2"), messages, {}, options),
            "]~!b[]~b]system\nYou are a helpful assistant.[e~[\n]~b]user\nGo[e~[\n]~b]ai\nOnce upon ");
}

TEST(Chat, FaultsAreNamed) {
  const ChatTemplate m2 = Nano("nano-minimax-m2");
  const std::pair<const char*, const char*> faults[] = {
      {"{}", "messages: a list is expected"},
      {"[]", "messages: at least one message is expected"},
      {"[1]", "messages[0]: an object is expected"},
      {R"([{"content": "x"}])", "messages[0].role: a string is expected"},
      {R"([{"role": "user", "content": 5}])", "messages[0].content: a string or a list of text parts is expected"},
      {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
       "messages[0].content[0]: parts of type \"image_url\" are not supported, text alone is"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}])",
       "messages[0].tool_calls[0].function.arguments: a JSON object, or its text, is expected"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
       "messages[0].tool_calls[0].function.arguments: a JSON object, or its text, is expected"},
      {R"([{"role": "wizard", "content": "x"}])", "unknown role: wizard"},
  };
  for (const auto& [messages, message] : faults)
    EXPECT_EQ(Render(m2, Json::parse(messages)), std::string("ERROR: ") + message);
  const Json user = Json::parse(R"([{"role": "user", "content": "q"}])");
  EXPECT_EQ(Render(m2, user, Json::parse(R"([{"type": "function"}])")),
            "ERROR: tools[0].function.name: a string is expected");
  EXPECT_EQ(Render(m2, user, {}, {.extra = "[1]"}), "ERROR: chat_template_kwargs: a JSON object is expected");
  EXPECT_EQ(Render(m2, Json::parse(std::string(5000, '[') + std::string(5000, ']'))),
            "ERROR: messages: nested more than 150 levels deep");
  EXPECT_FALSE(m2.RenderText("[", "").ok());
}

TEST(Chat, Folders) {
  const testing::ScratchDir scratch;
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(scratch.path() / name) << text; };
  const Json messages = Json::parse(R"([{"role": "user", "content": "q"}])");
  const Json tools = Json::parse(R"([{"name": "f"}])");
  EXPECT_FALSE(ChatTemplate::FromFolder(scratch.path()).ok());
  write("chat_template.json", R"({"chat_template": "old"})");
  EXPECT_EQ(Render(*ChatTemplate::FromFolder(scratch.path()), messages), "old");
  write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}config"})");
  EXPECT_EQ(Render(*ChatTemplate::FromFolder(scratch.path()), messages), "<s>config");
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use",
          "template": "{{ tools[0].function.name }}"}]})");
  EXPECT_EQ(Render(*ChatTemplate::FromFolder(scratch.path()), messages), "d");
  EXPECT_EQ(Render(*ChatTemplate::FromFolder(scratch.path()), messages, tools), "f");
  write("chat_template.jinja", "a\n{% if %}");
  const Result<ChatTemplate> broken = ChatTemplate::FromFolder(scratch.path());
  ASSERT_FALSE(broken.ok());
  EXPECT_TRUE(broken.error().message.ends_with(
      "chat_template.jinja: line 2: Expected an expression, got 'end of statement block'"))
      << broken.error().message;
  write("tokenizer_config.json", "{");
  EXPECT_FALSE(ChatTemplate::FromFolder(scratch.path()).ok());
}

}  // namespace
}  // namespace minimo
