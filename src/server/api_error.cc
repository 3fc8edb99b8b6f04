#include "server/api_error.h"

#include "server/json_writer.h"

namespace minimo::server {
namespace {

const char* OpenAiType(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return status >= 500 ? "internal_server_error" : "invalid_request_error";
  }
}

// https://docs.anthropic.com/en/api/errors
const char* AnthropicType(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

std::string OpenAiErrorBody(const ApiError& error) {
  JsonWriter json;
  json.Object().Key("error").Object().Member("message", error.message).Member("type", OpenAiType(error.status));
  json.Key("param");
  error.param.empty() ? json.Null() : json.String(error.param);
  json.Key("code");
  error.code.empty() ? json.Null() : json.String(error.code);
  return json.EndObject().EndObject().Take();
}

std::string AnthropicErrorBody(const ApiError& error) {
  const std::string message = error.param.empty() || error.message.find(error.param) != std::string::npos
                                  ? error.message
                                  : error.param + ": " + error.message;
  JsonWriter json;
  json.Object().Member("type", "error").Key("error").Object();
  json.Member("type", AnthropicType(error.status)).Member("message", message);
  return json.EndObject().EndObject().Take();
}

HttpResponse ErrorResponse(const ApiError& error, bool anthropic) {
  HttpResponse response;
  response.status = error.status;
  response.body = anthropic ? AnthropicErrorBody(error) : OpenAiErrorBody(error);
  if (error.retry_after_s > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  return response;
}

bool UsesAnthropicErrors(std::string_view path) { return path.substr(0, 12) == "/v1/messages"; }

}  // namespace minimo::server
