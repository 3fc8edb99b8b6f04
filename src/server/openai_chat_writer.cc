#include "server/openai_chat_writer.h"

#include "base/error.h"
#include "server/ids.h"
#include "server/json_writer.h"

namespace minimo::server {

OpenAiChatWriter::OpenAiChatWriter(const ApiContext& context, ReplyPtr reply, Fields fields,
                                   std::vector<int32_t> prompt_ids,
                                   std::vector<std::unique_ptr<OutputParser>> parsers)
    : context_(context),
      reply_(std::move(reply)),
      fields_(std::move(fields)),
      prompt_ids_(std::move(prompt_ids)),
      choices_(parsers.size()),
      usage_(static_cast<int>(parsers.size()), fields_.n) {
  for (size_t i = 0; i < parsers.size(); ++i) choices_[i].parser = std::move(parsers[i]);
  const std::string id = fields_.request_id.empty() ? NewId("chatcmpl-") : "chatcmpl-" + fields_.request_id;
  JsonWriter json;
  json.Object().Member("id", id).Member("object", fields_.stream ? "chat.completion.chunk" : "chat.completion");
  json.Member("created", UnixSeconds()).Member("model", context_.model_names[0]);
  head_ = json.Take();
}

void OpenAiChatWriter::OnAccepted() {
  accepted_ = true;
  if (!fields_.stream) return;
  HttpResponse head = SseHead();
  AddWarnings(fields_, &head.headers);
  reply_->BeginStream(std::move(head));
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
  usage_.Set(index, event.usage);
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
    SendChunk(index, R"("role":"assistant","content":"")", false, 0);
    logprobs.swap(choice.logprobs);
  }
  for (const ParsedDelta& delta : deltas_) SendDelta(index, delta, sampled_us);
  if (event.finish != FinishReason::kNone) SendChunk(index, "", true, deltas_.empty() ? sampled_us : 0);
}

void OpenAiChatWriter::SendDelta(int index, const ParsedDelta& delta, int64_t sampled_us) {
  using Kind = ParsedDelta::Kind;
  switch (delta.kind) {
    case Kind::kReasoning: return SendChunk(index, R"("reasoning_content":)" + Quoted(delta.text), false, sampled_us);
    case Kind::kContent: return SendChunk(index, R"("content":)" + Quoted(delta.text), false, sampled_us);
    case Kind::kToolCall:
      return SendChunk(index,
                       fmt::format(R"("tool_calls":[{{"index":{},"id":{},"type":"function","function":{{"name":{},)"
                                   R"("arguments":""}}}}])",
                                   delta.index, Quoted(delta.id), Quoted(delta.name)),
                       false, sampled_us);
    case Kind::kArguments:
      return SendChunk(index,
                       fmt::format(R"("tool_calls":[{{"index":{},"function":{{"arguments":{}}}}}])", delta.index,
                                   Quoted(delta.text)),
                       false, sampled_us);
  }
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

void OpenAiChatWriter::SendChunk(int index, std::string_view delta, bool last, int64_t sampled_us) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  JsonWriter json(head_);
  json.Key("choices").Array().Object().Member("index", index);
  json.Key("delta").RawObject(delta);
  WriteLogprobs(json, choice);
  WriteEnd(json, choice, last);
  choice.ids.clear();
  json.EndObject().EndArray();
  if (fields_.continuous_usage) {
    json.Key("usage");
    WriteUsage(json, usage_.Of(index), -1);
  } else if (fields_.include_usage) {
    json.Key("usage").Null();
  }
  WriteSse(*reply_, json.EndObject().str(), sampled_us);
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
  JsonWriter json(head_);
  json.Key("choices").Array();
  if (fields_.stream) {
    if (fields_.include_usage) {
      json.EndArray().Key("usage");
      WriteUsage(json, usage_.Total(), ReasoningTokens());
      WriteSse(*reply_, json.EndObject().str(), 0);
    }
    WriteSse(*reply_, "[DONE]", 0);
    reply_->End();
    return;
  }
  for (size_t i = 0; i < choices_.size(); ++i) {
    json.Object().Member("index", static_cast<int>(i));
    WriteMessage(json, choices_[i]);
    WriteLogprobs(json, choices_[i]);
    WriteEnd(json, choices_[i], true);
    json.EndObject();
  }
  json.EndArray().Key("usage");
  WriteUsage(json, usage_.Total(), ReasoningTokens());
  if (fields_.return_token_ids) {
    json.Key("prompt_token_ids").Array();
    for (const int32_t id : prompt_ids_) json.Int(id);
    json.EndArray();
  }
  if (fields_.prompt_logprobs_given) {
    json.Key("prompt_logprobs");
    WritePromptLogprobs(json, context_.engine, prompt_ids_, prompt_logprobs_);
  }
  HttpResponse response;
  response.body = json.EndObject().Take();
  AddWarnings(fields_, &response.headers);
  reply_->Send(std::move(response));
}

void OpenAiChatWriter::OnFailure(const ApiError& error) {
  if (accepted_ && fields_.stream) {
    WriteSse(*reply_, OpenAiErrorBody(error), 0);
    WriteSse(*reply_, "[DONE]", 0);
    reply_->End();
    return;
  }
  reply_->Send(ErrorResponse(error, false));
}

}  // namespace minimo::server
