// minimo run: one completion, streamed.
#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/generation.h"
#include "apps/rank_flags.h"
#include "base/error.h"
#include "models/loader.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

volatile std::sig_atomic_t interrupted = 0;

struct Flags {
  CommonFlags common;
  RankFlags ranks;
  SamplingFlags sampling;
  ChatFlags chat;
  std::string prompt;
  std::string message;
  bool json = false;
};

struct Prompt {
  std::string text;
  std::string tools;
  bool is_chat = false;
};

Result<Prompt> MakePrompt(const Flags& flags, const std::string& folder, bool is_chat) {
  Prompt prompt;
  prompt.is_chat = is_chat;
  if (!is_chat) {
    prompt.text = flags.prompt;
    return prompt;
  }
  MINIMO_ASSIGN(const ChatTemplate chat_template, ChatTemplate::FromFolder(folder));
  MINIMO_ASSIGN(prompt.tools, flags.chat.ToolsJson());
  ordered_json messages = ordered_json::array();
  if (!flags.chat.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.chat.system}});
  messages.push_back({{"role", "user"}, {"content", flags.message}});
  MINIMO_ASSIGN(prompt.text, chat_template.Render(messages, ToolsOrNull(prompt.tools), flags.chat.Options()));
  return prompt;
}

ordered_json ToJson(const LocalModel& local, const Completion& c, const ParsedOutput& parsed, bool is_chat) {
  ordered_json json = {{"model", local.folder}, {"text", c.text}};
  json["token_ids"] = ordered_json::array();
  ordered_json logprobs = ordered_json::array();
  for (const OutputToken& t : c.tokens) {
    json["token_ids"].push_back(t.token);
    ordered_json top = ordered_json::array();
    for (const TokenLogprob& l : t.top) top.push_back({{"token", l.token}, {"logprob", l.logprob}});
    logprobs.push_back({{"token", t.token}, {"logprob", t.logprob}, {"top", top}});
  }
  if (!c.tokens.empty() && !c.tokens[0].top.empty()) json["logprobs"] = logprobs;
  if (is_chat) {
    json["reasoning"] = parsed.reasoning;
    json["content"] = parsed.content;
    json["tool_calls"] = ordered_json::parse(parsed.ToolCallsJson());
  }
  const bool calls = is_chat && !parsed.tool_calls.empty() && c.finish == FinishReason::kStop;
  json["finish_reason"] = calls ? "tool_calls" : ToString(c.finish);
  const double first = static_cast<double>(c.timing.first_token_us - c.timing.arrival_us) * 1e-3;
  const double rest = static_cast<double>(c.timing.last_token_us - c.timing.first_token_us) * 1e-6;
  json["usage"] = {{"prompt_tokens", c.usage.prompt_tokens}, {"completion_tokens", c.usage.completion_tokens}};
  json["timings"] = {{"load_ms", local.load_seconds * 1e3},
                     {"time_to_first_token_ms", first},
                     {"decode_ms", rest * 1e3},
                     {"decode_tokens_per_second", rest > 0 ? (c.usage.completion_tokens - 1) / rest : 0.0}};
  return json;
}

Status Body(const Flags& flags, bool is_chat) {
  EngineOptions options = LocalOptions(flags.common, 1);
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(options.model));
  MINIMO_TRY(flags.common.CheckQuantization(folder));
  MINIMO_TRY(flags.ranks.Fill(&options));
  if (Follows(options)) return Follow(options);
  MINIMO_ASSIGN(const LocalModel local, OpenLocalModel(options));
  MINIMO_ASSIGN(const Prompt prompt, MakePrompt(flags, folder, is_chat));
  Request request;
  MINIMO_ASSIGN(request.prompt_ids, local.engine->tokenizer().Encode(prompt.text));
  request.params = flags.sampling.Apply(local.engine->default_params());
  if (is_chat) request.params.skip_special_tokens = true;
  MINIMO_ASSIGN(const auto stream, Stream::Submit(*local.engine, std::move(request)));

  OutputParserOptions parse;
  parse.starts_in_reasoning = PromptOpensReasoning(prompt.text);
  MINIMO_ASSIGN(const auto parser, MakeOutputParser(local.engine->model().model_type, prompt.tools, parse));
  ParsedOutput parsed;
  AnswerPrinter printer;
  const auto take = [&](const std::vector<ParsedDelta>& deltas) {
    for (const ParsedDelta& delta : deltas) parsed.Add(delta);
    if (!flags.json) printer.Print(deltas);
  };
  std::signal(SIGINT, [](int) { interrupted = 1; });
  MINIMO_ASSIGN(const Completion done, Drain(*stream, [&](const Event& event) {
    if (is_chat) {
      take(parser->Feed(event.text));
    } else if (!flags.json) {
      std::cout << event.text << std::flush;
    }
    return interrupted == 0;
  }));
  if (is_chat) take(parser->Finish());
  if (flags.json) {
    std::cout << ToJson(local, done, parsed, is_chat).dump(2, ' ', false, ordered_json::error_handler_t::replace)
              << "\n";
  } else if (is_chat) {
    printer.End();
  } else {
    std::cout << "\n";
  }
  if (!std::cout.flush()) return Error{"cannot write to standard output"};
  return {};
}

}  // namespace

void AddRun(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("run", "Print one completion, streaming");
  flags->common.AddModelFlag(command);
  auto* prompt = command.add_option("--prompt", flags->prompt, "A text to continue");
  auto* chat = command.add_option("--chat", flags->message, "A user's message: rendered by the chat template");
  prompt->excludes(chat);
  flags->chat.Add(command);
  flags->sampling.Add(command);
  command.add_flag("--json", flags->json, "One JSON object: text, token ids, reasoning, tool calls, timings");
  flags->common.AddRuntimeFlags(command);
  flags->ranks.AddTo(command);
  command.callback([prompt, chat] {
    if (!*prompt && !*chat) throw CLI::RequiredError("--prompt or --chat");
  });
  commands.Body(command, [flags, chat] { return Body(*flags, bool(*chat)); });
}

}  // namespace minimo
