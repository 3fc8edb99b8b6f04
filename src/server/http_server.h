// The HTTP/1.1 server: one acceptor, a few IO threads, one coroutine a connection that stays on its thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "minimo/result.h"
#include "server/http_types.h"
#include "server/router.h"

namespace minimo::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free one
  int io_threads = 0;  // 0: DefaultIoThreads of the cores
  int max_connections = 4096;                     // beyond: 503 and close
  int64_t max_body_bytes = int64_t{32} << 20;     // beyond: 413
  int64_t max_pending_bytes = int64_t{1} << 20;   // of a stream, unsent: beyond, the client is dropped
  int idle_timeout_ms = 75'000;      // for a request's header to arrive, on new and on kept connections
  int body_timeout_ms = 60'000;      // for its body
  int write_timeout_ms = 30'000;     // for the client to take what is being written
  int keep_alive_comment_ms = 15'000;  // silence in a stream after which a comment line is sent
};

// A quarter of the cores, 2 to 4: the sends of a step's tokens are what a client waits for, 5 to 8 us each.
int DefaultIoThreads(int cores);

// Written by the connections, read by the metrics.
struct HttpCounters {
  std::atomic<int64_t> connections{0};           // open now
  std::atomic<int64_t> connections_total{0};
  std::atomic<int64_t> connections_refused{0};   // over max_connections
  std::atomic<int64_t> clients_dropped{0};       // too slow to read
  // Of a bunch of tokens: sampled -> write returned. Set before Start.
  std::function<void(std::span<const int64_t> latencies_us)> on_tokens_written;
};

class HttpServer {
 public:
  // The router must not change from here on.
  HttpServer(HttpServerOptions options, Router router);
  ~HttpServer();  // Stop()

  // Binds and starts the threads.
  Status Start();
  int port() const;
  HttpCounters& counters();

  // What Reply::PostQuietly queued runs now. Any thread.
  void Wake();

  // Stops accepting, closes idle connections, lets answers in progress end within `timeout_ms`, then closes the
  // rest (their requests see OnClose). Returns the number of connections that had to be cut. The IO threads go on:
  // Reply::Post still runs.
  int Drain(int timeout_ms);

  // Drain(0) and the end of the threads. No Reply may be used after this, though it may still be destroyed.
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace minimo::server
