// One client's connection: a coroutine that reads a request, hands it to the router and writes what the handler
// produces. Touched by its IO thread only. Internal to the server: with io_thread.h the only headers that know Boost.
#pragma once

#include <utility>  // Boost 1.74's awaitable.hpp uses std::exchange without it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <memory>
#include <string>
#include <vector>

#include "server/http_server.h"
#include "server/http_types.h"
#include "server/io_thread.h"
#include "server/router.h"

namespace minimo::server {

// What the connections share; outlives them all.
struct HttpShared {
  HttpServerOptions options;
  Router router;
  HttpCounters counters;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `refused`: the server is full; answer 503 and close.
  Connection(boost::asio::ip::tcp::socket socket, HttpShared& shared, IoThread& thread, bool refused);
  ~Connection();

  void Start();
  void Drain();  // closes if idle, else after the answer in progress
  void Cut();    // closes now
  void Flush();  // sends what a task has just queued

 private:
  class ReplyImpl;
  using Socket = boost::asio::ip::tcp::socket;

  boost::asio::awaitable<void> Run();
  boost::asio::awaitable<bool> ServeOne();           // true: the connection may carry another request
  boost::asio::awaitable<bool> WriteAnswer();        // writes until the reply ends; false: the client is gone
  boost::asio::awaitable<void> RefuseAndLinger(HttpResponse response);

  void QueueHead(const HttpResponse& response, bool stream);
  void QueueChunk(std::string_view data, int64_t sampled_us);
  void QueueEnd();
  void SetOnClose(std::function<void()> callback);
  void ClientGone();
  void Wake();
  void Leave();  // counts as open no more, even if a handler still holds the reply
  void WatchForClose();
  void Written(std::vector<int64_t>& stamps);

  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_;
  HttpShared& shared_;
  IoThread& thread_;
  std::string peer_;
  bool refused_;

  // The request being answered.
  uint64_t serial_ = 0;     // of the request; an old Reply no longer matches
  bool answering_ = false;  // a handler has it
  bool ended_ = false;
  bool closed_ = false;     // the client is gone or was dropped
  bool streaming_ = false;
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool head_only_ = false;  // HEAD
  bool watching_ = false;
  bool waiting_ = false;    // the coroutine waits for output
  int64_t last_write_us_ = 0;
  HeaderList common_headers_;
  std::function<void()> on_close_;
  std::string out_;               // not yet handed to the socket
  std::string writing_;           // being written
  std::vector<int64_t> stamps_;   // sampled_us of the tokens in out_
  std::vector<int64_t> writing_stamps_;
};

}  // namespace minimo::server
