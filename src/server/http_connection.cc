#include "server/http_connection.h"

#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/api_error.h"
#include "server/http_reply.h"

namespace minimo::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using Parser = http::request_parser<http::string_body>;

constexpr size_t kHeaderLimit = 16 << 10;         // bytes of a request's header; beyond: 431
constexpr size_t kPipelineLimit = 64 << 10;       // bytes read ahead while an answer is being written
constexpr uint64_t kSmallBody = 64 << 10;         // a refused request's body up to here is read, so that the
                                                  // connection can stay
constexpr auto kLinger = std::chrono::seconds(5);  // for reading what a refused client still sends

int64_t NowUs() { return SteadyClock().NowUs(); }
std::chrono::milliseconds Ms(int ms) { return std::chrono::milliseconds(ms); }

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

HttpRequest HeadOf(Parser& parser, const std::string& peer) {
  HttpRequest head;
  auto& message = parser.get();
  head.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  const size_t question = target.find('?');
  head.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) head.query = std::string(target.substr(question + 1));
  for (const auto& field : message.base()) {
    std::string name(field.name_string());
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
    }
    head.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  head.peer = peer;
  head.received_us = NowUs();
  return head;
}

// The answer to a head or body that cannot be read; nothing if the client just went away.
std::optional<ApiError> ReadError(const error_code& ec, const HttpServerOptions& options) {
  if (ec == http::error::end_of_stream || ec == http::error::partial_message) return std::nullopt;
  if (ec == http::error::body_limit) {
    return ApiError{.status = 413,
                    .code = "request_too_large",
                    .message = fmt::format("The body is larger than this server's limit of {} bytes.",
                                           options.max_body_bytes)};
  }
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return ApiError{.status = 431,
                    .code = "header_too_large",
                    .message = fmt::format("The request's header is larger than {} bytes.", kHeaderLimit)};
  }
  if (ec.category() == make_error_code(http::error::bad_method).category()) {
    return ApiError{.message = fmt::format("This is not a valid HTTP/1.1 request: {}.", ec.message())};
  }
  return std::nullopt;
}

}  // namespace

Connection::Connection(Socket socket, HttpShared& shared, IoThread& thread, bool refused)
    : stream_(std::move(socket)),
      buffer_(std::max<size_t>(kHeaderLimit, kPipelineLimit) * 2),
      wake_(stream_.get_executor()),
      shared_(shared),
      thread_(thread),
      refused_(refused) {
  thread_.open.insert(this);
  shared_.counters.connections.fetch_add(1, std::memory_order_relaxed);
}

Connection::~Connection() { Leave(); }

void Connection::Leave() {
  if (thread_.open.erase(this) == 0) return;
  shared_.counters.connections.fetch_sub(1, std::memory_order_relaxed);
}

void Connection::Start() {
  error_code ec;
  Socket& socket = stream_.socket();
  socket.set_option(asio::ip::tcp::no_delay(true), ec);
  const auto endpoint = socket.remote_endpoint(ec);
  peer_ = ec ? "unknown" : fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
  asio::co_spawn(stream_.get_executor(), [self = shared_from_this()] { return self->Run(); }, asio::detached);
}

void Connection::Drain() {
  keep_alive_ = false;
  if (!answering_) Cut();
}

void Connection::Cut() {
  ClientGone();
  error_code ec;
  stream_.socket().close(ec);
}

asio::awaitable<void> Connection::Run() {
  if (refused_) {
    // Named, not built inside the co_await: g++ 12 destroys such temporaries twice.
    const ApiError full{.status = 503,
                        .code = "too_many_connections",
                        .message = "The server has as many connections as it takes; try again later.",
                        .retry_after_s = 1};
    HttpResponse response = ErrorResponse(full, false);
    co_await RefuseAndLinger(std::move(response));
  } else {
    while (co_await ServeOne()) {
    }
  }
  error_code ec;
  stream_.socket().shutdown(Socket::shutdown_both, ec);
  stream_.socket().close(ec);
  Leave();
}

