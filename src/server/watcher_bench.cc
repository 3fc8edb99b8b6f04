// watcher_bench [--model M] [--load-format dummy] [--streams 8] [--requests 8] [--tokens 32] [--pairs 40]: what a
// watcher of /v1/engine/events costs the engine: the same load with and without one, in turns.
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "server/bench_load.h"

namespace minimo::server {
namespace {

// Reads the stream and throws it away, as a dashboard on another machine would.
class Watcher {
 public:
  explicit Watcher(int port) : fd_(ConnectTo(port)), reader_([this] { Read(); }) {}
  ~Watcher() {
    ::shutdown(fd_, SHUT_RDWR);
    reader_.join();
    ::close(fd_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void Read() {
    static constexpr std::string_view kAsk = "GET /v1/engine/events HTTP/1.1\r\nHost: x\r\n\r\n";
    char buffer[1 << 16];
    ssize_t size = ::send(fd_, kAsk.data(), kAsk.size(), MSG_NOSIGNAL);
    while (size > 0 && (size = ::recv(fd_, buffer, sizeof(buffer), 0)) > 0) bytes_ += size;
  }

  const int fd_;
  std::atomic<int64_t> bytes_{0};
  std::thread reader_;
};

double ServerTimeUs() { return ThreadTimeUs("http-") + ThreadTimeUs("ticker"); }

int Main(int argc, char** argv) {
  const BenchFlags flags(argc, argv);
  const Load load{flags.Number("streams", 8), flags.Number("requests", 8), flags.Number("tokens", 32)};
  auto bench = StartBenchServer(flags);
  if (!bench.ok()) {
    fmt::print(stderr, "{}\n", bench.error().message);
    return 1;
  }
  Engine& engine = *bench->engine;
  RunEngine(engine, load);
  const int pairs = flags.Number("pairs", 40);
  std::vector<double> alone, watched, ratio;
  double seconds = 0, cost_us = 0;
  int64_t bytes = 0;
  const auto run_watched = [&] {
    const int64_t begin = SteadyClock().NowUs();
    const double before_us = ServerTimeUs();
    Watcher watcher(bench->server->port());
    watched.push_back(RunEngine(engine, load));
    bytes += watcher.bytes();
    cost_us += ServerTimeUs() - before_us;
    seconds += static_cast<double>(SteadyClock().NowUs() - begin) * 1e-6;
  };
  for (int pair = 0; pair < pairs; ++pair) {  // A B, B A: a drift of the machine's speed cancels
    if (pair % 2 == 0) alone.push_back(RunEngine(engine, load));
    run_watched();
    if (pair % 2 == 1) alone.push_back(RunEngine(engine, load));
    ratio.push_back(100 * watched.back() / alone.back());
  }
  const auto shape = engine.GetExpertLoad();
  fmt::print(
      "{} layers x {} experts, {} pairs: {:.1f} tok/s alone, {:.1f} watched, median ratio {:.2f} %; the stream is "
      "{:.0f} KB/s and costs the server's threads {:.2f} % of one core\n",
      shape.layers, shape.experts, pairs, Median(alone), Median(watched), Median(ratio),
      static_cast<double>(bytes) / 1000 / seconds, 1e-4 * cost_us / seconds);
  return 0;
}

}  // namespace
}  // namespace minimo::server

int main(int argc, char** argv) { return minimo::server::Main(argc, argv); }
