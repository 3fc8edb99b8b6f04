#include "engine/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "minimo/engine_observer.h"
#include "minimo/stream.h"
#include "tests/support/fake_executor.h"

namespace minimo {
namespace {

using std::chrono::milliseconds;

constexpr int kVocab = 32;

// The fake model behind a gate, so that a test can hold a step open.
class GatedExecutor final : public Executor {
 public:
  GatedExecutor(const FakeModel& model, const KvLayout& layout) : fake_(model, layout) {}
  const KvLayout& kv_layout() const override { return fake_.kv_layout(); }
  int vocab_size() const override { return fake_.vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override {
    if (++runs_ == closes_at_) closed_ = true;
    while (closed_.load()) std::this_thread::yield();
    return fake_.Run(step, output);
  }
  Status Check() const override { return lost_.load() ? Status(Error{"rank 3 is lost"}) : Status(); }
  bool MayNotReturn() const override { return true; }
  std::atomic<bool> closed_{false};
  std::atomic<bool> lost_{false};
  std::atomic<int> closes_at_{0};  // the run that closes the gate
  FakeExecutor fake_;

 private:
  int runs_ = 0;
};

struct Machine {
  explicit Machine(int max_queue = 0, int num_blocks = 64) {
    KvLayout layout;
    layout.groups = {{0, 1, 1, 8, 8}, {8, 1, 1, 8, 8}};
    layout.block_size = 4;
    layout.ring_tokens = 8;
    layout.num_blocks = num_blocks;
    layout.num_rings = 12;
    auto gated = std::make_unique<GatedExecutor>(FakeModel(8, kVocab), layout);
    executor = gated.get();
    EngineParts parts;
    parts.executor = std::move(gated);
    parts.scheduler.max_num_seqs = 8;
    parts.scheduler.max_num_batched_tokens = 16;
    parts.scheduler.max_model_len = 200;
    parts.max_queue = max_queue;
    engine = std::make_unique<EngineThread>(std::move(parts));
  }
  GatedExecutor* executor;
  std::unique_ptr<EngineThread> engine;
};

Request Greedy(int prompt, int max_tokens, const std::string& id = "") {
  Request request;
  request.id = id;
  for (int i = 0; i < prompt; ++i) request.prompt_ids.push_back((i * i) % kVocab);
  request.params.temperature = 0;
  request.params.max_tokens = max_tokens;
  return request;
}

TEST(EngineThread, ManyClientsGetTheirTokens) {
  Machine m;
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) {
        const Request request = Greedy(1 + (c * 20 + i) % 40, 10);
        const auto done = Generate(*m.engine, request);
        ASSERT_TRUE(done.ok()) << done.error().message;
        FakeModel model(8, kVocab);
        FakeHistory truth(model);
        for (const int32_t token : request.prompt_ids) truth.Append(token);
        bool same = (*done)[0].tokens.size() == 10;
        for (const OutputToken& token : (*done)[0].tokens) {
          same = same && token.token == truth.Greedy();
          truth.Append(token.token);
        }
        right += same;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 160);
  const EngineStats stats = m.engine->Stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.kv_usage, 0.0);
  EXPECT_EQ(stats.generation_tokens, 1600);
}

TEST(EngineThread, IdsAreUniqueAmongLiveRequests) {
  Machine m;
  m.executor->closed_ = true;
  auto first = Stream::Submit(*m.engine, Greedy(4, 5, "mine"));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ((*first)->id(), "mine");
  const auto second = Stream::Submit(*m.engine, Greedy(4, 5, "mine"));
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("\"mine\" is in use"), std::string::npos);
  m.executor->closed_ = false;
  while ((*first)->Next()) {
  }
  EXPECT_TRUE((*first)->ended());
  EXPECT_TRUE(Generate(*m.engine, Greedy(4, 5, "mine")).ok()) << "free again once the last event has been given";
  const auto made = Stream::Submit(*m.engine, Greedy(4, 5));
  const auto other = Stream::Submit(*m.engine, Greedy(4, 5));
  ASSERT_TRUE(made.ok() && other.ok());
  EXPECT_NE((*made)->id(), (*other)->id());
}

