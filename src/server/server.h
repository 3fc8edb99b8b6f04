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
