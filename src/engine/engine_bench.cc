// The engine on the nano models, from Submit to the last event: output tokens a second at several batch sizes, the gain
// of the prefix cache on a shared prompt of 2,000 tokens, and where the time of a step goes.
//   engine_bench [threads]
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <random>

#include "base/log.h"
#include "minimo/engine.h"
#include "minimo/engine_observer.h"
#include "minimo/stream.h"

namespace minimo {
namespace {

constexpr int kOutputTokens = 128;
constexpr int kPromptTokens = 64;
constexpr int kSharedTokens = 2000;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class StepTimes final : public EngineObserver {
 public:
  void OnStep(const StepStats& s) override {
    ++steps;
    schedule_us += s.schedule_us;
    model_us += s.model_us;
    output_us += s.output_us;
  }
  void OnFinished(const FinishedStats&) override {}
  int64_t steps = 0, schedule_us = 0, model_us = 0, output_us = 0;
};

Request MakeRequest(std::mt19937_64* random, int prompt, int output) {
  Request request;
  for (int i = 0; i < prompt; ++i) request.prompt_ids.push_back(static_cast<int32_t>((*random)() % 400 + 300));
  request.params.temperature = 0;
  request.params.ignore_eos = true;
  request.params.max_tokens = output;
  return request;
}

std::unique_ptr<Engine> MakeEngine(const char* model, int threads, bool prefix_caching) {
  EngineOptions options;
  options.model = model;
  options.threads = threads;
  options.enable_prefix_caching = prefix_caching;
  auto engine = Engine::Create(options);
  if (!engine.ok()) {
    fmt::print(stderr, "{}\n", engine.error().message);
    std::exit(1);
  }
  return std::move(*engine);
}

void Throughput(const char* model, int threads) {
  auto engine = MakeEngine(model, threads, false);
  for (const int batch : {1, 8, 64, 256}) {
    std::mt19937_64 random(1);
    auto times = std::make_shared<StepTimes>();
    engine->SetObserver(times);
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::unique_ptr<Stream>> streams;
    for (int i = 0; i < batch; ++i) {
      streams.push_back(std::move(*Stream::Submit(*engine, MakeRequest(&random, kPromptTokens, kOutputTokens))));
    }
    for (auto& stream : streams) {
      while (stream->Next()) {
      }
    }
    const double seconds = SecondsSince(start);
    engine->SetObserver(nullptr);
    const double n = static_cast<double>(std::max<int64_t>(times->steps, 1));
    fmt::print("{:20} batch {:3}: {:8.0f} output tok/s; a step: schedule {:6.1f} us, model {:8.1f} us, "
               "output {:6.1f} us\n", model, batch, batch * kOutputTokens / seconds, times->schedule_us / n,
               times->model_us / n, times->output_us / n);
  }
}

void SharedPrompt(const char* model, int threads) {
  double seconds[2] = {};
  for (const bool cached : {false, true}) {
    auto engine = MakeEngine(model, threads, cached);
    std::mt19937_64 random(1);
    const Request shared = MakeRequest(&random, kSharedTokens, 8);
    for (int round = 0; round < 5; ++round) {  // the first two fill the cache and mark the branch
      Request request = shared;
      for (int i = 0; i < 20; ++i) request.prompt_ids.push_back(static_cast<int32_t>(random() % 400 + 300));
      const auto start = std::chrono::steady_clock::now();
      const auto done = Generate(*engine, request);
      if (!done.ok()) {
        fmt::print(stderr, "{}\n", done.error().message);
        std::exit(1);
      }
      if (round >= 2) seconds[cached] += SecondsSince(start) / 3;
    }
  }
  fmt::print("{:20} 2,000 shared prompt tokens + 20 own, 8 output: {:.1f} ms without, {:.1f} ms with prefix cache: "
             "{:.1f}x\n", model, seconds[0] * 1e3, seconds[1] * 1e3, seconds[0] / seconds[1]);
}

}  // namespace
}  // namespace minimo

int main(int argc, char** argv) {
  minimo::SetLogLevel(minimo::LogLevel::kWarn);
  const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
  for (const char* model : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    minimo::Throughput(model, threads);
    minimo::SharedPrompt(model, threads);
  }
  return 0;
}
