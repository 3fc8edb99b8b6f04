#include "minimo/chat.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/chat_normalize.h"
#include "text/jinja/template.h"

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;

// Nothing where there is no such file.
std::optional<std::string> ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

// A discarded value where there is no such file; an error where it is not a JSON object.
Result<Json> ReadJsonFile(const std::filesystem::path& path) {
  const std::optional<std::string> text = ReadFile(path);
  if (!text) return Json(Json::value_t::discarded);
  Json json = Json::parse(*text, nullptr, false);
  if (!json.is_object()) return Errorf("{}: a JSON object is expected", path.string());
  return json;
}

// The special tokens that Hugging Face gives to templates: those that are set, as text.
void AddSpecialTokens(const Json& config, Json& tokens) {
  if (!config.is_object()) return;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto found = config.find(key);
    if (found == config.end() || tokens.contains(key)) continue;
    if (found->is_string()) tokens[key] = *found;
    if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
      tokens[key] = (*found)["content"];
  }
}

Result<Json> ParseObject(std::string_view text, const char* what) {
  if (text.empty()) return Json::object();
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return Errorf("{}: a JSON object is expected", what);
  return json;
}

struct Compiled {
  jinja::JinjaTemplate jinja;
  TemplateTraits traits;
};

Result<Compiled> Compile(std::string_view source) {
  MINIMO_ASSIGN(jinja::JinjaTemplate parsed, jinja::JinjaTemplate::Parse(source));
  TemplateTraits traits;
  traits.loops_over_content = parsed.LoopsOver("content");
  traits.splits_reasoning = parsed.SplitsOn("</think>");
  traits.reasoning_on_lines = parsed.Mentions("\n</think>");
  traits.knows_developer = parsed.Mentions("developer");
  return Compiled{std::move(parsed), traits};
}

}  // namespace

struct ChatTemplate::Impl {
  Compiled plain;
  std::optional<Compiled> with_tools;  // the one named "tool_use"
  Json special_tokens;
};

Result<ChatTemplate> ChatTemplate::FromText(std::string_view source, std::string_view special_tokens) {
  MINIMO_ASSIGN(Json tokens, ParseObject(special_tokens, "special tokens"));
  MINIMO_ASSIGN(Compiled compiled, Compile(source));
  return ChatTemplate(std::make_shared<Impl>(Impl{std::move(compiled), std::nullopt, std::move(tokens)}));
}

Result<ChatTemplate> ChatTemplate::FromFolder(const std::filesystem::path& folder) {
  MINIMO_ASSIGN(const Json config, ReadJsonFile(folder / "tokenizer_config.json"));
  MINIMO_ASSIGN(const Json token_map, ReadJsonFile(folder / "special_tokens_map.json"));
  Json tokens = Json::object();
  AddSpecialTokens(config, tokens);
  AddSpecialTokens(token_map, tokens);

  std::filesystem::path origin = folder / "chat_template.jinja";
  std::optional<std::string> plain = ReadFile(origin);
  std::optional<std::string> with_tools;
  for (const char* file : {"tokenizer_config.json", "chat_template.json"}) {
    if (plain) break;
    origin = folder / file;
    MINIMO_ASSIGN(const Json json, ReadJsonFile(origin));
    const auto found = json.is_object() ? json.find("chat_template") : json.end();
    if (!json.is_object() || found == json.end()) continue;
    if (found->is_string()) plain = found->get<std::string>();
    if (!found->is_array()) continue;
    for (const Json& item : *found) {
      if (!item.is_object() || !item.contains("template") || !item["template"].is_string()) {
        return Errorf("{}: chat_template: {{\"name\": ..., \"template\": ...}} is expected", origin.string());
      }
      const std::string name =
          item.contains("name") && item["name"].is_string() ? item["name"].get<std::string>() : "default";
      if (name == "default") plain = item["template"].get<std::string>();
      if (name == "tool_use") with_tools = item["template"].get<std::string>();
    }
  }
  if (!plain) {
    return Errorf("{}: no chat template: neither chat_template.jinja nor chat_template in tokenizer_config.json",
                  folder.string());
  }
  const auto compile = [&origin](const std::string& source) -> Result<Compiled> {
    Result<Compiled> compiled = Compile(source);
    if (!compiled.ok()) return Errorf("{}: {}", origin.string(), compiled.error().message);
    return compiled;
  };
  MINIMO_ASSIGN(Compiled compiled, compile(*plain));
  std::optional<Compiled> tool_use;
  if (with_tools) {
    MINIMO_ASSIGN(tool_use, compile(*with_tools));
  }
  return ChatTemplate(std::make_shared<Impl>(Impl{std::move(compiled), std::move(tool_use), std::move(tokens)}));
}

