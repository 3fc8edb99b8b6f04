#include "server/anthropic_writer.h"

#include <algorithm>

#include "base/error.h"
#include "server/ids.h"
#include "server/json_writer.h"

namespace minimo::server {

AnthropicWriter::AnthropicWriter(const ApiContext& context, ReplyPtr reply, Fields fields, int prompt_tokens,
                                 std::unique_ptr<OutputParser> parser, bool show_thinking)
    : context_(context),
      reply_(std::move(reply)),
      fields_(std::move(fields)),
      prompt_tokens_(prompt_tokens),
      parser_(std::move(parser)),
      show_thinking_(show_thinking),
      id_(NewId("msg_")) {
  usage_.prompt_tokens = prompt_tokens_;
}

// Anthropic counts cached prompt tokens apart from the others.
void AnthropicWriter::WriteUsage(JsonWriter& json) const {
  json.Key("usage")
      .Object()
      .Member("input_tokens", usage_.prompt_tokens - usage_.cached_prompt_tokens)
      .Member("cache_creation_input_tokens", 0)
      .Member("cache_read_input_tokens", usage_.cached_prompt_tokens)
      .Member("output_tokens", usage_.completion_tokens)
      .EndObject();
}

void AnthropicWriter::WriteStop(JsonWriter& json) const {
  const auto& stops = fields_.params.stop;
  const bool sequence =
      finish_ == FinishReason::kStop && std::find(stops.begin(), stops.end(), stop_reason_) != stops.end();
  json.Key("stop_reason");
  if (finish_ == FinishReason::kNone) {
    json.Null();
  } else if (finish_ == FinishReason::kLength) {
    json.String("max_tokens");
  } else if (sequence) {
    json.String("stop_sequence");
  } else {
    json.String(parser_->tool_calls() > 0 ? "tool_use" : "end_turn");
  }
  json.Key("stop_sequence");
  sequence ? json.String(stop_reason_) : json.Null();
}

void AnthropicWriter::Send(std::string_view event, std::string_view data, int64_t sampled_us) {
  reply_->Write(fmt::format("event: {}\ndata: {}\n\n", event, data), sampled_us);
}

void AnthropicWriter::OnAccepted() {
  accepted_ = true;
  if (!fields_.stream) return;
  HttpResponse head = SseHead();
  AddWarnings(fields_, &head.headers);
  reply_->BeginStream(std::move(head));
  JsonWriter json;
  json.Object().Member("type", "message_start").Key("message").Object();
  json.Member("id", id_).Member("type", "message").Member("role", "assistant");
  json.Member("model", context_.model_names[0]).Key("content").Array().EndArray();
  WriteStop(json);
  WriteUsage(json);
  Send("message_start", json.EndObject().EndObject().str(), 0);
  Send("ping", R"({"type":"ping"})", 0);
}

void AnthropicWriter::Open(Block block, const ParsedDelta& delta) {
  Close();
  block_ = block;
  JsonWriter json;
  json.Object();
  switch (block) {
    case Block::kThinking: json.Member("type", "thinking").Member("thinking", "").Member("signature", ""); break;
    case Block::kText: json.Member("type", "text").Member("text", ""); break;
    default:
      json.Member("type", "tool_use").Member("id", NewId("toolu_")).Member("name", delta.name);
      json.Key("input").Object().EndObject();
  }
  json.EndObject();
  if (fields_.stream) {
    Send("content_block_start",
         fmt::format(R"({{"type":"content_block_start","index":{},"content_block":{}}})", index_, json.str()), 0);
  } else {
    content_ += content_.empty() ? "" : ",";
    content_ += json.str();  // Close puts the piece in
  }
}

void AnthropicWriter::Close() {
  if (block_ == Block::kNone) return;
  if (fields_.stream) {
    Send("content_block_stop", fmt::format(R"({{"type":"content_block_stop","index":{}}})", index_), 0);
  } else {
    // The item ends in an empty value: "thinking":"","signature":""} or "text":""} or "input":{}}.
    const std::string_view empty = block_ == Block::kThinking ? R"("","signature":""})"
                                   : block_ == Block::kText   ? R"(""})"
                                                              : "{}}";
    content_.resize(content_.size() - empty.size());
    if (block_ == Block::kTool) {
      content_ += piece_.empty() ? "{}" : piece_;
    } else {
      content_ += Quoted(piece_);
    }
    content_ += block_ == Block::kThinking ? R"(,"signature":""})" : "}";
    piece_.clear();
  }
  block_ = Block::kNone;
  ++index_;
}

void AnthropicWriter::Take(const ParsedDelta& delta, int64_t sampled_us) {
  const char* type = "";
  const char* member = "";
  switch (delta.kind) {
    case ParsedDelta::Kind::kReasoning:
      if (!show_thinking_) return;
      if (block_ != Block::kThinking) Open(Block::kThinking, delta);
      type = "thinking_delta";
      member = "thinking";
      break;
    case ParsedDelta::Kind::kContent:
      // White space between thinking and a call is no block of its own.
      if (block_ != Block::kText && delta.text.find_first_not_of(" \n\r\t") == std::string::npos) return;
      if (block_ != Block::kText) Open(Block::kText, delta);
      type = "text_delta";
      member = "text";
      break;
    case ParsedDelta::Kind::kToolCall: Open(Block::kTool, delta); return;
    case ParsedDelta::Kind::kArguments:
      type = "input_json_delta";
      member = "partial_json";
      break;
  }
  if (!fields_.stream) {
    piece_ += delta.text;
    return;
  }
  Send("content_block_delta",
       fmt::format(R"({{"type":"content_block_delta","index":{},"delta":{{"type":"{}","{}":{}}}}})", index_, type,
                   member, Quoted(delta.text)),
       sampled_us);
}

void AnthropicWriter::OnEvent(int, Event&& event) {
  std::vector<ParsedDelta> deltas = parser_->Feed(event.text);
  if (event.finish != FinishReason::kNone) {
    for (ParsedDelta& delta : parser_->Finish()) deltas.push_back(std::move(delta));
  }
  usage_ = event.usage;
  finish_ = event.finish;
  stop_reason_ = event.stop_reason;
  const int64_t sampled_us = event.tokens.empty() ? 0 : event.timing.last_token_us;
  for (const ParsedDelta& delta : deltas) Take(delta, sampled_us);
}

void AnthropicWriter::OnComplete() {
  Close();
  JsonWriter json;
  if (fields_.stream) {
    json.Object().Member("type", "message_delta").Key("delta").Object();
    WriteStop(json);
    json.EndObject();
    WriteUsage(json);
    Send("message_delta", json.EndObject().str(), 0);
    Send("message_stop", R"({"type":"message_stop"})", 0);
    reply_->End();
    return;
  }
  json.Object().Member("id", id_).Member("type", "message").Member("role", "assistant");
  json.Member("model", context_.model_names[0]).Key("content").Raw("[" + content_ + "]");
  WriteStop(json);
  WriteUsage(json);
  HttpResponse response;
  response.body = json.EndObject().Take();
  AddWarnings(fields_, &response.headers);
  reply_->Send(std::move(response));
}

void AnthropicWriter::OnFailure(const ApiError& error) {
  if (accepted_ && fields_.stream) {
    Send("error", AnthropicErrorBody(error), 0);
    reply_->End();
    return;
  }
  reply_->Send(ErrorResponse(error, true));
}

}  // namespace minimo::server
