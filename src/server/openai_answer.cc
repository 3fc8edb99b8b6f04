#include "server/openai_answer.h"

#include "server/ids.h"

namespace minimo::server {
namespace {

constexpr std::string_view kData = "data: ";
constexpr std::string_view kDone = "data: [DONE]\n\n";

}  // namespace

OpenAiAnswer::OpenAiAnswer(const ApiContext& context, ReplyPtr reply, const Fields& fields, std::string_view id_prefix,
                           std::string_view object, size_t choices)
    : reply_(std::move(reply)), fields_(fields), usage_(static_cast<int>(choices), fields.n) {
  const std::string id = fields.request_id.empty() ? NewId(id_prefix) : std::string(id_prefix) + fields.request_id;
  json_.Object().Member("id", id).Member("object", object).Member("created", UnixSeconds());
  json_.Member("model", context.model_names[0]).Key("choices").Array();
  if (fields.stream) head_ = kData;
  head_ += json_.str();
}

void OpenAiAnswer::Begin() {
  if (!fields_.stream) return;
  begun_ = true;
  HttpResponse head = SseHead();
  AddWarnings(fields_, &head.headers);
  reply_->BeginStream(std::move(head));
}

JsonWriter& OpenAiAnswer::Open() {
  json_.Restart(head_);
  return json_;
}

void OpenAiAnswer::SendEvent(int64_t sampled_us) {
  json_.EndObject().EndText("\n\n");
  reply_->Write(json_.str(), sampled_us);
}

void OpenAiAnswer::Send(int choice, int64_t sampled_us) {
  json_.EndArray();
  if (fields_.continuous_usage) {
    json_.Key("usage");
    WriteUsage(json_, usage_.Of(choice), -1);
  } else if (fields_.include_usage) {
    json_.Key("usage").Null();
  }
  SendEvent(sampled_us);
}

void OpenAiAnswer::CloseChoices(int reasoning_tokens) {
  json_.EndArray().Key("usage");
  WriteUsage(json_, usage_.Total(), reasoning_tokens);
}

void OpenAiAnswer::EndStream(int reasoning_tokens) {
  if (fields_.include_usage) {
    Open();
    CloseChoices(reasoning_tokens);
    SendEvent(0);
  }
  reply_->Write(kDone, 0);
  reply_->End();
}

void OpenAiAnswer::SendWhole() {
  HttpResponse response;
  response.body = json_.EndObject().Take();
  AddWarnings(fields_, &response.headers);
  reply_->Send(std::move(response));
}

void OpenAiAnswer::Fail(const ApiError& error) {
  if (!begun_) return reply_->Send(ErrorResponse(error, false));
  reply_->Write(std::string(kData) + OpenAiErrorBody(error) + "\n\n", 0);
  reply_->Write(kDone, 0);
  reply_->End();
}

}  // namespace minimo::server
