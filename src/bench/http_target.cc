#include "bench/http_target.h"

#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "bench/http_response.h"

namespace minimo::bench {

bool HttpTarget::IsLoopback() const {
  if (address.ss_family == AF_INET) {
    return (ntohl(reinterpret_cast<const sockaddr_in*>(&address)->sin_addr.s_addr) >> 24) == 127;
  }
  return address.ss_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(&address)->sin6_addr);
}

Result<HttpTarget> ResolveTarget(const std::string& base_url) {
  HttpTarget target;
  target.url = base_url;
  while (!target.url.empty() && target.url.back() == '/') target.url.pop_back();
  std::string_view rest = target.url;
  if (rest.substr(0, 8) == "https://") {
    return Errorf("--base-url {}: this client speaks plain http; put a TLS-ending proxy in between", base_url);
  }
  if (rest.substr(0, 7) != "http://") return Errorf("--base-url {}: expected http://HOST:PORT", base_url);
  rest.remove_prefix(7);
  if (const size_t slash = rest.find('/'); slash != std::string_view::npos) {
    target.base_path = std::string(rest.substr(slash));
    rest = rest.substr(0, slash);
  }
  std::string host(rest);
  std::string port = "80";
  const size_t bracket = host.find(']');
  const size_t colon = host.rfind(':');
  if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
    port = host.substr(colon + 1);
    host.resize(colon);
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  target.host_header = std::string(rest);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (code != 0) return Errorf("--base-url {}: {} cannot be resolved: {}", base_url, host, gai_strerror(code));
  std::memcpy(&target.address, found->ai_addr, found->ai_addrlen);
  target.address_length = found->ai_addrlen;
  freeaddrinfo(found);
  return target;
}

std::string FormatRequest(const HttpTarget& target, std::string_view method, std::string_view path,
                          std::string_view body, std::string_view request_id) {
  std::string out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n", method, target.base_path, path,
                                target.host_header);
  for (const auto& [name, value] : target.headers) out += fmt::format("{}: {}\r\n", name, value);
  if (!request_id.empty()) out += fmt::format("x-request-id: {}\r\n", request_id);
  if (method == "POST") {
    out += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  }
  out += "\r\n";
  out += body;
  return out;
}

namespace {

Status SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Errorf("sending failed: {}", std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<HttpReply> Exchange(int fd, std::string_view request) {
  MINIMO_TRY(SendAll(fd, request));
  HttpReply reply;
  HttpResponseParser parser;
  char buffer[16384];
  while (!parser.done()) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errorf("no answer: {}", errno == EAGAIN ? "timed out" : std::strerror(errno));
    if (n == 0) {
      MINIMO_TRY(parser.FeedEof());
    } else {
      MINIMO_TRY(parser.Feed({buffer, static_cast<size_t>(n)}, &reply.body));
    }
  }
  reply.status = parser.status();
  reply.reason = parser.reason();
  return reply;
}

}  // namespace

Result<HttpReply> Call(const HttpTarget& target, std::string_view method, std::string_view path,
                       std::string_view body, double timeout_s) {
  const int fd = socket(target.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Errorf("socket: {}", std::strerror(errno));
  timeval timeout{};
  timeout.tv_sec = static_cast<time_t>(timeout_s);
  timeout.tv_usec = static_cast<suseconds_t>((timeout_s - std::floor(timeout_s)) * 1e6);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  Result<HttpReply> reply = Error{};
  if (connect(fd, reinterpret_cast<const sockaddr*>(&target.address), target.address_length) != 0) {
    reply = Errorf("{} cannot be reached: {}", target.url, std::strerror(errno));
  } else {
    reply = Exchange(fd, FormatRequest(target, method, path, body));
  }
  close(fd);
  return reply;
}

}  // namespace minimo::bench
