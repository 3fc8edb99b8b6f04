#include "server/template_chat.h"

#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "grammar/structured_output.h"
#include "grammar/tokenizer_vocabulary.h"
#include "minimo/chat.h"
#include "minimo/tokenizer.h"
#include "sampling/generation_config.h"
#include "server/chat_input.h"
#include "server/json_parse.h"
#include "spec/model_spec.h"
#include "text/chat_protocol.h"

namespace minimo::server {
namespace {

using grammar::Reasoning;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxCached = 256;  // compiled matchers

// What the model may write before a structured part, told from the end of the prompt.
Reasoning ReasoningAfter(std::string_view prompt) {
  if (PromptOpensReasoning(prompt)) return Reasoning::kOpen;
  const size_t end = prompt.find_last_not_of(" \n\r\t");
  const std::string_view trimmed = prompt.substr(0, end == prompt.npos ? 0 : end + 1);
  static constexpr std::string_view kClosed = "</think>";
  const bool closed = trimmed.size() >= kClosed.size() && trimmed.substr(trimmed.size() - kClosed.size()) == kClosed;
  return closed ? Reasoning::kNone : Reasoning::kOptional;
}

}  // namespace

struct TemplateChat::Impl {
  Impl(const Engine& engine, ChatTemplate chat_template)
      : engine(engine), chat_template(std::move(chat_template)), model_type(engine.model().model_type) {}

  Result<grammar::Matcher> MatcherOf(const ChatInput& input, const Options& options, Reasoning reasoning);
  Result<grammar::Matcher> Compile(const ChatInput& input, const Options& options, Reasoning reasoning);
  Result<grammar::Matcher> CompileTools(const ChatInput& input, bool parallel, Reasoning reasoning);
  grammar::Vocabulary VocabularyOnce();

  const Engine& engine;
  const ChatTemplate chat_template;
  const std::string model_type;
  std::vector<int32_t> eos_ids;

