// Where requests go, and a plain blocking call for the small questions before and after a run.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "minimo/result.h"

namespace minimo::bench {

struct HttpTarget {
  std::string url;          // as given, without a trailing slash
  std::string host_header;  // "host:port"
  std::string base_path;    // of the URL, prepended to every path: "" or "/prefix"
  sockaddr_storage address{};
  socklen_t address_length = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // sent with every request

  bool IsLoopback() const;
};

// http://host[:port][/prefix]; resolves the name. https is refused in words.
Result<HttpTarget> ResolveTarget(const std::string& base_url);

// The request's bytes: method, path, headers, and `body` if it is a POST.
std::string FormatRequest(const HttpTarget& target, std::string_view method, std::string_view path,
                          std::string_view body, std::string_view request_id = {});

struct HttpReply {
  int status = 0;
  std::string reason;
  std::string body;
};

// One connection, one request; `timeout_s` bounds each wait on the socket.
Result<HttpReply> Call(const HttpTarget& target, std::string_view method, std::string_view path,
                       std::string_view body, double timeout_s);

}  // namespace minimo::bench