TEST(EngineThread, AFullQueueIsSaidAsSuch) {
  Machine m(3);
  m.executor->closed_ = true;
  std::vector<std::unique_ptr<Stream>> streams;
  std::string refusal;
  for (int i = 0; i < 20 && refusal.empty(); ++i) {
    auto stream = Stream::Submit(*m.engine, Greedy(4, 50));
    if (stream.ok()) {
      streams.push_back(std::move(*stream));
    } else {
      refusal = stream.error().message;
    }
  }
  EXPECT_EQ(refusal.rfind(kQueueFull, 0), 0u) << refusal;
  EXPECT_GE(streams.size(), 3u);
  EXPECT_EQ(m.engine->Stats().waiting, 3);
  m.executor->closed_ = false;
  for (auto& stream : streams) {
    while (stream->Next()) {
    }
  }
  EXPECT_TRUE(Generate(*m.engine, Greedy(4, 5)).ok());
}

TEST(EngineThread, CancelsAtTheNextStep) {
  Machine m;
  m.executor->closed_ = true;
  auto running = Stream::Submit(*m.engine, Greedy(4, 190, "running"));
  auto late = Stream::Submit(*m.engine, Greedy(4, 190, "late"));
  ASSERT_TRUE(running.ok() && late.ok());
  (*late)->Cancel();
  (*running)->Cancel();
  (*running)->Cancel();
  m.engine->Cancel("never was");
  m.executor->closed_ = false;
  for (Stream* stream : {running->get(), late->get()}) {
    FinishReason finish = FinishReason::kNone;
    int tokens = 0;
    while (auto event = stream->Next()) {
      finish = event->finish;
      tokens += static_cast<int>(event->tokens.size());
    }
    EXPECT_EQ(finish, FinishReason::kCancelled);
    EXPECT_LE(tokens, 1);
  }
  (*running)->Cancel();  // after the end
  EXPECT_EQ(m.engine->Stats().kv_usage, 0.0);
}

TEST(EngineThread, AFaultAnswersEveryoneAndTurnsHealthRed) {
  Machine m;
  m.executor->closed_ = true;
  m.executor->fake_.FailAt(0);
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 12; ++i) {
    auto stream = Stream::Submit(*m.engine, Greedy(4, 50));
    ASSERT_TRUE(stream.ok());
    streams.push_back(std::move(*stream));
  }
  EXPECT_TRUE(m.engine->Healthy());
  m.executor->closed_ = false;
  for (auto& stream : streams) {
    const auto event = stream->Next();
    ASSERT_TRUE(event.has_value());
    EXPECT_EQ(event->finish, FinishReason::kError);
    EXPECT_NE(event->error.find("broken"), std::string::npos);
    EXPECT_FALSE(stream->Next().has_value());
  }
  EXPECT_FALSE(m.engine->Healthy());
  const auto refused = m.engine->Submit(Greedy(4, 5), [](Event&&) {});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("broken"), std::string::npos);
}

TEST(EngineThread, ALostRankIsNoticedWhileNothingRuns) {
  Machine m;
  auto waiting = Stream::Submit(*m.engine, Greedy(4, 1));
  ASSERT_TRUE(waiting.ok());
  while ((*waiting)->Next()) {
  }
  m.executor->lost_ = true;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (m.engine->Healthy()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::sleep_for(milliseconds(10));
  }
  const auto refused = Generate(*m.engine, Greedy(4, 5));
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("rank 3 is lost"), std::string::npos);
}

