#include "server/bench_load.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>

#include "base/clock.h"
#include "base/thread_team.h"
#include "models/loader.h"

namespace minimo::server {
namespace {

// The last bytes of a stream: its last event and the end of the chunks.
constexpr std::string_view kEnd = "data: [DONE]\n\n\r\n0\r\n\r\n";

// Token ids that differ by request, so that no prefix is shared.
std::vector<int32_t> PromptOf(int index) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 16; ++i) ids.push_back(300 + (index * 7 + i * 13) % 500);
  return ids;
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

}  // namespace

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

double RunHttp(int port, const Load& load) {
  std::vector<Client> clients(static_cast<size_t>(load.streams));
  const int poll = ::epoll_create1(0);
  int next = 0, finished = 0;
  const auto send_next = [&](Client& client) {
    if (next == load.requests) return;
    const std::string request = HttpRequestOf(next++, load);
    (void)!::send(client.fd, request.data(), request.size(), MSG_NOSIGNAL);
  };
  const int64_t begin = SteadyClock().NowUs();
  for (Client& client : clients) {
    client.fd = ConnectTo(port);
    epoll_event interest{.events = EPOLLIN, .data = {.ptr = &client}};
    ::epoll_ctl(poll, EPOLL_CTL_ADD, client.fd, &interest);
    send_next(client);
  }
  char bytes[1 << 16];
  while (finished < load.requests) {
    epoll_event ready[64];
    const int count = ::epoll_wait(poll, ready, 64, -1);
    for (int i = 0; i < count; ++i) {
      Client& client = *static_cast<Client*>(ready[i].data.ptr);
      const ssize_t size = ::recv(client.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
      if (size <= 0) std::abort();
      client.tail.append(bytes, static_cast<size_t>(size));
      if (client.tail.ends_with(kEnd)) {
        ++finished;
        client.tail.clear();
        send_next(client);
      } else if (client.tail.size() > kEnd.size()) {
        client.tail.erase(0, client.tail.size() - kEnd.size());
      }
    }
  }
  const double seconds = static_cast<double>(SteadyClock().NowUs() - begin) * 1e-6;
  for (Client& client : clients) ::close(client.fd);
  ::close(poll);
  return load.requests * load.tokens / seconds;
}

int ConnectTo(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) std::abort();
  return fd;
}

double ThreadTimeUs(std::string_view name) {
  double total = 0;
  DIR* tasks = ::opendir("/proc/self/task");
  if (tasks == nullptr) return 0;
  while (const dirent* entry = ::readdir(tasks)) {
    const std::string folder = fmt::format("/proc/self/task/{}/", entry->d_name);
    std::string comm;
    std::getline(std::ifstream(folder + "comm"), comm);
    if (!comm.starts_with(name)) continue;
    double ran_ns = 0;
    std::ifstream(folder + "schedstat") >> ran_ns;
    total += ran_ns / 1000;
  }
  ::closedir(tasks);
  return total;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

BenchFlags::BenchFlags(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) flags_[argv[i]] = argv[i + 1];
}

int BenchFlags::Number(const std::string& name, int fallback) const {
  const auto it = flags_.find("--" + name);
  return it == flags_.end() ? fallback : std::atoi(it->second.c_str());
}

std::string BenchFlags::Text(const std::string& name, const std::string& fallback) const {
  const auto it = flags_.find("--" + name);
  return it == flags_.end() ? fallback : it->second;
}

Result<BenchServer> StartBenchServer(const BenchFlags& flags) {
  EngineOptions options;
  options.model = flags.Text("model", "nano-minimax-m2");
  options.load_format = flags.Text("load-format", "auto");
  const int io_threads = flags.Number("io-threads", DefaultIoThreads(AvailableCores()));
  options.threads = flags.Number("threads", EngineThreadsBeside(io_threads, AvailableCores()));
  options.enable_prefix_caching = false;
  BenchServer bench;
  MINIMO_ASSIGN(bench.engine, Engine::Create(options));
  MINIMO_ASSIGN(const auto folder, ResolveModelFolder(options.model));
  MINIMO_ASSIGN(bench.chat, TemplateChat::Load(folder, *bench.engine));
  ServerOptions serve;
  serve.served_model_names = {"bench"};
  serve.http.port = 0;
  serve.http.io_threads = io_threads;
  bench.server = std::make_unique<Server>(*bench.engine, *bench.chat, serve);
  MINIMO_TRY(bench.server->Start());
  return bench;
}

}  // namespace minimo::server
