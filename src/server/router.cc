#include "server/router.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "server/api_error.h"
#include "server/ids.h"

namespace minimo::server {

Router::Router(Auth auth, std::vector<std::string> allowed_origins)
    : auth_(std::move(auth)), allowed_origins_(std::move(allowed_origins)) {}

void Router::Add(std::string method, std::string path, Handler handler, bool open) {
  exact_[std::move(path)][std::move(method)] = {std::move(handler), open};
}

void Router::AddPrefix(std::string method, std::string prefix, Handler handler, bool open) {
  for (auto& [known, routes] : prefixes_) {
    if (known == prefix) {
      routes[std::move(method)] = {std::move(handler), open};
      return;
    }
  }
  prefixes_.push_back({std::move(prefix), {}});
  prefixes_.back().second[std::move(method)] = {std::move(handler), open};
}

const Router::Route* Router::Find(const std::string& method, const std::string& path) const {
  if (auto it = exact_.find(path); it != exact_.end()) {
    auto route = it->second.find(method);
    return route == it->second.end() ? nullptr : &route->second;
  }
  for (const auto& [prefix, routes] : prefixes_) {
    if (path.compare(0, prefix.size(), prefix) != 0) continue;
    auto route = routes.find(method);
    return route == routes.end() ? nullptr : &route->second;
  }
  return nullptr;
}

std::string Router::AllowedMethods(const std::string& path) const {
  const std::map<std::string, Route>* routes = nullptr;
  if (auto it = exact_.find(path); it != exact_.end()) {
    routes = &it->second;
  } else {
    for (const auto& [prefix, of_prefix] : prefixes_) {
      if (path.compare(0, prefix.size(), prefix) == 0) routes = &of_prefix;
    }
  }
  std::string methods;
  if (routes == nullptr) return methods;
  for (const auto& [method, route] : *routes) methods += (methods.empty() ? "" : ", ") + method;
  return methods;
}

bool Router::OriginAllowed(std::string_view origin) const {
  return std::any_of(allowed_origins_.begin(), allowed_origins_.end(),
                     [&](const std::string& allowed) { return allowed == "*" || allowed == origin; });
}

std::optional<HttpResponse> Router::Refuse(const HttpRequest& head) const {
  const bool anthropic = UsesAnthropicErrors(head.path);
  const std::string methods = AllowedMethods(head.path);
  if (head.method == "OPTIONS" && !methods.empty()) {
    HttpResponse preflight;
    preflight.status = 204;
    preflight.content_type.clear();
    preflight.headers.emplace_back("Allow", methods + ", OPTIONS");
    return preflight;
  }
  const Route* route = Find(head.method, head.path);
  if ((route == nullptr || !route->open) && !auth_.Allows(head)) {
    const bool missing = head.Header("authorization").empty() && head.Header("x-api-key").empty();
    HttpResponse response = ErrorResponse(
        ApiError{.status = 401,
                 .code = "invalid_api_key",
                 .message = missing ? "No API key was given; send the header 'Authorization: Bearer KEY'."
                                    : "The API key is not one of this server's."},
        anthropic);
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return response;
  }
  if (route != nullptr) return std::nullopt;
  if (methods.empty()) {
    return ErrorResponse(ApiError{.status = 404,
                                  .code = "not_found",
                                  .message = fmt::format("There is nothing at {} {}; docs/api.md lists the endpoints.",
                                                         head.method, head.path)},
                         anthropic);
  }
  HttpResponse response =
      ErrorResponse(ApiError{.status = 405,
                             .code = "method_not_allowed",
                             .message = fmt::format("{} is not answered at {}; use {}.", head.method, head.path,
                                                    methods)},
                    anthropic);
  response.headers.emplace_back("Allow", methods);
  return response;
}

void Router::Dispatch(HttpRequest&& request, ReplyPtr reply) const {
  const Route* route = Find(request.method, request.path);
  CHECK(route != nullptr);
  route->handler(std::move(request), std::move(reply));
}

HeaderList Router::Admit(HttpRequest& head) const {
  HeaderList headers;
  head.request_id = SafeHeaderValue(head.Header("x-request-id"));
  if (head.request_id.empty()) head.request_id = NewId("req-");
  headers.emplace_back("x-request-id", head.request_id);
  const std::string_view origin = head.Header("origin");
  if (origin.empty() || !OriginAllowed(origin)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", SafeHeaderValue(origin));
  headers.emplace_back("Vary", "Origin");
  headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, x-minimo-warning, retry-after");
  if (head.method == "OPTIONS") {
    headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    const std::string_view asked = head.Header("access-control-request-headers");
    headers.emplace_back("Access-Control-Allow-Headers",
                         asked.empty() ? "authorization, content-type" : SafeHeaderValue(asked));
    headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return headers;
}

}  // namespace minimo::server
