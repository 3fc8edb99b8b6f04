// The whole server around an engine: routes, limits, metrics, the watcher's stream. `minimo serve` builds one; so do
// the tests, around a fake engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/engine.h"
#include "minimo/result.h"
#include "server/http_server.h"
#include "server/metrics.h"

namespace minimo::server {

class ChatService;

struct ServerOptions {
  HttpServerOptions http;
  std::vector<std::string> served_model_names;  // at least one
  std::vector<std::string> api_keys;            // empty: open to all
  std::vector<std::string> allowed_origins;     // CORS; empty: off; "*": all
  int max_num_seqs = 256;
  int max_queue = 1024;        // sequences that may wait beyond max_num_seqs; then 429
  int drain_timeout_ms = 30'000;
  CacheConfig cache;           // for the metrics
};

// Threads for an engine that shares `cores` with so many IO threads: where there are eight or more, each of these gets
// a core. A thread team spins, and with one member a core each wake-up of an IO thread takes a core away in the middle
// of a region, for which all the others wait. On 16 cores (Xeon, nano models, 64 streams, 4 IO threads) an engine of 12
// is as fast as one of 16, goes at 98 to 100 % with HTTP, and its tokens are written after 142 to 164 us; one of 14
// after 177 to 227; one of 16 with 2 IO threads goes at 92 to 95 %, and writes one stream's tokens after 466 us, not
// 36.
int EngineThreadsBeside(int io_threads, int cores);

class Server {
 public:
  // The engine and the chat service outlive the server.
  Server(Engine& engine, const ChatService& chat, ServerOptions options);
  ~Server();

  Status Start();
  int port() const;

  // Stops accepting, waits for what runs up to drain_timeout_ms, cuts the rest. Returns how many were cut.
  int Drain();

  // From a token sampled to its bytes handed to the socket, since the start; for benches.
  LatencySummary TokenWriteLatency() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace minimo::server