asio::awaitable<bool> Connection::ServeOne() {
  const HttpServerOptions& options = shared_.options;
  error_code ec;
  Parser parser;
  parser.header_limit(kHeaderLimit);
  parser.body_limit(static_cast<uint64_t>(options.max_body_bytes));
  ++serial_;
  ended_ = closed_ = streaming_ = chunked_ = keep_alive_ = head_only_ = false;
  common_headers_.clear();

  stream_.expires_after(Ms(options.idle_timeout_ms));
  co_await http::async_read_header(stream_, buffer_, parser, Into(ec));
  if (ec) {
    if (const auto error = ReadError(ec, options)) {
      HttpResponse response = ErrorResponse(*error, false);
      co_await RefuseAndLinger(std::move(response));
    }
    co_return false;
  }
  HttpRequest request = HeadOf(parser, peer_);
  common_headers_ = shared_.router.Admit(request);
  chunked_ = parser.get().version() >= 11;
  keep_alive_ = parser.keep_alive() && !thread_.draining;
  if (request.method == "HEAD") {
    head_only_ = true;
    request.method = "GET";
  }
  std::optional<HttpResponse> refusal = shared_.router.Refuse(request);
  const auto length = parser.content_length();
  const bool small_body = parser.is_done() || (length && *length <= kSmallBody);
  if (refusal && !small_body) {
    co_await RefuseAndLinger(std::move(*refusal));
    co_return false;
  }
  if (!parser.is_done()) {
    stream_.expires_after(Ms(options.body_timeout_ms));
    if (parser.get()[http::field::expect] == "100-continue") {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_, asio::buffer(kContinue), Into(ec));
      if (ec) co_return false;
    }
    co_await http::async_read(stream_, buffer_, parser, Into(ec));
    if (ec) {
      if (const auto error = ReadError(ec, options)) {
        HttpResponse response = ErrorResponse(*error, UsesAnthropicErrors(request.path));
        co_await RefuseAndLinger(std::move(response));
      }
      co_return false;
    }
    request.body = std::move(parser.get().body());
  }

  answering_ = true;
  auto reply = std::make_shared<ReplyImpl>(shared_from_this(), serial_);
  if (refusal) {
    reply->Send(std::move(*refusal));
  } else {
    shared_.router.Dispatch(std::move(request), reply);
  }
  reply.reset();
  const bool written = co_await WriteAnswer();
  answering_ = false;
  on_close_ = nullptr;
  co_return written && keep_alive_ && !thread_.draining;
}

asio::awaitable<bool> Connection::WriteAnswer() {
  error_code ec;
  last_write_us_ = NowUs();
  WatchForClose();
  while (!closed_) {
    if (out_.empty()) {
      if (ended_) break;
      const int64_t silence_us = int64_t{1000} * shared_.options.keep_alive_comment_ms;
      const int64_t left_us = last_write_us_ + silence_us - NowUs();
      if (left_us <= 0) {
        last_write_us_ = NowUs();
        if (streaming_) QueueChunk(": keep-alive\n\n", 0);
        continue;
      }
      wake_.expires_after(std::chrono::microseconds(left_us));
      waiting_ = true;
      co_await wake_.async_wait(Into(ec));
      waiting_ = false;
      continue;
    }
    writing_.swap(out_);
    writing_stamps_.swap(stamps_);
    stream_.expires_after(Ms(shared_.options.write_timeout_ms));
    co_await asio::async_write(stream_, asio::buffer(writing_), Into(ec));
    if (ec) {
      if (ec == beast::error::timeout) {
        shared_.counters.clients_dropped.fetch_add(1, std::memory_order_relaxed);
        LogWarn("{}: dropped, it did not read for {} ms", peer_, shared_.options.write_timeout_ms);
      }
      ClientGone();
      break;
    }
    Written(writing_stamps_);
    thread_.TellWritten();
    writing_.clear();
  }
  if (watching_) {
    watching_ = false;
    stream_.socket().cancel(ec);
  }
  out_.clear();
  writing_.clear();
  stamps_.clear();
  writing_stamps_.clear();
  co_return !closed_;
}

// The bytes before have been handed to the socket.
void Connection::Written(std::vector<int64_t>& stamps) {
  last_write_us_ = NowUs();
  for (const int64_t sampled : stamps) thread_.written_us.push_back(last_write_us_ - sampled);
  stamps.clear();
}

