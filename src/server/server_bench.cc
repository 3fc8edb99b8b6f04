// server_bench [--model M] [--threads N] [--streams 64] [--requests 256] [--tokens 128]: the same requests through the
// engine alone and through HTTP, in one process, with one thread as all clients.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "minimo/engine.h"
#include "models/loader.h"
#include "server/server.h"
#include "server/template_chat.h"

namespace minimo {
namespace {

struct Load {
  int streams = 64;
  int requests = 256;
  int tokens = 128;
};

// Token ids that differ by request, so that no prefix is shared.
std::vector<int32_t> PromptOf(int index) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 16; ++i) ids.push_back(300 + (index * 7 + i * 13) % 500);
  return ids;
}

// Tokens a second.
double RunEngine(Engine& engine, const Load& load) {
  std::mutex mutex;
  std::condition_variable done;
  int next = 0, finished = 0;
  const int64_t begin = SteadyClock().NowUs();
  const auto submit = [&] {
    int index;
    {
      const std::lock_guard lock(mutex);
      if (next == load.requests) return;
      index = next++;
    }
    Request request;
    request.prompt_ids = PromptOf(index);
    request.params.max_tokens = load.tokens;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    (void)engine.Submit(std::move(request), [&](Event&& event) {
      if (event.finish == FinishReason::kNone) return;
      const std::lock_guard lock(mutex);
      ++finished;
      done.notify_one();
    });
  };
  for (int i = 0; i < load.streams; ++i) submit();
  std::unique_lock lock(mutex);
  int seen = 0;
  while (finished < load.requests) {
    done.wait(lock, [&] { return finished > seen; });
    const int fresh = finished - seen;
    seen = finished;
    lock.unlock();
    for (int i = 0; i < fresh; ++i) submit();
    lock.lock();
  }
  return 1e6 * load.requests * load.tokens / static_cast<double>(SteadyClock().NowUs() - begin);
}

struct Client {
  int fd = -1;
  std::string tail;  // the last bytes read, to find the end across pieces
};

std::string HttpRequestOf(int index, const Load& load) {
  std::string ids;
  for (const int32_t id : PromptOf(index)) ids += fmt::format("{}{}", ids.empty() ? "" : ",", id);
  const std::string body = fmt::format(
      R"({{"prompt":[{}],"max_tokens":{},"temperature":0,"ignore_eos":true,"stream":true}})", ids, load.tokens);
  return fmt::format("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", body.size(), body);
}

double RunHttp(int port, const Load& load) {
  std::vector<Client> clients(static_cast<size_t>(load.streams));
  std::vector<pollfd> polls;
  int next = 0, finished = 0;
  const auto send_next = [&](Client& client) {
    if (next == load.requests) return;
    const std::string request = HttpRequestOf(next++, load);
    (void)!::send(client.fd, request.data(), request.size(), MSG_NOSIGNAL);
  };
  const int64_t begin = SteadyClock().NowUs();
  for (Client& client : clients) {
    client.fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(client.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) std::abort();
    polls.push_back({client.fd, POLLIN, 0});
    send_next(client);
  }
  char bytes[1 << 16];
  while (finished < load.requests) {
    ::poll(polls.data(), polls.size(), -1);
    for (size_t i = 0; i < polls.size(); ++i) {
      if ((polls[i].revents & POLLIN) == 0) continue;
      const ssize_t count = ::recv(polls[i].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
      if (count <= 0) std::abort();
      clients[i].tail.append(bytes, static_cast<size_t>(count));
      if (clients[i].tail.find("0\r\n\r\n", std::max<size_t>(clients[i].tail.size(), 64) - 64) != std::string::npos &&
          clients[i].tail.find("[DONE]") != std::string::npos) {
        ++finished;
        clients[i].tail.clear();
        send_next(clients[i]);
      } else if (clients[i].tail.size() > 256) {
        clients[i].tail.erase(0, clients[i].tail.size() - 64);
      }
    }
  }
  const double seconds = static_cast<double>(SteadyClock().NowUs() - begin) * 1e-6;
  for (Client& client : clients) ::close(client.fd);
  return load.requests * load.tokens / seconds;
}

int Main(int argc, char** argv) {
  std::map<std::string, std::string> flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  const auto number = [&](const char* name, int fallback) {
    return flags.count(name) > 0 ? std::atoi(flags[name].c_str()) : fallback;
  };
  const Load load{number("--streams", 64), number("--requests", 256), number("--tokens", 128)};
  EngineOptions options;
  options.model = flags.count("--model") > 0 ? flags["--model"] : "nano-minimax-m2";
  options.threads = number("--threads", 0);
  options.enable_prefix_caching = false;
  auto engine = Engine::Create(options);
  auto folder = ResolveModelFolder(options.model);
  if (!engine.ok() || !folder.ok()) {
    fmt::print(stderr, "{}\n", engine.ok() ? folder.error().message : engine.error().message);
    return 1;
  }
  auto chat = server::TemplateChat::Load(*folder, **engine);
  if (!chat.ok()) return 1;
  server::ServerOptions serve;
  serve.served_model_names = {"bench"};
  serve.http.port = 0;
  server::Server server(**engine, **chat, serve);
  if (!server.Start().ok()) return 1;
  std::vector<double> alone, http;
  RunEngine(**engine, load);
  for (int round = 0; round < number("--rounds", 3); ++round) {  // in turns: the machine's mood is shared
    alone.push_back(RunEngine(**engine, load));
    http.push_back(RunHttp(server.port(), load));
  }
  std::sort(alone.begin(), alone.end());
  std::sort(http.begin(), http.end());
  const double a = alone[alone.size() / 2], h = http[http.size() / 2];
  const server::LatencySummary written = server.TokenWriteLatency();
  fmt::print("{} streams {} engine {:.0f} tok/s, with HTTP {:.0f} tok/s, {:.1f} %; token to bytes written: "
             "median {:.0f} us, p99 {:.0f} us\n",
             options.model, load.streams, a, h, 100 * h / a, written.p50_us, written.p99_us);
  return 0;
}

}  // namespace
}  // namespace minimo

int main(int argc, char** argv) { return minimo::Main(argc, argv); }
