#include "server/http_server.h"

#include <sched.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "server/http_connection.h"

namespace minimo::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

}  // namespace

int DefaultIoThreads(int cores) { return std::clamp(cores / 4, 2, 4); }

struct HttpServer::State {
  explicit State(HttpServerOptions options, Router router) : shared{std::move(options), std::move(router), {}} {}

  void Accept();
  void OnAccepted(size_t index, tcp::socket socket);
  // Runs `task` for every worker on its own thread and waits for all.
  void OnEveryWorker(const std::function<void(IoThread&)>& task);

  HttpShared shared;
  std::vector<std::unique_ptr<IoThread>> workers;
  std::unique_ptr<tcp::acceptor> acceptor;       // on workers[0]
  std::unique_ptr<asio::steady_timer> retry;     // after a failed accept
  size_t next = 0;                               // worker of the next connection
  int port = 0;
};

HttpServer::HttpServer(HttpServerOptions options, Router router)
    : state_(std::make_unique<State>(std::move(options), std::move(router))) {}

HttpServer::~HttpServer() { Stop(); }

int HttpServer::port() const { return state_->port; }
HttpCounters& HttpServer::counters() { return state_->shared.counters; }

Status HttpServer::Start() {
  State& state = *state_;
  const HttpServerOptions& options = state.shared.options;
  const int io_threads = options.io_threads > 0 ? options.io_threads : DefaultIoThreads(AvailableCores());
  for (int i = 0; i < io_threads; ++i) state.workers.push_back(std::make_unique<IoThread>());
  asio::io_context& context = state.workers[0]->context();
  error_code ec;
  const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) return Errorf("--host {}: not an IP address; give one such as 127.0.0.1, 0.0.0.0 or ::", options.host);
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(options.port));
  state.acceptor = std::make_unique<tcp::acceptor>(context);
  state.retry = std::make_unique<asio::steady_timer>(context);
  state.acceptor->open(endpoint.protocol(), ec);
  if (!ec) state.acceptor->set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) state.acceptor->bind(endpoint, ec);
  if (!ec) state.acceptor->listen(4096, ec);
  if (ec) {
    return Errorf("cannot listen on {}:{}: {}; choose another --host or --port", options.host, options.port,
                  ec.message());
  }
  state.port = state.acceptor->local_endpoint(ec).port();
  state.Accept();
  // With no more cores than threads, one core would often be given to two of them while another waits for it.
  const int count = static_cast<int>(state.workers.size());
  const bool few_cores = AvailableCores() <= count;
  for (int i = 0; i < count; ++i) {
    state.workers[static_cast<size_t>(i)]->Start(fmt::format("http-{}", i), few_cores ? i % AvailableCores() : -1,
                                                  state.shared.counters);
  }
  return {};
}

void HttpServer::State::Accept() {
  const size_t index = next++ % workers.size();
  acceptor->async_accept(workers[index]->context(), [this, index](const error_code& ec, tcp::socket socket) {
    if (ec == asio::error::operation_aborted || !acceptor->is_open()) return;
    if (!ec) {
      OnAccepted(index, std::move(socket));
      Accept();
      return;
    }
    LogWarn("accept failed: {}; trying again", ec.message());  // out of file descriptors, mostly
    retry->expires_after(std::chrono::milliseconds(100));
    retry->async_wait([this](const error_code& aborted) {
      if (!aborted) Accept();
    });
  });
}

void HttpServer::State::OnAccepted(size_t index, tcp::socket socket) {
  HttpCounters& counters = shared.counters;
  counters.connections_total.fetch_add(1, std::memory_order_relaxed);
  IoThread* worker = workers[index].get();
  asio::post(worker->context(), [this, worker, socket = std::move(socket)]() mutable {
    if (worker->draining) return;
    const bool refused = shared.counters.connections.load(std::memory_order_relaxed) >= shared.options.max_connections;
    if (refused) shared.counters.connections_refused.fetch_add(1, std::memory_order_relaxed);
    std::make_shared<Connection>(std::move(socket), shared, *worker, refused)->Start();
  });
}

void HttpServer::State::OnEveryWorker(const std::function<void(IoThread&)>& task) {
  std::mutex mutex;
  std::condition_variable done;
  size_t left = workers.size();
  for (auto& worker : workers) {
    asio::post(worker->context(), [&, worker = worker.get()] {
      task(*worker);
      const std::lock_guard lock(mutex);
      if (--left == 0) done.notify_one();
    });
  }
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return left == 0; });
}

void HttpServer::Wake() {
  const int here = sched_getcpu();
  for (auto& worker : state_->workers) {
    if (worker->last_core() != here) worker->Wake();
  }
  for (auto& worker : state_->workers) worker->Wake();  // those left; no more than a look at the others
}

int HttpServer::Drain(int timeout_ms) {
  State& state = *state_;
  if (state.workers.empty() || !state.workers[0]->started()) return 0;
  // A closing connection leaves its set: iterate over copies.
  const auto each = [](IoThread& worker, void (Connection::*call)()) {
    const std::vector<Connection*> open(worker.open.begin(), worker.open.end());
    for (Connection* connection : open) {
      if (worker.open.count(connection) > 0) (connection->*call)();
    }
  };
  state.OnEveryWorker([&](IoThread& worker) {
    if (&worker == state.workers[0].get()) {
      error_code ec;
      state.acceptor->close(ec);
      state.retry->cancel();
    }
    worker.draining = true;
    each(worker, &Connection::Drain);
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  const auto open = [&] { return state.shared.counters.connections.load(); };
  const auto wait_until = [&](std::chrono::steady_clock::time_point limit) {
    while (open() > 0 && std::chrono::steady_clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  };
  wait_until(deadline);
  const int cut = static_cast<int>(open());
  if (cut > 0) {
    state.OnEveryWorker([&](IoThread& worker) { each(worker, &Connection::Cut); });
    wait_until(std::chrono::steady_clock::now() + std::chrono::seconds(2));
  }
  return cut;
}

void HttpServer::Stop() {
  Drain(0);
  for (auto& worker : state_->workers) worker->Stop();
}

}  // namespace minimo::server
