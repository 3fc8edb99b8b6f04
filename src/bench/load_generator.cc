#include "bench/load_generator.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "bench/http_response.h"
#include "bench/interrupt.h"
#include "bench/progress.h"

namespace minimo::bench {
namespace {

constexpr int kMaxWaitMs = 100;  // how long a Ctrl-C or a timeout may go unseen
constexpr size_t kErrorBodyBytes = 64 * 1024;

double NowS() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One request on one connection.
struct Exchange {
  size_t index = 0;
  std::string to_send;
  size_t sent = 0;
  bool reused = false;     // on a connection that had been idle: the server may have closed it meanwhile
  bool any_bytes = false;  // of the answer
  HttpResponseParser http;
  SseParser sse;
  AnswerReader reader;
  std::string error_body;

  Exchange(size_t i, Api api, Outcome* outcome) : index(i), reader(api, outcome) {}
};

class Generator {
 public:
  Generator(const HttpTarget& target, const LoadOptions& options, const std::vector<SampleRequest>& requests,
            const std::vector<double>& arrivals)
      : target_(target), options_(options), requests_(requests), arrivals_(arrivals), progress_(options.show_progress) {
    result_.outcomes.resize(requests.size());
  }
  ~Generator() {
    for (const auto& [fd, exchange] : active_) close(fd);
    for (const int fd : idle_) close(fd);
    if (epoll_ >= 0) close(epoll_);
  }

  Result<LoadResult> Run();

 private:
  void Admit(double now);
  void Start(size_t index, double now);
  void Open(std::unique_ptr<Exchange> exchange, bool may_reuse);
  void OnReady(int fd, uint32_t events);
  bool Send(int fd, Exchange* exchange);      // false: it has ended
  void Receive(int fd, Exchange* exchange);
  Status Consume(Exchange* exchange, std::string_view body, double now);
  void Finish(int fd, Status status);
  void Fail(size_t index, std::string message);
  void ExpireOld(double now);
  int WaitMs(double now) const;
  void ShowProgress();

  const HttpTarget& target_;
  const LoadOptions& options_;
  const std::vector<SampleRequest>& requests_;
  const std::vector<double>& arrivals_;
  ProgressLine progress_;
  LoadResult result_;
  std::vector<std::string> bodies_;
  int epoll_ = -1;
  double start_ = 0;
  size_t arrived_ = 0;  // requests whose time has come
  size_t ended_ = 0;
  size_t failed_ = 0;
  int64_t tokens_ = 0;  // of the requests that ended
  std::deque<size_t> waiting_;
  std::unordered_map<int, std::unique_ptr<Exchange>> active_;
  std::vector<int> idle_;
};

Result<LoadResult> Generator::Run() {
  bodies_.reserve(requests_.size());
  for (const SampleRequest& request : requests_) {
    MINIMO_ASSIGN(std::string body, RequestBody(options_.generation, request));
    bodies_.push_back(FormatRequest(target_, "POST", options_.endpoint, body, request.id));
  }
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) return Errorf("epoll: {}", std::strerror(errno));
  start_ = NowS();
  double last_end = start_;
  while (ended_ < requests_.size() && !InterruptScope::Requested()) {
    Admit(NowS());
    epoll_event events[256];
    const int count = epoll_wait(epoll_, events, 256, WaitMs(NowS()));
    const size_t ended_before = ended_;
    for (int i = 0; i < count; ++i) OnReady(events[i].data.fd, events[i].events);
    ExpireOld(NowS());
    if (ended_ != ended_before) last_end = NowS();
    if (progress_.Due()) ShowProgress();
  }
  result_.interrupted = ended_ < requests_.size();
  result_.duration_s = (result_.interrupted ? NowS() : last_end) - start_;
  for (const auto& [fd, exchange] : active_) result_.outcomes[exchange->index].interrupted = true;
  return std::move(result_);
}

void Generator::Admit(double now) {
  while (arrived_ < requests_.size() && start_ + arrivals_[arrived_] <= now) waiting_.push_back(arrived_++);
  while (!waiting_.empty() &&
         (options_.max_concurrency == 0 || active_.size() < static_cast<size_t>(options_.max_concurrency))) {
    const size_t index = waiting_.front();
    waiting_.pop_front();
    Start(index, NowS());
  }
}

void Generator::Start(size_t index, double now) {
  Outcome& outcome = result_.outcomes[index];
  outcome.started = true;
  outcome.start_time = now;
  outcome.queue_time = now - (start_ + arrivals_[index]);
  outcome.prompt_len = requests_[index].prompt_len;
  auto exchange = std::make_unique<Exchange>(index, options_.generation.api, &outcome);
  exchange->to_send = bodies_[index];
  Open(std::move(exchange), true);
}

void Generator::Open(std::unique_ptr<Exchange> exchange, bool may_reuse) {
  int fd = -1;
  if (may_reuse && !idle_.empty()) {
    fd = idle_.back();
    idle_.pop_back();
    exchange->reused = true;
  } else {
    fd = socket(target_.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return Fail(exchange->index, fmt::format("socket: {}", std::strerror(errno)));
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&target_.address), target_.address_length) != 0 &&
        errno != EINPROGRESS) {
      const std::string why = std::strerror(errno);
      close(fd);
      return Fail(exchange->index, fmt::format("{} cannot be reached: {}", target_.url, why));
    }
    epoll_event event{};
    event.events = 0;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT;
  event.data.fd = fd;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
  active_[fd] = std::move(exchange);
}

