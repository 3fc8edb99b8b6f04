#include "bench/load_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sched.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "bench/arrivals.h"
#include "bench/dataset.h"
#include "bench/interrupt.h"
#include "bench/serve_metrics.h"
#include "bench/stub_server.h"

namespace minimo::bench {
namespace {

using ::testing::HasSubstr;

std::vector<SampleRequest> Requests(int count, int output_len) {
  DatasetOptions options;
  options.num_prompts = count;
  options.random_input_len = 20;
  options.random_output_len = output_len;
  auto made = MakeDataset(options, nullptr);
  return made.ok() ? std::move(made).value() : std::vector<SampleRequest>();
}

LoadResult MustRun(const StubServer& server, const LoadOptions& options, const std::vector<SampleRequest>& requests,
                   std::vector<double> arrivals = {}) {
  const auto target = ResolveTarget(server.url());
  EXPECT_TRUE(target.ok());
  arrivals.resize(requests.size());
  auto result = RunLoad(*target, options, requests, arrivals);
  EXPECT_TRUE(result.ok()) << result.error().message;
  return std::move(result).value();
}

LoadOptions Quiet() {
  LoadOptions options;
  options.show_progress = false;
  return options;
}

StubReply Steady(int tokens, double ttft_s, double itl_s) {
  StubReply reply;
  for (int i = 0; i < tokens; ++i) reply.token_times_s.push_back(ttft_s + i * itl_s);
  reply.prompt_tokens = 20;
  return reply;
}

// Ahead of whatever else this machine runs, where that is permitted; threads made from here on inherit it.
void RaisePriority() {
  sched_param parameters{};
  parameters.sched_priority = 1;
  if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) setpriority(PRIO_PROCESS, 0, -20);
}

// How much later than asked this machine wakes a thread, while alive.
class Canary {
 public:
  Canary() : thread_([this] { Watch(); }) {}
  ~Canary() {
    stop_ = true;
    thread_.join();
  }
  double worst_s() const { return worst_; }

