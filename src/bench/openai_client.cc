#include "bench/openai_client.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

bool HasText(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() && !it->get_ref<const std::string&>().empty();
}

void AppendText(const Json& object, const char* key, std::string* text) {
  if (HasText(object, key)) *text += object.at(key).get_ref<const std::string&>();
}

// A chat chunk that opens the message and carries nothing else.
bool IsRoleOnly(const Json& delta) {
  return delta.contains("role") && !HasText(delta, "content") && !HasText(delta, "reasoning_content") &&
         !HasText(delta, "reasoning") && !delta.contains("tool_calls");
}

std::string ErrorMessage(const Json& body) {
  const auto error = body.find("error");
  const Json& holder = error != body.end() && error->is_object() ? *error : body;
  if (HasText(holder, "message")) return holder.at("message").get<std::string>();
  if (error != body.end() && error->is_string()) return error->get<std::string>();
  return HasText(body, "detail") ? body.at("detail").get<std::string>() : std::string();
}

}  // namespace

Result<std::string> RequestBody(const GenerationOptions& options, const SampleRequest& request) {
  Json body = {{"model", options.model}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  if (options.api == Api::kChat) {
    const Json content = Json::array({{{"type", "text"}, {"text", request.prompt}}});
    body["messages"] = Json::array({{{"role", "user"}, {"content", content}}});
    if (request.output_len > 0) body["max_completion_tokens"] = request.output_len;
  } else {
    if (request.prompt_ids.empty()) {
      body["prompt"] = request.prompt;
    } else {
      body["prompt"] = request.prompt_ids;
    }
    body["repetition_penalty"] = 1.0;
    if (request.output_len > 0) body["max_tokens"] = request.output_len;
  }
  if (options.logprobs) body["logprobs"] = *options.logprobs;
  if (options.ignore_eos) body["ignore_eos"] = true;
  if (!options.extra_body.empty()) {
    const Json extra = Json::parse(options.extra_body, nullptr, false);
    if (!extra.is_object()) return Errorf("--extra-body: expected a JSON object, found {}", options.extra_body);
    body.update(extra);
  }
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Status AnswerReader::OnEvent(std::string_view data, double now) {
  if (data == "[DONE]") {
    done_ = true;
    return {};
  }
  const Json chunk = Json::parse(data, nullptr, false);
  if (!chunk.is_object()) return Errorf("a stream event that is not a JSON object: {}", data.substr(0, 200));
  if (chunk.contains("error")) return Errorf("the server reports in the stream: {}", ErrorMessage(chunk));
  if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
    const auto count = [&](const char* key, int* out) {
      const auto it = usage->find(key);
      if (it != usage->end() && it->is_number_integer()) *out = it->get<int>();
    };
    count("completion_tokens", &outcome_->output_tokens);
    count("prompt_tokens", &outcome_->prompt_len);
  }
  const auto choices = chunk.find("choices");
  if (choices == chunk.end() || !choices->is_array() || choices->empty() || !(*choices)[0].is_object()) return {};
  const Json& choice = (*choices)[0];
  const auto reason = choice.find("finish_reason");
  const bool finishes = reason != choice.end() && !reason->is_null();
  finished_ = finished_ || finishes;
  if (api_ == Api::kChat) {
    const auto delta = choice.find("delta");
    if (delta != choice.end() && delta->is_object()) {
      if (chunks_ == 0 && !finishes && IsRoleOnly(*delta)) return {};
      AppendText(*delta, "reasoning_content", &outcome_->text);
      AppendText(*delta, "reasoning", &outcome_->text);
      AppendText(*delta, "content", &outcome_->text);
    }
  } else {
    AppendText(choice, "text", &outcome_->text);
  }
  if (chunks_++ == 0) {
    outcome_->ttft = now - outcome_->start_time;
  } else {
    outcome_->itl.push_back(now - last_);
  }
  last_ = now;
  outcome_->latency = now - outcome_->start_time;
  return {};
}

Status AnswerReader::OnEnd(bool by_close) {
  if (chunks_ == 0) return Errorf("the stream ended without a single token");
  if (!done_ && (by_close || !finished_)) {
    return Errorf("the stream broke after {} chunks: neither [DONE] nor a finish reason came", chunks_);
  }
  if (outcome_->output_tokens == 0) outcome_->output_tokens = chunks_;
  outcome_->success = true;
  return {};
}

std::string DescribeHttpError(int status, std::string_view reason, std::string_view body) {
  std::string text = fmt::format("HTTP {} {}", status, reason);
  const Json parsed = Json::parse(body, nullptr, false);
  const std::string message = parsed.is_object() ? ErrorMessage(parsed) : std::string(body.substr(0, 200));
  if (!message.empty()) text += ": " + message;
  return text;
}

}  // namespace minimo::bench
