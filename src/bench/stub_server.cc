#include "bench/stub_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include <fmt/format.h>

#include "base/check.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

double NowS() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void SleepUntil(double time_s) {
  const double wait = time_s - NowS();
  if (wait > 0) std::this_thread::sleep_for(std::chrono::duration<double>(wait));
}

bool SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool SendChunk(int fd, const std::string& event) {
  const std::string data = "data: " + event + "\n\n";
  return SendAll(fd, fmt::format("{:x}\r\n{}\r\n", data.size(), data));
}

std::string Token(bool chat, bool last) {
  const Json finish = last ? Json("length") : Json(nullptr);
  Json choice = {{"index", 0}, {"finish_reason", finish}};
  if (chat) {
    choice["delta"] = {{"content", " x"}};
  } else {
    choice["text"] = " x";
  }
  return Json{{"choices", Json::array({choice})}}.dump();
}

// Reads one request; false when the peer is gone.
bool ReadRequest(int fd, std::string* buffer, StubRequest* request) {
  char bytes[65536];
  while (true) {
    const size_t end = buffer->find("\r\n\r\n");
    if (end != std::string::npos) {
      const auto header = [&](const std::string& name) {
        const size_t at = buffer->find("\r\n" + name + ": ");
        if (at == std::string::npos || at > end) return std::string();
        const size_t begin = at + name.size() + 4;
        return buffer->substr(begin, buffer->find("\r\n", begin) - begin);
      };
      const std::string text_length = header("Content-Length");
      const size_t length = text_length.empty() ? 0 : std::stoul(text_length);
      if (buffer->size() >= end + 4 + length) {
        const size_t space = buffer->find(' ');
        request->path = buffer->substr(space + 1, buffer->find(' ', space + 1) - space - 1);
        request->id = header("x-request-id");
        request->body = buffer->substr(end + 4, length);
        buffer->erase(0, end + 4 + length);
        return true;
      }
    }
    const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n <= 0) return false;
    buffer->append(bytes, static_cast<size_t>(n));
  }
}

}  // namespace

StubServer::StubServer(Handler handler) : handler_(std::move(handler)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  CHECK(listen(listener_, 1024) == 0);
  socklen_t length = sizeof address;
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

StubServer::~StubServer() {
  stop_ = true;
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  {
    std::lock_guard lock(mutex_);
    for (const int fd : sockets_) shutdown(fd, SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
  for (const int fd : sockets_) close(fd);
}

std::string StubServer::url() const { return fmt::format("http://127.0.0.1:{}", port_); }

void StubServer::Accept() {
  while (!stop_) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ++connections_;
    std::lock_guard lock(mutex_);
    sockets_.push_back(fd);
    threads_.emplace_back([this, fd] { Serve(fd); });
  }
}

void StubServer::Serve(int fd) {
  std::string buffer;
  while (!stop_) {
    StubRequest request;
    if (!ReadRequest(fd, &buffer, &request)) break;
    const double arrival_s = NowS();
    if (request.path == "/v1/models") {
      const std::string body = R"({"object":"list","data":[{"id":"stub","object":"model","root":"stub"}]})";
      if (!SendAll(fd, fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.size(), body))) break;
      continue;
    }
    if (request.path == "/metrics") {
      if (!SendAll(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) break;
      continue;
    }
    request.index = requests_++;
    const Json body = Json::parse(request.body, nullptr, false);
    request.max_tokens = body.value("max_tokens", body.value("max_completion_tokens", 0));
    if (!Answer(fd, request, arrival_s)) break;
  }
  shutdown(fd, SHUT_RDWR);
}

bool StubServer::Answer(int fd, const StubRequest& request, double arrival_s) {
  const StubReply reply = handler_(request);
  if (reply.status != 200) {
    return SendAll(fd, fmt::format("HTTP/1.1 {} Error\r\nContent-Length: {}\r\n\r\n{}", reply.status,
                                   reply.error_body.size(), reply.error_body));
  }
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
  const bool chat = request.path.find("chat") != std::string::npos;
  const size_t count = reply.token_times_s.size();
  for (size_t i = 0; i < count; ++i) {
    if (reply.break_after == static_cast<int>(i)) return false;
    SleepUntil(arrival_s + reply.token_times_s[i]);
    const auto lag_us = static_cast<int64_t>((NowS() - arrival_s - reply.token_times_s[i]) * 1e6);
    worst_lag_us_ = std::max<int64_t>(worst_lag_us_, lag_us);
    if (i == 0 && !SendAll(fd, head)) return false;
    if (!SendChunk(fd, Token(chat, i + 1 == count && reply.done))) return false;
  }
  if (count == 0 && !SendAll(fd, head)) return false;
  if (reply.break_after == static_cast<int>(count)) return false;
  if (!reply.raw_event.empty() && !SendChunk(fd, reply.raw_event)) return false;
  if (reply.usage) {
    const Json usage = {{"prompt_tokens", reply.prompt_tokens}, {"completion_tokens", count}};
    if (!SendChunk(fd, Json{{"choices", Json::array()}, {"usage", usage}}.dump())) return false;
  }
  if (reply.done && !SendChunk(fd, "[DONE]")) return false;
  return SendAll(fd, "0\r\n\r\n");
}

}  // namespace minimo::bench