// After a handler's task: what it queued goes out at once, without waking the coroutine, if the socket takes all of it.
// This is the way of nearly every token.
void Connection::Flush() {
  if (!waiting_ || closed_ || ended_ || out_.empty()) return Wake();
  const ssize_t sent = ::send(stream_.socket().native_handle(), out_.data(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(out_.size())) {
    out_.clear();
    return Written(stamps_);
  }
  if (sent > 0) out_.erase(0, static_cast<size_t>(sent));
  Wake();
}

// While an answer is produced nobody reads: this notices that the client has gone (and reads ahead what a pipelining
// client sends, up to a limit).
void Connection::WatchForClose() {
  watching_ = true;
  stream_.socket().async_wait(
      Socket::wait_read, [self = shared_from_this(), serial = serial_](const error_code& ec) {
        if (ec || self->serial_ != serial || !self->watching_) return;
        char bytes[4096];
        const ssize_t count = ::recv(self->stream_.socket().native_handle(), bytes, sizeof(bytes), MSG_DONTWAIT);
        if (count > 0) {
          if (self->buffer_.size() + static_cast<size_t>(count) > kPipelineLimit) {
            self->keep_alive_ = false;
            self->watching_ = false;
            return;
          }
          auto space = self->buffer_.prepare(static_cast<size_t>(count));
          std::copy(bytes, bytes + count, static_cast<char*>(space.data()));
          self->buffer_.commit(static_cast<size_t>(count));
        } else if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
          self->watching_ = false;
          self->ClientGone();
          return;
        }
        self->WatchForClose();
      });
}

// Writes an error to a client whose request was not read to its end. The rest is read and thrown away for a while:
// closing with unread input would reset the connection before the client has seen the answer.
asio::awaitable<void> Connection::RefuseAndLinger(HttpResponse response) {
  error_code ec;
  keep_alive_ = false;
  ended_ = closed_ = false;
  QueueHead(response, false);
  writing_.swap(out_);
  stream_.expires_after(Ms(shared_.options.write_timeout_ms));
  co_await asio::async_write(stream_, asio::buffer(writing_), Into(ec));
  if (ec) co_return;
  stream_.socket().shutdown(Socket::shutdown_send, ec);
  stream_.expires_after(kLinger);
  std::string discarded(kSmallBody, '\0');
  while (!ec) co_await stream_.async_read_some(asio::buffer(discarded), Into(ec));
}

void Connection::QueueHead(const HttpResponse& response, bool stream) {
  streaming_ = stream;
  if (stream && !chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the stream
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  auto out = std::back_inserter(out_);
  fmt::format_to(out, "HTTP/1.1 {} {}\r\nServer: minimo\r\n", response.status,
                 std::string_view(reason.data(), reason.size()));
  if (!response.content_type.empty()) fmt::format_to(out, "Content-Type: {}\r\n", response.content_type);
  if (stream) {
    out_ += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    if (chunked_) out_ += "Transfer-Encoding: chunked\r\n";
  } else if (response.status != 204) {
    fmt::format_to(out, "Content-Length: {}\r\n", response.body.size());
  }
  for (const auto& [name, value] : common_headers_) fmt::format_to(out, "{}: {}\r\n", name, value);
  for (const auto& [name, value] : response.headers) fmt::format_to(out, "{}: {}\r\n", name, value);
  fmt::format_to(out, "Connection: {}\r\n\r\n", keep_alive_ ? "keep-alive" : "close");
  if (!stream && !head_only_) out_ += response.body;
}

void Connection::QueueChunk(std::string_view data, int64_t sampled_us) {
  if (data.empty() || head_only_) return;
  if (!out_.empty() && out_.size() + data.size() > static_cast<size_t>(shared_.options.max_pending_bytes)) {
    shared_.counters.clients_dropped.fetch_add(1, std::memory_order_relaxed);
    LogWarn("{}: dropped, {} bytes of its stream wait unread", peer_, out_.size());
    Cut();
    return;
  }
  if (chunked_) {
    fmt::format_to(std::back_inserter(out_), "{:x}\r\n{}\r\n", data.size(), data);
  } else {
    out_ += data;
  }
  if (sampled_us != 0) stamps_.push_back(sampled_us);
}

void Connection::QueueEnd() {
  if (streaming_ && chunked_ && !head_only_) out_ += "0\r\n\r\n";
  ended_ = true;
}

void Connection::SetOnClose(std::function<void()> callback) {
  if (closed_) {
    callback();
  } else {
    on_close_ = std::move(callback);
  }
}

void Connection::ClientGone() {
  if (closed_) return;
  closed_ = true;
  if (auto callback = std::move(on_close_)) {
    on_close_ = nullptr;
    if (!ended_) callback();
  }
  Wake();
}

void Connection::Wake() { wake_.cancel(); }

}  // namespace minimo::server
