// server_bench [--model M] [--threads N] [--streams 64] [--requests 256] [--tokens 128] [--rounds 5]: the same requests
// through the engine alone and through HTTP, in turns, in one process, with one thread as all clients.
#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>

#include "server/bench_load.h"

namespace minimo::server {
namespace {

int Main(int argc, char** argv) {
  const BenchFlags flags(argc, argv);
  const Load load{flags.Number("streams", 64), flags.Number("requests", 256), flags.Number("tokens", 128)};
  auto bench = StartBenchServer(flags);
  if (!bench.ok()) {
    fmt::print(stderr, "{}\n", bench.error().message);
    return 1;
  }
  pthread_setname_np(pthread_self(), "client");
  // The clients pay for their reads, but as they would be elsewhere they take no core away in the middle of a step.
  const sched_param batch{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &batch);
  const int rounds = flags.Number("rounds", 5);
  std::vector<double> alone, http, ratio;
  RunEngine(*bench->engine, load);
  const double client_us = ThreadTimeUs("client"), io_us = ThreadTimeUs("http-");
  for (int round = 0; round < rounds; ++round) {  // in turns: the machine's mood is shared
    alone.push_back(RunEngine(*bench->engine, load));
    http.push_back(RunHttp(bench->server->port(), load));
    ratio.push_back(100 * http.back() / alone.back());
  }
  const double tokens = 1.0 * rounds * load.requests * load.tokens;
  const LatencySummary written = bench->server->TokenWriteLatency();
  fmt::print(
      "{} streams {}: engine {:.0f} tok/s, with HTTP {:.0f} tok/s, median of {} ratios {:.1f} % ({:.1f} to {:.1f}); "
      "a token costs the IO threads {:.1f} us, the clients {:.1f} us; token to bytes written: median {:.0f} us, "
      "p99 {:.0f} us\n",
      flags.Text("model", "nano-minimax-m2"), load.streams, Median(alone), Median(http), rounds, Median(ratio),
      *std::min_element(ratio.begin(), ratio.end()), *std::max_element(ratio.begin(), ratio.end()),
      (ThreadTimeUs("http-") - io_us) / tokens, (ThreadTimeUs("client") - client_us) / tokens, written.p50_us,
      written.p99_us);
  return 0;
}

}  // namespace
}  // namespace minimo::server

int main(int argc, char** argv) { return minimo::server::Main(argc, argv); }
