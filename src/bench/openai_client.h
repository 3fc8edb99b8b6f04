// The OpenAI completions protocol from the client's side: request bodies and streamed answers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "bench/sample_request.h"
#include "minimo/result.h"

namespace minimo::bench {

enum class Api { kCompletions, kChat };

struct GenerationOptions {
  Api api = Api::kCompletions;
  std::string model;
  bool ignore_eos = false;
  std::optional<int> logprobs;
  std::string extra_body;  // a JSON object whose fields are added to every request; empty: none
};

// Fails if extra_body is not a JSON object.
Result<std::string> RequestBody(const GenerationOptions& options, const SampleRequest& request);

// Turns the events of one streamed answer into the times and counts of an Outcome, by the definitions of vLLM's
// benchmark: the first chunk with a choice is the first token, every later one an inter-token latency, and the last
// one ends the request. One difference: a chat chunk that carries only a role is no token.
class AnswerReader {
 public:
  AnswerReader(Api api, Outcome* outcome) : api_(api), outcome_(outcome) {}

  // `now` in seconds, as Outcome's times. An error if the event is not JSON or is the server's error report.
  Status OnEvent(std::string_view data, double now);
  // The body has ended; `by_close` if only the closing of the connection says so.
  Status OnEnd(bool by_close);

 private:
  Api api_;
  Outcome* outcome_;
  double last_ = 0;
  int chunks_ = 0;
  bool done_ = false;      // data: [DONE]
  bool finished_ = false;  // a finish_reason
};

// "HTTP 503 Service Unavailable: MESSAGE", with the message dug out of an error body where there is one.
std::string DescribeHttpError(int status, std::string_view reason, std::string_view body);

}  // namespace minimo::bench
