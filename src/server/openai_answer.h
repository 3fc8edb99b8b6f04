// The frame that OpenAI's two generation endpoints share: one object {"id", "object", "created", "model", "choices",
// "usage"}, whole or as the chunks of a stream. The writers fill in the choices.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/fields.h"
#include "server/json_writer.h"
#include "server/protocol.h"

namespace minimo::server {

class OpenAiAnswer {
 public:
  // `fields` outlives this. `id_prefix`: "chatcmpl-"; `choices`: in all, of every prompt.
  OpenAiAnswer(const ApiContext& context, ReplyPtr reply, const Fields& fields, std::string_view id_prefix,
               std::string_view object, size_t choices);

  UsageSum& usage() { return usage_; }

  // The engine has taken the request: a stream's headers go out.
  void Begin();

  // One chunk: Open, one item of `choices`, Send. The buffer is used again for the next.
  JsonWriter& Open();
  JsonWriter& json() { return json_; }
  void Send(int choice, int64_t sampled_us);

  // After the last chunk: the usage if asked for, [DONE]. `reasoning_tokens` < 0: not told.
  void EndStream(int reasoning_tokens);

  // A whole answer: Open, every choice, CloseChoices, further members, SendWhole.
  void CloseChoices(int reasoning_tokens);
  void SendWhole();

  void Fail(const ApiError& error);

 private:
  void SendEvent(int64_t sampled_us);

  ReplyPtr reply_;
  const Fields& fields_;
  bool begun_ = false;  // a stream's headers are out
  std::string head_;    // a stream: data: {"id": ..., "choices":[
  JsonWriter json_;
  UsageSum usage_;
};

}  // namespace minimo::server