 private:
  void Watch() {
    using Clock = std::chrono::steady_clock;
    while (!stop_) {
      const auto deadline = Clock::now() + std::chrono::milliseconds(2);
      std::this_thread::sleep_until(deadline);
      worst_ = std::max(worst_.load(), std::chrono::duration<double>(Clock::now() - deadline).count());
    }
  }
  std::atomic<bool> stop_{false};
  std::atomic<double> worst_{0};
  std::thread thread_;
};

struct Figure {
  const char* name;
  double measured;
  double expected;
};

// Requests 0..7 by four at a time; request k's first token after 0.8 + 0.1 (k mod 4) s, five more 0.2 s apart. Slots
// are freed in the order in which they were taken, so k + 4 follows k and the run takes 2 (0.8 + 0.3 + 1.0) s.
std::vector<Figure> KnownDelays(const LoadResult& run, const ServeMetrics& m) {
  return {{"duration", run.duration_s, 4.2},
          {"request throughput", m.request_throughput, 8 / 4.2},
          {"output throughput", m.output_throughput, 48 / 4.2},
          {"total token throughput", m.total_token_throughput, (8 * 20 + 48) / 4.2},
          {"goodput", m.request_goodput, 4 / 4.2},
          {"mean ttft", m.ttft_ms.mean, 950},
          {"median ttft", m.ttft_ms.median, 950},
          {"p99 ttft", m.ttft_ms.percentiles[1].second, 1100},
          {"mean tpot", m.tpot_ms.mean, 200},
          {"median tpot", m.tpot_ms.median, 200},
          {"p99 tpot", m.tpot_ms.percentiles[1].second, 200},
          {"mean itl", m.itl_ms.mean, 200},
          {"median itl", m.itl_ms.median, 200},
          {"p99 itl", m.itl_ms.percentiles[1].second, 200},
          {"mean e2el", m.e2el_ms.mean, 1950},
          {"median e2el", m.e2el_ms.median, 1950},
          {"p99 e2el", m.e2el_ms.percentiles[1].second, 2100},
          {"p25 e2el", m.e2el_ms.percentiles[0].second, 1875},
          {"mean queue time of the second wave", 2 * m.client_queue_time_ms.mean, 1950}};
}

TEST(LoadGeneratorTest, EveryFigureWithinOnePercentOfKnownDelays) {
  // A shared machine may wake a thread late; such a run says nothing about the client and is done again. Should the
  // machine never be calm, its own measured lateness is granted on top of the one per cent.
  constexpr int kAttempts = 4;
  RaisePriority();
  for (int attempt = 1;; ++attempt) {
    Canary canary;
    const StubServer server([](const StubRequest& r) { return Steady(6, 0.8 + 0.1 * (std::stoi(r.id) % 4), 0.2); });
    LoadOptions options = Quiet();
    options.max_concurrency = 4;
    const LoadResult run = MustRun(server, options, Requests(8, 6));
    const ServeMetrics m = ComputeServeMetrics(run.outcomes, run.duration_s, {25, 99}, {{"ttft", 950}});
    ASSERT_EQ(m.completed, 8);
    EXPECT_EQ(m.total_input, 160);
    EXPECT_EQ(m.total_output, 48);
    EXPECT_EQ(m.max_concurrent_requests, 4);
    EXPECT_EQ(server.connections(), 4) << "connections are reused";
    const std::vector<Figure> figures = KnownDelays(run, m);
    bool right = true;
    for (const Figure& f : figures) right = right && std::abs(f.measured / f.expected - 1) < 0.01;
    if (right) break;
    const double noise_s = std::max(canary.worst_s(), server.worst_lag_s());
    if (attempt < kAttempts && noise_s > 1e-3) continue;
    const double granted = 0.01 + (noise_s > 1e-3 ? 3 * noise_s / 0.2 : 0);  // 0.2 s: the shortest delay measured
    for (const Figure& f : figures) {
      EXPECT_NEAR(f.measured / f.expected, 1, granted) << f.name << ": " << f.measured << " for " << f.expected
                                                       << " (the machine woke threads up to " << noise_s << " s late)";
    }
    break;
  }
}

TEST(LoadGeneratorTest, ArrivalsAreKept) {
  const StubServer server([](const StubRequest&) { return Steady(1, 0, 0); });
  const LoadResult run = MustRun(server, Quiet(), Requests(4, 1), {0.0, 0.2, 0.2, 0.5});
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(run.outcomes[i].success) << run.outcomes[i].error;
  EXPECT_GE(run.outcomes[1].start_time - run.outcomes[0].start_time, 0.199);
  EXPECT_GE(run.outcomes[3].start_time - run.outcomes[0].start_time, 0.499);
  EXPECT_GE(run.duration_s, 0.5);
}

TEST(LoadGeneratorTest, ChatIsMeasuredToo) {
  const StubServer server([](const StubRequest& r) {
    EXPECT_EQ(r.path, "/v1/chat/completions");
    EXPECT_EQ(r.max_tokens, 3);
    return Steady(3, 0.01, 0.01);
  });
  LoadOptions options = Quiet();
  options.generation.api = Api::kChat;
  options.endpoint = "/v1/chat/completions";
  const LoadResult run = MustRun(server, options, Requests(2, 3));
  EXPECT_TRUE(run.outcomes[1].success) << run.outcomes[1].error;
  EXPECT_EQ(run.outcomes[1].text, " x x x");
  EXPECT_EQ(run.outcomes[1].itl.size(), 2u);
}

TEST(LoadGeneratorTest, FaultsAreCountedAndTold) {
  const StubServer server([](const StubRequest& r) {
    StubReply reply = Steady(3, 0.001, 0.001);
    switch (std::stoi(r.id)) {
      case 1: reply.status = 503; reply.error_body = R"({"error":{"message":"overloaded"}})"; break;
      case 2: reply.break_after = 2; break;
      case 3: reply.break_after = 0; break;
      case 4: reply.token_times_s.clear(); break;
      case 5: reply.raw_event = R"({"error":{"message":"out of memory"}})"; break;
      case 6: reply.done = false; break;
      case 7: reply.raw_event = "{not json"; break;
      case 8: reply.usage = false; break;
      default: break;
    }
    return reply;
  });
  LoadOptions options = Quiet();
  options.max_concurrency = 3;
  const LoadResult run = MustRun(server, options, Requests(10, 3));
  const auto error = [&](size_t i) { return run.outcomes[i].error; };
  EXPECT_EQ(error(0), "");
  EXPECT_EQ(error(1), "HTTP 503 Error: overloaded");
  EXPECT_THAT(error(2), HasSubstr("closed the connection in the middle"));
  EXPECT_THAT(error(3), HasSubstr("closed the connection before it answered"));
  EXPECT_THAT(error(4), HasSubstr("without a single token"));
  EXPECT_THAT(error(5), HasSubstr("out of memory"));
  EXPECT_THAT(error(6), HasSubstr("broke after 3 chunks"));
  EXPECT_THAT(error(7), HasSubstr("not a JSON object"));
  EXPECT_EQ(error(8), "");
  EXPECT_EQ(run.outcomes[8].output_tokens, 3) << "without usage, the chunks are counted";
  const ServeMetrics m = ComputeServeMetrics(run.outcomes, run.duration_s, {}, {});
  EXPECT_EQ(m.completed, 3);
  EXPECT_EQ(m.failed, 7);
}

TEST(LoadGeneratorTest, AnUnreachableServerFailsEveryRequest) {
  std::string url;
  { url = StubServer([](const StubRequest&) { return StubReply(); }).url(); }
  const auto target = ResolveTarget(url);
  ASSERT_TRUE(target.ok());
  const auto run = RunLoad(*target, Quiet(), Requests(3, 1), {0, 0, 0});
  ASSERT_TRUE(run.ok());
  for (const Outcome& o : run->outcomes) EXPECT_THAT(o.error, HasSubstr("cannot be reached: Connection refused"));
}

TEST(LoadGeneratorTest, AServerThatNeverAnswersTimesOut) {
  const StubServer server([](const StubRequest&) { return Steady(1, 0.6, 0); });
  LoadOptions options = Quiet();
  options.request_timeout_s = 0.1;
  const LoadResult run = MustRun(server, options, Requests(1, 1));
  EXPECT_THAT(run.outcomes[0].error, HasSubstr("no complete answer within 0.1 s"));
}

TEST(LoadGeneratorTest, CtrlCKeepsWhatThereIs) {
  const InterruptScope scope;
  const StubServer server([](const StubRequest& r) {
    if (r.index == 3) InterruptScope::Request();
    return Steady(2, r.index >= 2 ? 0.5 : 0.01, 0.01);
  });
  LoadOptions options = Quiet();
  options.max_concurrency = 1;
  const LoadResult run = MustRun(server, options, Requests(9, 2));
  EXPECT_TRUE(run.interrupted);
  const ServeMetrics m = ComputeServeMetrics(run.outcomes, run.duration_s, {}, {});
  EXPECT_EQ(m.completed, 3);
  EXPECT_EQ(m.failed, 0);
  EXPECT_EQ(m.interrupted, 6);
}

}  // namespace
}  // namespace minimo::bench