TEST(EngineThread, AStepThatNeverReturnsKeepsNobodyWaiting) {
  Machine m;
  m.executor->closes_at_ = 10;
  std::vector<std::unique_ptr<Stream>> streams;
  const auto submit = [&](int prompt) {
    auto stream = Stream::Submit(*m.engine, Greedy(prompt, 190));
    ASSERT_TRUE(stream.ok());
    streams.push_back(std::move(*stream));
  };
  for (int i = 0; i < 10; ++i) submit(4);  // more than a step takes
  ASSERT_TRUE(streams[0]->Next().has_value());
  while (!m.executor->closed_) std::this_thread::yield();
  submit(5);  // stays in the inbox
  m.executor->lost_ = true;
  const auto begin = std::chrono::steady_clock::now();
  for (auto& stream : streams) {
    FinishReason finish = FinishReason::kNone;
    std::string error;
    while (auto event = stream->Next(milliseconds(20'000))) {
      EXPECT_EQ(finish, FinishReason::kNone) << "a second end";
      finish = event->finish;
      error = event->error;
    }
    EXPECT_EQ(finish, FinishReason::kError);
    EXPECT_NE(error.find("rank 3 is lost"), std::string::npos) << error;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_FALSE(m.engine->Healthy());
  EXPECT_FALSE(m.engine->Submit(Greedy(4, 5), [](Event&&) {}).ok());
  EXPECT_EQ(m.engine->Stats().running + m.engine->Stats().waiting, 0);
  m.executor->closed_ = false;  // it comes back after all, and finds that nothing is its own any more
}

TEST(EngineThread, EndsWhatRunsWhenItIsDestroyed) {
  Machine m;
  m.executor->closed_ = true;
  std::mutex mutex;
  std::vector<FinishReason> ends;
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(m.engine->Submit(Greedy(4, 150), [&](Event&& event) {
      std::lock_guard lock(mutex);
      if (event.finish != FinishReason::kNone) ends.push_back(event.finish);
    }).ok());
  }
  std::thread opener([&] {
    std::this_thread::sleep_for(milliseconds(5));
    m.executor->closed_ = false;
  });
  m.engine.reset();
  opener.join();
  EXPECT_EQ(ends, std::vector<FinishReason>(12, FinishReason::kCancelled));
}

TEST(EngineThread, AStreamLetGoCancelsItsRequest) {
  Machine m;
  m.executor->closed_ = true;
  {
    auto stream = Stream::Submit(*m.engine, Greedy(4, 190, "gone"));
    ASSERT_TRUE(stream.ok());
    EXPECT_FALSE((*stream)->Next(milliseconds(1)).has_value());
    EXPECT_FALSE((*stream)->ended());
  }
  m.executor->closed_ = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (m.engine->Stats().running + m.engine->Stats().waiting > 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::yield();
  }
  EXPECT_LT(m.engine->Stats().generation_tokens, 190);
}

class CountingObserver final : public EngineObserver {
 public:
  void OnStep(const StepStats& stats) override {
    ++steps;
    tokens += stats.generated_tokens;
    computed += stats.prefill_tokens + stats.decode_tokens;
    first_tokens += static_cast<int>(stats.time_to_first_token_us.size());
    gaps += static_cast<int>(stats.inter_token_us.size());
  }
  void OnFinished(const FinishedStats& stats) override {
    ++finished;
    ordered = ordered && stats.e2e_us >= stats.inference_us && stats.queue_us >= 0 && stats.decode_us >= 0;
  }
  std::atomic<int> steps{0}, tokens{0}, computed{0}, first_tokens{0}, gaps{0}, finished{0};
  std::atomic<bool> ordered{true};
};

TEST(EngineThread, TheObserverHearsOfEveryStepAndEnd) {
  Machine m;
  auto observer = std::make_shared<CountingObserver>();
  m.engine->SetObserver(observer);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Generate(*m.engine, Greedy(10, 7)).ok());
  m.engine->SetObserver(nullptr);
  ASSERT_TRUE(Generate(*m.engine, Greedy(10, 7)).ok());
  // The last event of the fifth may have been read before the observer was told of it.
  EXPECT_GE(observer->finished, 4);
  EXPECT_LE(observer->finished, 5);
  EXPECT_GE(observer->steps, 4 * 7);
  EXPECT_EQ(observer->tokens, observer->first_tokens + observer->gaps);
  EXPECT_TRUE(observer->ordered);
}

}  // namespace
}  // namespace minimo
