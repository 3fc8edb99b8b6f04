// What server_bench and watcher_bench share: one load, put on the engine alone or sent through HTTP by one thread that
// is all clients; and the processor time of this process's threads.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/engine.h"
#include "server/server.h"
#include "server/template_chat.h"

namespace minimo::server {

// --name value pairs.
class BenchFlags {
 public:
  BenchFlags(int argc, char** argv);
  int Number(const std::string& name, int fallback) const;
  std::string Text(const std::string& name, const std::string& fallback) const;

 private:
  std::map<std::string, std::string> flags_;
};

struct Load {
  int streams = 64;
  int requests = 256;
  int tokens = 128;  // of each, whatever the model says
};

// Tokens a second.
double RunEngine(Engine& engine, const Load& load);
double RunHttp(int port, const Load& load);

// A connected socket.
int ConnectTo(int port);

// Microseconds that the threads of this name (pthread_setname_np's; a prefix) have run.
double ThreadTimeUs(std::string_view name);

double Median(std::vector<double> values);

// An engine and a server of the flags' model, on a free port.
struct BenchServer {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ChatService> chat;
  std::unique_ptr<Server> server;
};
Result<BenchServer> StartBenchServer(const BenchFlags& flags);

}  // namespace minimo::server