  std::mutex mutex;
  grammar::Vocabulary vocabulary;                 // guarded by mutex; made at the first need
  std::map<std::string, grammar::Matcher> cache;  // guarded by mutex
};

TemplateChat::TemplateChat(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TemplateChat::~TemplateChat() = default;

Result<std::unique_ptr<TemplateChat>> TemplateChat::Load(const std::string& folder, const Engine& engine) {
  MINIMO_ASSIGN(ChatTemplate chat_template, ChatTemplate::FromFolder(folder));
  MINIMO_ASSIGN(const GenerationConfig generation, LoadGenerationConfig(folder));
  auto impl = std::make_unique<Impl>(engine, std::move(chat_template));
  impl->eos_ids = generation.eos_ids.empty() ? engine.model().eos_token_ids : generation.eos_ids;
  return std::unique_ptr<TemplateChat>(new TemplateChat(std::move(impl)));
}

grammar::Vocabulary TemplateChat::Impl::VocabularyOnce() {
  const std::lock_guard lock(mutex);
  if (!vocabulary) vocabulary = grammar::VocabularyOf(engine.tokenizer(), eos_ids);
  return vocabulary;
}

Result<grammar::Matcher> TemplateChat::Impl::CompileTools(const ChatInput& input, bool parallel, Reasoning reasoning) {
  std::vector<grammar::Tool> tools;
  for (const Json& tool : input.tools) {
    const Json& function = tool["function"];
    const std::string name = function["name"].get<std::string>();
    if (input.tool_choice.kind == ToolChoice::kNamed && name != input.tool_choice.name) continue;
    tools.push_back({name, Dump(function["parameters"])});
  }
  return grammar::CompileToolCalls(tools, FindChatProtocol(model_type), parallel, VocabularyOnce(), reasoning);
}

Result<grammar::Matcher> TemplateChat::Impl::Compile(const ChatInput& input, const Options& options,
                                                     Reasoning reasoning) {
  if (input.tool_choice.kind == ToolChoice::kRequired || input.tool_choice.kind == ToolChoice::kNamed) {
    return CompileTools(input, options.parallel_tool_calls && input.tool_choice.kind == ToolChoice::kRequired,
                        reasoning);
  }
  const OutputFormat& format = options.format;
  switch (format.kind) {
    case OutputFormat::kRegex:
      return grammar::CompileRegex(format.wanted->get_ref<const std::string&>(), VocabularyOnce(), reasoning);
    case OutputFormat::kChoice:
      return grammar::CompileChoice(format.wanted->get<std::vector<std::string>>(), VocabularyOnce(), reasoning);
    case OutputFormat::kJsonSchema:
      return grammar::CompileJsonSchema(Dump(*format.wanted), VocabularyOnce(), {}, reasoning);
    default:
      return grammar::CompileJsonObject(VocabularyOnce(), {}, reasoning);
  }
}

// Null if the answer is free.
Result<grammar::Matcher> TemplateChat::Impl::MatcherOf(const ChatInput& input, const Options& options,
                                                       Reasoning reasoning) {
  const bool forced = input.tool_choice.kind == ToolChoice::kRequired || input.tool_choice.kind == ToolChoice::kNamed;
  if (!forced && options.format.kind == OutputFormat::kText) return grammar::Matcher();
  std::string key = fmt::format("{} ", static_cast<int>(reasoning));
  if (forced) {
    key += fmt::format("tools {} {} {}", input.tool_choice.name, options.parallel_tool_calls, Dump(input.tools));
  } else {
    key += fmt::format("format {} ", static_cast<int>(options.format.kind));
    if (options.format.wanted) key += Dump(*options.format.wanted);
  }
  {
    const std::lock_guard lock(mutex);
    if (auto it = cache.find(key); it != cache.end()) return it->second;
  }
  MINIMO_ASSIGN(grammar::Matcher matcher, Compile(input, options, reasoning));
  const std::lock_guard lock(mutex);
  if (cache.size() >= kMaxCached) cache.clear();
  cache[key] = matcher;
  return matcher;
}

Result<std::shared_ptr<const TokenMatcher>> TemplateChat::FormatMatcher(const OutputFormat& format) const {
  return impl_->MatcherOf(ChatInput{}, Options{.format = format}, Reasoning::kNone);
}

Result<PreparedChat> TemplateChat::Prepare(const ChatInput& input, const Options& options) const {
  Impl& impl = *impl_;
  const bool no_tools = input.tools.empty() || input.tool_choice.kind == ToolChoice::kNone;
  const Json tools = no_tools ? Json() : input.tools;
  ChatOptions chat;
  chat.add_generation_prompt = options.add_generation_prompt && !options.continue_final_message;
  chat.continue_final_message = options.continue_final_message;
  if (!input.template_kwargs.empty()) chat.extra = Dump(input.template_kwargs);
  MINIMO_ASSIGN(const std::string prompt, impl.chat_template.Render(input.messages, tools, chat));

  PreparedChat prepared;
  MINIMO_ASSIGN(prepared.prompt_ids, impl.engine.tokenizer().Encode(prompt));
  const Reasoning reasoning = ReasoningAfter(prompt);
  MINIMO_ASSIGN(prepared.matcher, impl.MatcherOf(input, options, reasoning));
  const OutputParserOptions parsing{.starts_in_reasoning = reasoning == Reasoning::kOpen,
                                    .parse_tools = input.tool_choice.kind != ToolChoice::kNone,
                                    .parallel_tool_calls = options.parallel_tool_calls};
  const std::string tools_json = no_tools ? "" : Dump(tools);
  for (int i = 0; i < options.choices; ++i) {
    MINIMO_ASSIGN(auto parser, MakeOutputParser(impl.model_type, tools_json, parsing));
    prepared.parsers.push_back(std::move(parser));
  }
  return prepared;
}

}  // namespace minimo::server
