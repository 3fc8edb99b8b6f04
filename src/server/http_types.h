// What a handler sees of HTTP. Nothing here knows Boost.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace minimo::server {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;    // without the query
  std::string query;   // after '?', undecoded
  HeaderList headers;  // names in lower case
  std::string body;
  std::string peer;         // "127.0.0.1:53122"
  std::string request_id;   // the client's x-request-id, or one made here
  int64_t received_us = 0;  // steady clock, when the header was complete

  // The first header of that name (given in lower case), or "".
  std::string_view Header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  HeaderList headers;
  std::string body;
};

// What is given to a connection's thread again and again, so that a token costs no allocation on its way there.
class IoTask {
 public:
  virtual ~IoTask() = default;
  virtual void Run() = 0;
};

// The way back to the client for one request. Everything is called on the connection's thread, in the handler or in a
// posted task, except Post itself, which any thread may call.
// Exactly one of: Send; BeginStream, Write*, End. A Reply that is dropped unanswered closes the connection.
class Reply {
 public:
  virtual ~Reply() = default;

  virtual void Send(HttpResponse response) = 0;

  // The status line and headers go out; Write then appends pieces (server-sent events get keep-alive comments
  // while nothing is written). `sampled_us`: when the token behind this piece was sampled, for the latency
  // histogram; 0: not a token.
  virtual void BeginStream(HttpResponse head) = 0;
  virtual void Write(std::string_view data, int64_t sampled_us) = 0;
  virtual void End() = 0;

  // Called once on the connection's thread if the client leaves, or is dropped as too slow, before the end.
  virtual void OnClose(std::function<void()> callback) = 0;

  // Runs `task` on the connection's thread, soon, and sends what it wrote; any thread may call.
  virtual void Post(std::function<void()> task) = 0;

  // The same, but the connection's thread is not woken for it before HttpServer::Wake: for news that come in bunches.
  virtual void PostQuietly(std::shared_ptr<IoTask> task) = 0;
};

using ReplyPtr = std::shared_ptr<Reply>;
using Handler = std::function<void(HttpRequest&& request, ReplyPtr reply)>;

}  // namespace minimo::server
