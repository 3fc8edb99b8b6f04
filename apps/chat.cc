// minimo chat: a conversation in the terminal.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/generation.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

volatile std::sig_atomic_t interrupted = 0;

struct Flags {
  CommonFlags common;
  SamplingFlags sampling;
  ChatFlags chat;
};

class Conversation {
 public:
  Conversation(const Flags& flags, LocalModel local, ChatTemplate chat_template, std::string tools)
      : flags_(flags), local_(std::move(local)), template_(std::move(chat_template)), tools_(std::move(tools)) {
    Reset();
  }

  void Reset() {
    messages_ = ordered_json::array();
    if (!flags_.chat.system.empty()) messages_.push_back({{"role", "system"}, {"content", flags_.chat.system}});
  }

  // One exchange; a failed one leaves the conversation as it was.
  Status Say(const std::string& text) {
    const ordered_json before = messages_;
    messages_.push_back({{"role", "user"}, {"content", text}});
    Status said = Answer();
    if (!said.ok()) messages_ = before;
    return said;
  }

 private:
  Status Answer() {
    MINIMO_ASSIGN(const std::string prompt, template_.Render(messages_, ToolsOrNull(tools_), flags_.chat.Options()));
    Request request;
    MINIMO_ASSIGN(request.prompt_ids, local_.engine->tokenizer().Encode(prompt));
    request.params = flags_.sampling.Apply(local_.engine->default_params());
    MINIMO_ASSIGN(const auto stream, Stream::Submit(*local_.engine, std::move(request)));
    OutputParserOptions parse;
    parse.starts_in_reasoning = PromptOpensReasoning(prompt);
    MINIMO_ASSIGN(const auto parser, MakeOutputParser(local_.engine->model().model_type, tools_, parse));
    ParsedOutput parsed;
    AnswerPrinter printer;
    const auto take = [&](const std::vector<ParsedDelta>& deltas) {
      for (const ParsedDelta& delta : deltas) parsed.Add(delta);
      printer.Print(deltas);
    };
    interrupted = 0;
    MINIMO_ASSIGN(const Completion done, Drain(*stream, [&](const Event& event) {
      take(parser->Feed(event.text));
      return interrupted == 0;
    }));
    take(parser->Finish());
    printer.End();
    ordered_json message = {{"role", "assistant"}, {"content", parsed.content}};
    if (!parsed.reasoning.empty()) message["reasoning_content"] = parsed.reasoning;
    if (!parsed.tool_calls.empty()) message["tool_calls"] = ordered_json::parse(parsed.ToolCallsJson());
    messages_.push_back(std::move(message));
    return {};
  }

  const Flags& flags_;
  LocalModel local_;
  ChatTemplate template_;
  std::string tools_;
  ordered_json messages_;
};

Status Body(const Flags& flags) {
  MINIMO_ASSIGN(LocalModel local, OpenLocalModel(LocalOptions(flags.common, 1)));
  MINIMO_TRY(flags.common.CheckQuantization(local.folder));
  MINIMO_ASSIGN(ChatTemplate chat_template, ChatTemplate::FromFolder(local.folder));
  MINIMO_ASSIGN(std::string tools, flags.chat.ToolsJson());
  Conversation conversation(flags, std::move(local), std::move(chat_template), std::move(tools));
  std::signal(SIGINT, [](int) { interrupted = 1; });  // stops the answer, not the program
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer\n");
  std::string line;
  while (true) {
    if (terminal) fmt::print(stderr, "\n> ");
    if (!std::getline(std::cin, line) || line == "/exit") return {};
    if (line.empty()) continue;
    if (line == "/reset") {
      conversation.Reset();
      continue;
    }
    const Status said = conversation.Say(line);
    if (said.ok()) continue;
    if (!terminal) return said;
    fmt::print(stderr, "minimo: {}\n", said.error().message);
  }
}

}  // namespace

void AddChat(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("chat", "Talk to a model in the terminal");
  flags->common.AddModelArgument(command);
  flags->chat.Add(command);
  flags->sampling.Add(command);
  flags->common.AddRuntimeFlags(command);
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
