// How answers to /v1/chat/completions are written: whole or as a stream.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/output_parser.h"
#include "server/fields.h"
#include "server/generation.h"
#include "server/protocol.h"

namespace minimo::server {

class OpenAiChatWriter final : public OutputWriter {
 public:
  // One parser a choice.
  OpenAiChatWriter(const ApiContext& context, ReplyPtr reply, Fields fields, std::vector<int32_t> prompt_ids,
                   std::vector<std::unique_ptr<OutputParser>> parsers);

  void OnAccepted() override;
  void OnEvent(int choice, Event&& event) override;
  void OnComplete() override;
  void OnFailure(const ApiError& error) override;

 private:
  struct Choice {
    std::unique_ptr<OutputParser> parser;
    bool role_sent = false;
    int reasoning_tokens = 0;
    ParsedOutput whole;              // of an answer that is not streamed
    std::string logprobs;            // entries, comma-separated; of the next chunk, or of the whole answer
    std::vector<int32_t> ids;
    FinishReason finish = FinishReason::kNone;
    std::string stop_reason;
  };

  void Absorb(int index, const Event& event);
  void SendDelta(int index, const ParsedDelta& delta, int64_t sampled_us);
  // Sends one chunk: `delta` is the inside of the delta object.
  void SendChunk(int index, std::string_view delta, bool last, int64_t sampled_us);
  void WriteLogprobs(JsonWriter& json, Choice& choice);
  void WriteEnd(JsonWriter& json, const Choice& choice, bool last);
  void WriteMessage(JsonWriter& json, const Choice& choice);
  int ReasoningTokens() const;

  const ApiContext& context_;
  ReplyPtr reply_;
  Fields fields_;
  std::vector<int32_t> prompt_ids_;
  bool accepted_ = false;
  std::string head_;  // {"id": ..., ... without the closing brace
  std::vector<Choice> choices_;
  std::vector<OutputToken> prompt_logprobs_;
  UsageSum usage_;
  std::vector<ParsedDelta> deltas_;  // of the event at hand
};

}  // namespace minimo::server