void Generator::OnReady(int fd, uint32_t events) {
  const auto it = active_.find(fd);
  if (it == active_.end()) {  // an idle connection that the server closed
    const auto idle = std::find(idle_.begin(), idle_.end(), fd);
    if (idle == idle_.end()) return;
    idle_.erase(idle);
    close(fd);
    return;
  }
  Exchange* exchange = it->second.get();
  int error = 0;
  socklen_t length = sizeof error;
  if ((events & EPOLLERR) != 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error != 0 &&
      !exchange->any_bytes && !exchange->reused) {
    return Finish(fd, Errorf("{} cannot be reached: {}", target_.url, std::strerror(error)));
  }
  if ((events & EPOLLOUT) != 0 && exchange->sent < exchange->to_send.size() && !Send(fd, exchange)) return;
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) Receive(fd, exchange);
}

bool Generator::Send(int fd, Exchange* exchange) {
  while (exchange->sent < exchange->to_send.size()) {
    const ssize_t n =
        send(fd, exchange->to_send.data() + exchange->sent, exchange->to_send.size() - exchange->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n < 0) {
      Finish(fd, Errorf("sending failed: {}", std::strerror(errno)));
      return false;
    }
    exchange->sent += static_cast<size_t>(n);
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
  return true;
}

void Generator::Receive(int fd, Exchange* exchange) {
  char buffer[65536];
  while (true) {
    const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    const double now = NowS();
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return Finish(fd, Errorf("the connection broke: {}", std::strerror(errno)));
    std::string body;
    Status status;
    if (n == 0) {
      status = exchange->http.FeedEof();
    } else {
      exchange->any_bytes = true;
      status = exchange->http.Feed({buffer, static_cast<size_t>(n)}, &body);
    }
    const Status consumed = Consume(exchange, body, now);
    if (!consumed.ok()) return Finish(fd, consumed);
    if (!status.ok() || exchange->http.done()) return Finish(fd, status);
  }
}

Status Generator::Consume(Exchange* exchange, std::string_view body, double now) {
  if (!exchange->http.headers_done()) return {};
  if (exchange->http.status() != 200) {
    exchange->error_body.append(
        body.substr(0, kErrorBodyBytes - std::min(kErrorBodyBytes, exchange->error_body.size())));
    return {};
  }
  for (const std::string& event : exchange->sse.Feed(body)) MINIMO_TRY(exchange->reader.OnEvent(event, now));
  return {};
}

// Ends the exchange on `fd`, well or not.
void Generator::Finish(int fd, Status status) {
  const auto node = active_.extract(fd);
  std::unique_ptr<Exchange> exchange = std::move(node.mapped());
  const bool complete = status.ok() && exchange->http.done();
  if (complete && exchange->http.keep_alive()) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
    idle_.push_back(fd);
  } else {
    close(fd);
  }
  if (!complete && exchange->reused && !exchange->any_bytes) {  // it went stale while idle: once more, on a new one
    auto again = std::make_unique<Exchange>(exchange->index, options_.generation.api,
                                            &result_.outcomes[exchange->index]);
    again->to_send = std::move(exchange->to_send);
    return Open(std::move(again), false);
  }
  if (complete && exchange->http.status() != 200) {
    status = Error{DescribeHttpError(exchange->http.status(), exchange->http.reason(), exchange->error_body)};
  } else if (complete) {
    status = exchange->reader.OnEnd(exchange->http.ends_with_connection());
  }
  if (!status.ok()) return Fail(exchange->index, status.error().message);
  ++ended_;
  tokens_ += result_.outcomes[exchange->index].output_tokens;
}

void Generator::Fail(size_t index, std::string message) {
  result_.outcomes[index].success = false;
  result_.outcomes[index].error = std::move(message);
  ++ended_;
  ++failed_;
}

void Generator::ExpireOld(double now) {
  std::vector<int> old;
  for (const auto& [fd, exchange] : active_) {
    if (now - result_.outcomes[exchange->index].start_time > options_.request_timeout_s) old.push_back(fd);
  }
  for (const int fd : old) {
    active_.at(fd)->any_bytes = true;  // no second try
    Finish(fd, Errorf("no complete answer within {} s", options_.request_timeout_s));
  }
}

int Generator::WaitMs(double now) const {
  if (arrived_ == requests_.size()) return kMaxWaitMs;
  const double wait_ms = std::ceil((start_ + arrivals_[arrived_] - now) * 1e3);
  return static_cast<int>(std::clamp(wait_ms, 0.0, static_cast<double>(kMaxWaitMs)));
}

void Generator::ShowProgress() {
  const double elapsed = progress_.elapsed_s();
  std::string text = fmt::format("{}/{} requests, {} running, {} failed, {:.1f} tok/s, {}", ended_, requests_.size(),
                                 active_.size(), failed_, static_cast<double>(tokens_) / elapsed,
                                 FormatSeconds(elapsed));
  if (ended_ > 0) {
    const double left = elapsed / static_cast<double>(ended_) * static_cast<double>(requests_.size() - ended_);
    text += fmt::format(", about {} left", FormatSeconds(left));
  }
  progress_.Show(text);
}

// A burst of requests needs a socket each; the usual soft limit is 1024.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

}  // namespace

Result<LoadResult> RunLoad(const HttpTarget& target, const LoadOptions& options,
                           const std::vector<SampleRequest>& requests, const std::vector<double>& arrivals) {
  if (requests.empty()) return Errorf("no requests to send");
  if (arrivals.size() != requests.size())
    return Errorf("{} arrivals for {} requests", arrivals.size(), requests.size());
  RaiseFileLimit();
  return Generator(target, options, requests, arrivals).Run();
}

}  // namespace minimo::bench
