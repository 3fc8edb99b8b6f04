#include "server/openai_chat_writer.h"

#include "base/error.h"
#include "server/json_writer.h"

namespace minimo::server {

OpenAiChatWriter::OpenAiChatWriter(const ApiContext& context, ReplyPtr reply, Fields fields,
                                   std::vector<int32_t> prompt_ids,
                                   std::vector<std::unique_ptr<OutputParser>> parsers)
    : context_(context),
      fields_(std::move(fields)),
      prompt_ids_(std::move(prompt_ids)),
      choices_(parsers.size()),
      answer_(context, std::move(reply), fields_, "chatcmpl-",
              fields_.stream ? "chat.completion.chunk" : "chat.completion", choices_.size()) {
  for (size_t i = 0; i < parsers.size(); ++i) choices_[i].parser = std::move(parsers[i]);
}

void OpenAiChatWriter::Absorb(int index, const Event& event) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (!event.prompt_logprobs.empty()) prompt_logprobs_ = event.prompt_logprobs;
  if (choice.parser->in_reasoning()) choice.reasoning_tokens += static_cast<int>(event.tokens.size());
  if (fields_.logprobs) {
    const size_t visible = VisibleTokens(event, fields_.params);
    JsonWriter json;
    for (size_t i = 0; i < visible; ++i) WriteChatLogprob(json, context_.engine, event.tokens[i], fields_.top_logprobs);
    if (visible > 0) choice.logprobs += (choice.logprobs.empty() ? "" : ",") + json.str();
  }
  if (fields_.return_token_ids) {
    for (const OutputToken& token : event.tokens) choice.ids.push_back(token.token);
  }
  choice.finish = event.finish;
  choice.stop_reason = event.stop_reason;
  answer_.usage().Set(index, event.usage);
  deltas_ = choice.parser->Feed(event.text);
  if (event.finish != FinishReason::kNone) {
    for (ParsedDelta& delta : choice.parser->Finish()) deltas_.push_back(std::move(delta));
  }
  if (!fields_.include_reasoning) {
    std::erase_if(deltas_, [](const ParsedDelta& delta) { return delta.kind == ParsedDelta::Kind::kReasoning; });
  }
}

void OpenAiChatWriter::OnEvent(int index, Event&& event) {
  Absorb(index, event);
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (!fields_.stream) {
    for (const ParsedDelta& delta : deltas_) choice.whole.Add(delta);
    return;
  }
  const int64_t sampled_us = event.tokens.empty() ? 0 : event.timing.last_token_us;
  if (!choice.role_sent) {
    choice.role_sent = true;
    std::string logprobs;
    logprobs.swap(choice.logprobs);  // they go with the text
    OpenChunk(index).Member("role", "assistant").Member("content", "");
    SendChunk(index, false, 0);
    logprobs.swap(choice.logprobs);
  }
  for (const ParsedDelta& delta : deltas_) {
    WriteDelta(OpenChunk(index), delta);
    SendChunk(index, false, sampled_us);
  }
  if (event.finish == FinishReason::kNone) return;
  OpenChunk(index);
  SendChunk(index, true, deltas_.empty() ? sampled_us : 0);
}

void OpenAiChatWriter::WriteDelta(JsonWriter& json, const ParsedDelta& delta) {
  using Kind = ParsedDelta::Kind;
  if (delta.kind == Kind::kReasoning || delta.kind == Kind::kContent) {
    json.Member(delta.kind == Kind::kReasoning ? "reasoning_content" : "content", delta.text);
    return;
  }
  const bool begins = delta.kind == Kind::kToolCall;
  json.Key("tool_calls").Array().Object().Member("index", delta.index);
  if (begins) json.Member("id", delta.id).Member("type", "function");
  json.Key("function").Object();
  if (begins) json.Member("name", delta.name);
  json.Member("arguments", begins ? std::string_view() : std::string_view(delta.text))
      .EndObject()
      .EndObject()
      .EndArray();
}

void OpenAiChatWriter::WriteLogprobs(JsonWriter& json, Choice& choice) {
  json.Key("logprobs");
  if (!fields_.logprobs) {
    json.Null();
  } else {
    json.Raw(fmt::format(R"({{"content":[{}],"refusal":null}})", choice.logprobs));
    choice.logprobs.clear();
  }
}

// finish_reason, stop_reason, token_ids.
void OpenAiChatWriter::WriteEnd(JsonWriter& json, const Choice& choice, bool last) {
  if (last && choice.finish == FinishReason::kStop && choice.parser->tool_calls() > 0) {
    json.Member("finish_reason", "tool_calls");
  } else {
    WriteFinish(json, last ? choice.finish : FinishReason::kNone);
  }
  WriteStopReason(json, last ? choice.stop_reason : "");
  if (!fields_.return_token_ids) return;
  json.Key("token_ids").Array();
  for (const int32_t id : choice.ids) json.Int(id);
  json.EndArray();
}

JsonWriter& OpenAiChatWriter::OpenChunk(int index) {
  return answer_.Open().Object().Member("index", index).Key("delta").Object();
}

void OpenAiChatWriter::SendChunk(int index, bool last, int64_t sampled_us) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  JsonWriter& json = answer_.json().EndObject();
  WriteLogprobs(json, choice);
  WriteEnd(json, choice, last);
  choice.ids.clear();
  json.EndObject();
  answer_.Send(index, sampled_us);
}

int OpenAiChatWriter::ReasoningTokens() const {
  int total = 0;
  for (const Choice& choice : choices_) total += choice.reasoning_tokens;
  return total;
}

void OpenAiChatWriter::WriteMessage(JsonWriter& json, const Choice& choice) {
  json.Key("message").Object().Member("role", "assistant");
  const ParsedOutput& whole = choice.whole;
  json.Key("content");
  whole.content.empty() && !whole.tool_calls.empty() ? json.Null() : json.String(whole.content);
  if (!whole.reasoning.empty()) json.Member("reasoning_content", whole.reasoning);
  if (!whole.tool_calls.empty()) json.Key("tool_calls").Raw(whole.ToolCallsJson());
  json.Key("refusal").Null().EndObject();
}

void OpenAiChatWriter::OnComplete() {
  if (fields_.stream) return answer_.EndStream(ReasoningTokens());
  JsonWriter& json = answer_.Open();
  for (size_t i = 0; i < choices_.size(); ++i) {
    json.Object().Member("index", static_cast<int>(i));
    WriteMessage(json, choices_[i]);
    WriteLogprobs(json, choices_[i]);
    WriteEnd(json, choices_[i], true);
    json.EndObject();
  }
  answer_.CloseChoices(ReasoningTokens());
  if (fields_.return_token_ids) {
    json.Key("prompt_token_ids").Array();
    for (const int32_t id : prompt_ids_) json.Int(id);
    json.EndArray();
  }
  if (fields_.prompt_logprobs_given) {
    json.Key("prompt_logprobs");
    WritePromptLogprobs(json, context_.engine, prompt_ids_, prompt_logprobs_);
  }
  answer_.SendWhole();
}

}  // namespace minimo::server
