// An error as the client sees it. The server owns the only map from errors to HTTP.
#pragma once

#include <string>
#include <string_view>

#include "server/http_types.h"

namespace minimo::server {

struct ApiError {
  int status = 400;
  std::string code;     // "model_not_found"; empty: null
  std::string param;    // the field at fault; empty: null
  std::string message;  // what was found, what was expected, what to do
  int retry_after_s = 0;
};

// OpenAI: {"error": {"message", "type", "param", "code"}}; Anthropic: {"type": "error", "error": {"type", "message"}}.
std::string OpenAiErrorBody(const ApiError& error);
std::string AnthropicErrorBody(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error, bool anthropic);

// True for the paths whose clients are Anthropic's.
bool UsesAnthropicErrors(std::string_view path);

}  // namespace minimo::server
