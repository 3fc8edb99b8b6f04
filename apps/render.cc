// minimo render: the prompt that the chat template makes of a conversation.
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "apps/generation.h"
#include "base/error.h"
#include "checkpoint/mapped_file.h"
#include "models/loader.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

struct Flags {
  CommonFlags common;
  ChatFlags chat;
  std::string messages_file;
  bool no_generation_prompt = false;
  bool ids = false;
};

// The file holds the messages, or an object of messages, tools and further variables as a request has them.
Status Body(const Flags& flags) {
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(flags.common.model));
  MINIMO_ASSIGN(const ChatTemplate chat_template, ChatTemplate::FromFolder(folder));
  std::string text;
  if (flags.messages_file == "-") {
    text = {std::istreambuf_iterator<char>(std::cin), {}};
  } else {
    MINIMO_ASSIGN(text, ReadTextFile(flags.messages_file));
  }
  ordered_json json = ordered_json::parse(text, nullptr, false);
  ChatOptions options = flags.chat.Options();
  options.add_generation_prompt = !flags.no_generation_prompt;
  MINIMO_ASSIGN(std::string tools, flags.chat.ToolsJson());
  if (json.is_object() && json.contains("messages")) {
    if (tools.empty() && json.contains("tools") && !json["tools"].is_null()) tools = json["tools"].dump();
    ordered_json extra = json;
    if (json.contains("add_generation_prompt") && json["add_generation_prompt"].is_boolean() &&
        !flags.no_generation_prompt) {
      options.add_generation_prompt = json["add_generation_prompt"].get<bool>();
    }
    for (const char* key : {"messages", "tools", "add_generation_prompt"}) extra.erase(key);
    options.extra = extra.dump();
    json = ordered_json(json["messages"]);
  }
  if (!json.is_array())
    return Errorf("{}: expected a JSON list of messages, or an object with messages", flags.messages_file);
  if (!flags.chat.system.empty()) json.insert(json.begin(), {{"role", "system"}, {"content", flags.chat.system}});
  MINIMO_ASSIGN(const std::string prompt, chat_template.Render(json, ToolsOrNull(tools), options));
  if (!flags.ids) {
    std::cout << prompt;
    return {};
  }
  MINIMO_ASSIGN(const auto tokenizer, Tokenizer::FromFolder(folder));
  MINIMO_ASSIGN(const auto ids, tokenizer->Encode(prompt));
  std::cout << ordered_json(ids).dump() << "\n";
  return {};
}

}  // namespace

void AddRender(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("render", "Print the prompt that the chat template makes of a conversation");
  flags->common.AddModelArgument(command);
  command
      .add_option("--messages", flags->messages_file,
                  "A JSON file: the messages, or a whole request; - for standard input")
      ->required();
  flags->chat.Add(command);
  command.add_flag("--no-generation-prompt", flags->no_generation_prompt, "Without the opening of the answer");
  command.add_flag("--ids", flags->ids, "Token ids instead of text");
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
