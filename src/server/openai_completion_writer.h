// How answers to /v1/completions are written: whole or as a stream.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/fields.h"
#include "server/generation.h"
#include "server/openai_answer.h"
#include "server/protocol.h"

namespace minimo::server {

class CompletionWriter final : public OutputWriter {
 public:
  // `prompts`: the token ids of each.
  // `discard_output`: max_tokens was 0, the one token that the engine made is not shown.
  CompletionWriter(const ApiContext& context, ReplyPtr reply, Fields fields,
                   std::vector<std::vector<int32_t>> prompts, bool discard_output);

  void OnAccepted() override { answer_.Begin(); }
  void OnEvent(int choice, Event&& event) override;
  void OnComplete() override;
  void OnFailure(const ApiError& error) override { answer_.Fail(error); }

 private:
  // Arrays of the "logprobs" object, as JSON without brackets.
  struct Logprobs {
    std::string tokens, token_logprobs, top_logprobs, text_offset;
    void Clear();
  };
  struct Choice {
    std::string text;
    Logprobs logprobs;
    int64_t offset = 0;  // characters of text that the logprobs' tokens cover
    bool begun = false;
    FinishReason finish = FinishReason::kNone;
    std::string stop_reason;
    std::vector<int32_t> ids;
  };

  void Absorb(int index, Event& event);
  void AddLogprob(Choice& choice, const OutputToken& token, bool known);
  void WriteChoice(JsonWriter& json, int index, Choice& choice, bool last);

  const ApiContext& context_;
  Fields fields_;
  std::vector<std::vector<int32_t>> prompts_;
  const bool discard_output_;
  std::vector<Choice> choices_;
  std::vector<std::vector<OutputToken>> prompt_logprobs_;  // by prompt
  OpenAiAnswer answer_;
};

}  // namespace minimo::server
