// Which handler answers which method and path; what every request must pass before: CORS, the key, a known route.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/auth.h"
#include "server/http_types.h"

namespace minimo::server {

class Router {
 public:
  Router(Auth auth, std::vector<std::string> allowed_origins);

  // `open`: needs no key (health checks, metrics, the web page's own files).
  void Add(std::string method, std::string path, Handler handler, bool open = false);
  // Every path that begins with `prefix`.
  void AddPrefix(std::string method, std::string prefix, Handler handler, bool open = false);

  // Judges the head, before the body is read: the answer if the request goes no further (401, 404, 405, a CORS
  // preflight), nothing if it may go on to Dispatch.
  std::optional<HttpResponse> Refuse(const HttpRequest& head) const;

  // Requires that Refuse gave nothing.
  void Dispatch(HttpRequest&& request, ReplyPtr reply) const;

  // Gives the request its id; returns the headers that every response to it carries: x-request-id, Access-Control-*.
  HeaderList Admit(HttpRequest& head) const;

 private:
  struct Route {
    Handler handler;
    bool open = false;
  };
  const Route* Find(const std::string& method, const std::string& path) const;
  std::string AllowedMethods(const std::string& path) const;  // "GET, POST", or "" if nothing is there
  bool OriginAllowed(std::string_view origin) const;

  std::map<std::string, std::map<std::string, Route>> exact_;  // path -> method -> route
  std::vector<std::pair<std::string, std::map<std::string, Route>>> prefixes_;
  Auth auth_;
  std::vector<std::string> allowed_origins_;
};

}  // namespace minimo::server
