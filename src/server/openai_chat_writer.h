// How answers to /v1/chat/completions are written: whole or as a stream.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/output_parser.h"
#include "server/fields.h"
#include "server/generation.h"
#include "server/openai_answer.h"
#include "server/protocol.h"

namespace minimo::server {

class OpenAiChatWriter final : public OutputWriter {
 public:
  // One parser a choice.
  OpenAiChatWriter(const ApiContext& context, ReplyPtr reply, Fields fields, std::vector<int32_t> prompt_ids,
                   std::vector<std::unique_ptr<OutputParser>> parsers);

  void OnAccepted() override { answer_.Begin(); }
  void OnEvent(int choice, Event&& event) override;
  void OnComplete() override;
  void OnFailure(const ApiError& error) override { answer_.Fail(error); }

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
  // One chunk: Open, members of the delta object, Send.
  JsonWriter& OpenChunk(int index);
  void SendChunk(int index, bool last, int64_t sampled_us);
  static void WriteDelta(JsonWriter& json, const ParsedDelta& delta);
  void WriteLogprobs(JsonWriter& json, Choice& choice);
  void WriteEnd(JsonWriter& json, const Choice& choice, bool last);
  void WriteMessage(JsonWriter& json, const Choice& choice);
  int ReasoningTokens() const;

  const ApiContext& context_;
  Fields fields_;
  std::vector<int32_t> prompt_ids_;
  std::vector<Choice> choices_;
  std::vector<OutputToken> prompt_logprobs_;
  OpenAiAnswer answer_;
  std::vector<ParsedDelta> deltas_;  // of the event at hand
};

}  // namespace minimo::server
