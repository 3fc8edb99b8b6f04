#include "text/chat_normalize.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace minimo {
namespace {

using Json = nlohmann::ordered_json;

std::string Trim(const std::string& text, const char* characters) {
  const size_t first = text.find_first_not_of(characters);
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(characters) - first + 1);
}

std::string StringAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// Text parts as {"type": "text", "text": ...}; joined to one string unless they may stay a list.
Status NormalizeContent(Json& message, const std::string& where, bool keep_list) {
  Json& content = message["content"];
  if (content.is_null()) content = "";
  if (content.is_string()) return {};
  if (!content.is_array()) return Errorf("{}.content: a string or a list of text parts is expected", where);
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    Json& part = content[i];
    if (part.is_string()) part = Json{{"type", "text"}, {"text", part}};
    if (!part.is_object()) return Errorf("{}.content[{}]: a text part is expected", where, i);
    const std::string type = StringAt(part, "type");
    const std::string key = type == "refusal" ? "refusal" : "text";
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal" && !type.empty()) {
      return Errorf("{}.content[{}]: parts of type \"{}\" are not supported, text alone is", where, i, type);
    }
    if (!part.contains(key) || !part[key].is_string())
      return Errorf("{}.content[{}].{}: a string is expected", where, i, key);
    std::string text = part[key].get<std::string>();
    joined += text;
    part = Json{{"type", "text"}, {"text", std::move(text)}};
  }
  if (!keep_list) content = std::move(joined);
  return {};
}

// The text of a list of {"text": ...} or {"summary": ...} records.
std::string DetailsText(const Json& details) {
  std::string text;
  if (!details.is_array()) return text;
  for (const Json& detail : details) {
    if (detail.is_string()) text += detail.get<std::string>();
    if (detail.is_object()) text += detail.contains("text") ? StringAt(detail, "text") : StringAt(detail, "summary");
  }
  return text;
}

// "<think>R</think>C": R and C, as templates that split do it.
bool SplitInline(const std::string& content, bool on_lines, std::string* reasoning, std::string* rest) {
  const size_t close = content.find("</think>");
  if (close == content.npos) return false;
  *reasoning = content.substr(0, close);
  if (const size_t open = reasoning->rfind("<think>"); open != reasoning->npos) reasoning->erase(0, open + 7);
  *rest = content.substr(content.rfind("</think>") + 8);
  if (on_lines) {
    *reasoning = Trim(*reasoning, "\n");
    *rest = Trim(*rest, "\n");
  }
  return true;
}

void NormalizeReasoning(Json& message, const TemplateTraits& traits) {
  std::string reasoning = StringAt(message, "reasoning_content");
  if (reasoning.empty()) reasoning = StringAt(message, "reasoning");
  if (reasoning.empty() && message.contains("reasoning_details")) reasoning = DetailsText(message["reasoning_details"]);
  if (reasoning.empty() && !traits.splits_reasoning && message["content"].is_string()) {
    std::string rest;
    if (SplitInline(message["content"].get<std::string>(), traits.reasoning_on_lines, &reasoning, &rest)) {
      message["content"] = std::move(rest);
    }
  }
  if (!reasoning.empty()) {
    message["reasoning_content"] = std::move(reasoning);
  } else if (message.contains("reasoning_content") && !message["reasoning_content"].is_string()) {
    message.erase("reasoning_content");
  }
}

constexpr int kMaxDepth = 150;

bool DeeperThan(const Json& json, int levels) {
  if (!json.is_structured()) return false;
  if (levels == 0) return true;
  return std::any_of(json.begin(), json.end(), [levels](const Json& item) { return DeeperThan(item, levels - 1); });
}

Status NormalizeArguments(Json& function, const std::string& where) {
  Json& arguments = function["arguments"];
  if (arguments.is_null()) arguments = Json::object();
  if (arguments.is_string()) {
    const std::string text = arguments.get<std::string>();
    Json parsed = Trim(text, " \t\r\n").empty() ? Json::object() : Json::parse(text, nullptr, false);
    arguments = std::move(parsed);
  }
  if (!arguments.is_object()) return Errorf("{}.arguments: a JSON object, or its text, is expected", where);
  if (DeeperThan(arguments, kMaxDepth))
    return Errorf("{}.arguments: nested more than {} levels deep", where, kMaxDepth);
  return {};
}

Status NormalizeToolCalls(Json& message, const std::string& where) {
  if (message.contains("function_call") && message["function_call"].is_object() && !message.contains("tool_calls")) {
    message["tool_calls"] = Json::array({Json{{"type", "function"}, {"function", message["function_call"]}}});
  }
  const auto found = message.find("tool_calls");
  if (found == message.end()) return {};
  if (found->is_null()) {
    message.erase("tool_calls");
    return {};
  }
  if (!found->is_array()) return Errorf("{}.tool_calls: a list is expected", where);
  for (size_t i = 0; i < found->size(); ++i) {
    Json& call = (*found)[i];
    const std::string place = fmt::format("{}.tool_calls[{}]", where, i);
    if (!call.is_object()) return Errorf("{}: an object is expected", place);
    if (!call.contains("function"))
      call["function"] = Json{{"name", call.value("name", Json())}, {"arguments", call.value("arguments", Json())}};
    Json& function = call["function"];
    if (!function.is_object() || StringAt(function, "name").empty()) {
      return Errorf("{}.function.name: a string is expected", place);
    }
    MINIMO_TRY(NormalizeArguments(function, place + ".function"));
    if (call.contains("name") && call.contains("arguments")) call["arguments"] = function["arguments"];
  }
  return {};
}

}  // namespace

Status CheckDepth(const Json& json, const char* what) {
  if (DeeperThan(json, kMaxDepth)) return Errorf("{}: nested more than {} levels deep", what, kMaxDepth);
  return {};
}

Result<Json> NormalizeMessages(const Json& messages, const TemplateTraits& traits) {
  if (!messages.is_array()) return Errorf("messages: a list is expected");
  if (messages.empty()) return Errorf("messages: at least one message is expected");
  Json out = messages;
  for (size_t i = 0; i < out.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    Json& message = out[i];
    if (!message.is_object()) return Errorf("{}: an object is expected", where);
    const std::string role = StringAt(message, "role");
    if (role.empty()) return Errorf("{}.role: a string is expected", where);
    if (role == "developer" && !traits.knows_developer) message["role"] = "system";
    if (role == "function") message["role"] = "tool";
    const bool assistant = role == "assistant";
    MINIMO_TRY(NormalizeContent(message, where, traits.loops_over_content && !assistant));
    if (!assistant) continue;
    NormalizeReasoning(message, traits);
    MINIMO_TRY(NormalizeToolCalls(message, where));
  }
  return out;
}

Result<Json> NormalizeTools(const Json& tools) {
  if (tools.is_null()) return Json();
  if (!tools.is_array()) return Errorf("tools: a list is expected");
  if (tools.empty()) return Json();
  Json out = tools;
  for (size_t i = 0; i < out.size(); ++i) {
    Json& tool = out[i];
    if (tool.is_object() && !tool.contains("function") && tool.contains("name")) {
      tool = Json{{"type", "function"}, {"function", std::move(tool)}};
    }
    const bool named = tool.is_object() && tool.contains("function") && tool["function"].is_object() &&
                       !StringAt(tool["function"], "name").empty();
    if (!named) return Errorf("tools[{}].function.name: a string is expected", i);
  }
  return out;
}

}  // namespace minimo