namespace {

// The prompt up to the end of the last message's content.
Result<std::string> CutAfterFinalMessage(std::string text, const Json& messages) {
  const Json& content = messages.back()["content"];
  const Json& last = content.is_array() && !content.empty() ? content.back()["text"] : content;
  std::string final_text = last.is_string() ? last.get<std::string>() : "";
  const size_t end = final_text.find_last_not_of(" \t\r\n");
  const size_t begin = std::min(final_text.find_first_not_of(" \t\r\n"), final_text.size());
  if (end == final_text.npos) return Errorf("continue_final_message: the last message has no content to go on from");
  const std::string core = final_text.substr(begin, end + 1 - begin);
  const size_t at = text.rfind(core);
  if (at == text.npos)
    return Errorf("continue_final_message: the template does not write the last message's content as it is");
  // White space at the content's end stays where the template kept it.
  const bool kept = text.compare(at, final_text.size() - begin, final_text, begin) == 0;
  text.resize(at + (kept ? final_text.size() - begin : core.size()));
  return text;
}

}  // namespace

Result<std::string> ChatTemplate::Render(const Json& messages, const Json& tools, const ChatOptions& options) const {
  MINIMO_TRY(CheckDepth(messages, "messages"));
  MINIMO_TRY(CheckDepth(tools, "tools"));
  MINIMO_ASSIGN(Json offered, NormalizeTools(tools));
  const Compiled& compiled = impl_->with_tools && !offered.is_null() ? *impl_->with_tools : impl_->plain;
  MINIMO_ASSIGN(Json history, NormalizeMessages(messages, compiled.traits));
  if (options.continue_final_message && options.add_generation_prompt) {
    return Errorf("continue_final_message and add_generation_prompt exclude each other");
  }
  Json context = impl_->special_tokens;
  context["messages"] = history;
  context["tools"] = std::move(offered);
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  if (!options.reasoning_effort.empty()) {
    context["reasoning_effort"] = options.reasoning_effort;
    if (options.reasoning_effort == "none") context["enable_thinking"] = false;
  }
  if (options.enable_thinking) context["enable_thinking"] = *options.enable_thinking;
  MINIMO_ASSIGN(Json extra, ParseObject(options.extra, "chat_template_kwargs"));
  for (auto& [key, value] : extra.items()) {
    if (key == "messages" || key == "tools") return Errorf("chat_template_kwargs: \"{}\" cannot be set here", key);
    context[key] = std::move(value);
  }
  MINIMO_ASSIGN(const jinja::Value variables, jinja::FromJson(context));
  MINIMO_ASSIGN(std::string text, compiled.jinja.Render(variables));
  if (options.continue_final_message) return CutAfterFinalMessage(std::move(text), history);
  return text;
}

Result<std::string> ChatTemplate::RenderText(std::string_view messages, std::string_view tools,
                                             const ChatOptions& options) const {
  const Json parsed_messages = Json::parse(messages, nullptr, false);
  if (parsed_messages.is_discarded()) return Errorf("messages: not valid JSON");
  const Json parsed_tools = tools.empty() ? Json() : Json::parse(tools, nullptr, false);
  if (parsed_tools.is_discarded()) return Errorf("tools: not valid JSON");
  return Render(parsed_messages, parsed_tools, options);
}

}  // namespace minimo
