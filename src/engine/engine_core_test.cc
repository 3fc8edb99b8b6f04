#include "engine/engine_core.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "engine/admission.h"
#include "tests/support/ahead_executor.h"
#include "tests/support/fake_executor.h"

namespace minimo {
namespace {

constexpr int kVocab = 32;

KvLayout Layout(int num_blocks, int num_rings) {
  KvLayout layout;
  layout.groups = {{0, 1, 1, 8, 8}, {8, 1, 1, 8, 8}};
  layout.block_size = 4;
  layout.ring_tokens = 8;
  layout.num_blocks = num_blocks;
  layout.num_rings = num_rings;
  return layout;
}

// A core on the fake model, without tokenizer, and everything that it has said.
class Bench {
 public:
  // ahead: behind an executor that offers candidates and begins steps early.
  explicit Bench(int num_blocks = 64, std::vector<int32_t> eos_ids = {}, bool ahead = false, int max_num_seqs = 8)
      : model_(8, kVocab),
        executor_(model_, Layout(num_blocks, max_num_seqs + 4)),
        ahead_(&executor_),
        core_({ahead ? static_cast<Executor*>(&ahead_) : &executor_, nullptr, &clock_, nullptr, &mail_},
              Scheduling(ahead, max_num_seqs), Caching()) {
    limits_.vocab_size = kVocab;
    limits_.max_model_len = 200;
    limits_.kv_capacity_tokens = int64_t{num_blocks} * 4;
    limits_.eos_ids = std::move(eos_ids);
  }

  static SchedulerOptions Scheduling(bool ahead, int max_num_seqs) {
    SchedulerOptions options;
    options.lookahead = ahead ? 1 : 0;
    options.max_num_seqs = max_num_seqs;
    options.max_num_batched_tokens = 2 * max_num_seqs;
    options.max_model_len = 200;
    return options;
  }

  static KvCacheOptions Caching() {
    KvCacheOptions options;
    options.snapshot_min_tokens = 4;
    options.snapshot_stride = 16;
    return options;
  }

  Status Add(const std::string& id, Request request) {
    request.id = id;
    MINIMO_ASSIGN(auto live, Admit(std::move(request), nullptr, limits_));
    live->arrival_us = clock_.NowUs();
    core_.Add(std::move(live));
    return {};
  }

  Status Step() {
    clock_.AdvanceUs(1000);
    MINIMO_TRY(core_.Step());
    groups_.clear();
    do {
      MINIMO_TRY(core_.Answer(&outbox_));
      groups_.push_back(outbox_.deliveries.size());
      Collect();
    } while (!core_.Answered());
    return {};
  }
  void RunAll() {
    for (int i = 0; core_.HasWork(); ++i) {
      ASSERT_LT(i, 5000);
      const Status status = Step();
      ASSERT_TRUE(status.ok()) << status.error().message;
      ASSERT_EQ(core_.Verify(), "");
    }
  }
  void Cancel(const std::string& id) {
    core_.Cancel(id, &outbox_);
    Collect();
  }
  void Collect() {
    for (Delivery& d : outbox_.deliveries) {
      Choice& choice = said_[d.request->request.id][d.event.choice];
      EXPECT_EQ(choice.last.finish, FinishReason::kNone) << "an event after the end";
      for (const OutputToken& token : d.event.tokens) choice.tokens.push_back(token.token);
      if (!d.event.prompt_logprobs.empty()) choice.prompt_logprobs = d.event.prompt_logprobs;
      choice.last = std::move(d.event);
    }
    for (const FinishedStats& stats : outbox_.finished) finished_.push_back(stats);
    outbox_.Clear();
  }

  struct Choice {
    std::vector<int32_t> tokens;
    std::vector<OutputToken> prompt_logprobs;
    Event last;
  };
  FakeModel model_;
  FakeExecutor executor_;
  AheadExecutor ahead_;
  std::atomic<bool> mail_{false};
  FakeClock clock_;
  EngineCore core_;
  AdmissionLimits limits_;
  Outbox outbox_;
  std::vector<size_t> groups_;  // deliveries of each Answer of the last step
  std::map<std::string, std::map<int, Choice>> said_;
  std::vector<FinishedStats> finished_;
};

Request Greedy(int prompt, int max_tokens, int first = 0) {
  Request request;
  for (int i = 0; i < prompt; ++i) request.prompt_ids.push_back((first + i * i) % kVocab);
  request.params.temperature = 0;
  request.params.max_tokens = max_tokens;
  return request;
}

// What the model alone says.
std::vector<int32_t> Truth(const FakeModel& model, const Request& request, int count) {
  FakeHistory history(model);
  for (const int32_t token : request.prompt_ids) history.Append(token);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(history.Greedy());
    history.Append(tokens.back());
  }
  return tokens;
}

// Requests of every kind that candidates decide, sometimes decide or never decide.
std::vector<Request> AllKinds() {
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    Request r = Greedy(5 + 5 * (i % 5), 6 + i, i / 2);
    if (i % 3 != 0) r.params.temperature = 0.5 + 0.1 * (i % 4);
    if (i % 4 == 1) r.params.top_k = 1 + i % 3;
    if (i % 4 == 2) r.params.top_p = 0.3;
    if (i % 6 == 4) r.params.min_p = 0.4;
    if (i % 7 == 3) r.params.logprobs = 2;
    if (i % 8 == 5) r.params.repetition_penalty = 1.3;
    if (i % 11 == 6) r.n = 3;
    if (i == 20) r.params.prompt_logprobs = 1;
    r.params.seed = static_cast<uint64_t>(i);
    requests.push_back(std::move(r));
  }
  return requests;
}

// Adds requests in bursts of `burst`, so that batches of few and of many rows come about.
void RunInBursts(Bench* bench, const std::vector<Request>& requests, int burst) {
  for (size_t i = 0; i < requests.size();) {
    for (int k = 0; k < burst && i < requests.size(); ++k, ++i) {
      ASSERT_TRUE(bench->Add(std::to_string(i), requests[i]).ok());
    }
    for (int step = 0; step < 9 && bench->core_.HasWork(); ++step) {
      const Status status = bench->Step();
      ASSERT_TRUE(status.ok()) << status.error().message;
      ASSERT_EQ(bench->core_.Verify(), "");
    }
  }
  bench->RunAll();
}

TEST(EngineCore, CandidatesAndStepsBegunEarlyChangeNoToken) {
  int hits = 0, misses = 0, reads = 0;
  for (const int blocks : {40, 120}) {
    for (const int burst : {1, 3, 8}) {
      Bench plain(blocks, {7}), ahead(blocks, {7}, true);
      RunInBursts(&plain, AllKinds(), burst);
      RunInBursts(&ahead, AllKinds(), burst);
      for (auto& [id, choices] : plain.said_) {
        for (auto& [index, choice] : choices) {
          const auto& other = ahead.said_[id][index];
          EXPECT_EQ(other.tokens, choice.tokens) << id << " " << index << " blocks " << blocks << " burst " << burst;
          EXPECT_EQ(other.last.finish, choice.last.finish);
          EXPECT_EQ(other.prompt_logprobs.size(), choice.prompt_logprobs.size());
        }
      }
      hits += ahead.ahead_.hits_;
      misses += ahead.ahead_.misses_;
      reads += ahead.ahead_.reads_;
    }
  }
  EXPECT_GT(hits, 150);
  EXPECT_GT(misses, 10);
  EXPECT_GT(reads, 100);
}

TEST(EngineCore, DecodingAloneEveryStepIsBegunEarlyButAfterMail) {
  for (const double temperature : {0.0, 0.7}) {
    Bench bench(64, {}, true);
    Request request = Greedy(6, 60);
    request.params.temperature = temperature;
    request.params.top_k = 1;
    ASSERT_TRUE(bench.Add("a", request).ok());
    bench.RunAll();
    // 59 steps of decoding; the first has no predecessor that decodes, every fourth may not spoil the rings.
    EXPECT_GE(bench.ahead_.hits_, 40) << temperature;
    EXPECT_LE(bench.ahead_.misses_, 4) << temperature;  // a snapshot of the rings every 16 tokens
    if (temperature == 0) continue;
    bench.ahead_.hits_ = 0;
    bench.mail_ = true;
    ASSERT_TRUE(bench.Add("b", request).ok());
    bench.RunAll();
    EXPECT_EQ(bench.ahead_.hits_, 0);
  }
}

TEST(EngineCore, CandidatesOfFaultyLogitsEndTheirSequenceAlone) {
  Bench bench(64, {}, true);
  const Request a = Greedy(6, 20), b = Greedy(6, 20, 3);
  const auto truth = Truth(bench.model_, a, 20);
  bench.executor_.PoisonToken(truth[4]);
  ASSERT_TRUE(bench.Add("a", a).ok());
  bench.RunAll();
  EXPECT_EQ(bench.said_["a"][0].last.finish, FinishReason::kError);
  EXPECT_NE(bench.said_["a"][0].last.error.find("NaN"), std::string::npos);
  bench.executor_.PoisonToken(-1);
  ASSERT_TRUE(bench.Add("b", b).ok());
  bench.RunAll();
  EXPECT_EQ(bench.said_["b"][0].tokens, Truth(bench.model_, b, 20));
}

// 40 rows are three groups; what belongs to a group is freed before the next is chosen.
TEST(EngineCore, AStepIsAnsweredInGroupsOfRows) {
  Bench bench(400, {}, false, 40);
  std::map<std::string, std::vector<int32_t>> truth;
  for (int i = 0; i < 38; ++i) {
    const std::string id = std::to_string(i);
    const Request request = Greedy(2, 3 + i % 5, i);
    truth[id] = Truth(bench.model_, request, 3 + i % 5);
    ASSERT_TRUE(bench.Add(id, request).ok());
  }
  Request two = Greedy(2, 6, 3);  // its choices are in the last group, and one ends before the other
  two.n = 2;
  two.params.temperature = 1;
  two.params.seed = 5;
  ASSERT_TRUE(bench.Add("two", two).ok());
  std::vector<size_t> most;
  while (bench.core_.HasWork()) {
    ASSERT_TRUE(bench.Step().ok());
    ASSERT_EQ(bench.core_.Verify(), "");
    if (bench.groups_.size() > most.size()) most = bench.groups_;
    EXPECT_EQ(bench.core_.last_step().time_to_first_token_us.size() + bench.core_.last_step().inter_token_us.size(),
              std::accumulate(bench.groups_.begin(), bench.groups_.end(), size_t{0}));
  }
  EXPECT_EQ(most, (std::vector<size_t>{16, 16, 8}));
  for (const auto& [id, tokens] : truth) EXPECT_EQ(bench.said_[id][0].tokens, tokens) << id;
  EXPECT_EQ(bench.said_["two"].size(), 2u);
  EXPECT_EQ(bench.finished_.size(), 40u);  // choices
}

TEST(EngineCore, GreedyTokensAreTheModelsOwnWhateverElseRuns) {
  Bench bench(40);  // 160 tokens: too few for all, so some are preempted
  std::vector<Request> requests;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(Greedy(5 + 7 * (i % 4), 20 + i, i / 2));
    ASSERT_TRUE(bench.Add(std::to_string(i), requests.back()).ok());
  }
  bench.RunAll();
  EXPECT_GT(bench.core_.Stats().preemptions, 0);
  EXPECT_GT(bench.core_.Stats().prefix_hits, 0);
  for (int i = 0; i < 12; ++i) {
    const auto& choice = bench.said_[std::to_string(i)][0];
    EXPECT_EQ(choice.tokens, Truth(bench.model_, requests[i], 20 + i)) << i;
    EXPECT_EQ(choice.last.finish, FinishReason::kLength);
    EXPECT_EQ(choice.last.usage.completion_tokens, 20 + i);
  }
  EXPECT_EQ(bench.core_.Stats().kv_usage, 0.0);
  EXPECT_EQ(bench.core_.Stats().generation_tokens, 12 * 20 + 66);
}

TEST(EngineCore, SeededChoicesDoNotDependOnTheBatch) {
  std::vector<std::vector<int32_t>> alone, together;
  for (const bool batched : {false, true}) {
    Bench bench;
    for (int i = 0; i < 6; ++i) {
      Request request = Greedy(9, 25, i);
      request.params.temperature = 1;
      request.params.seed = static_cast<uint64_t>(i);
      request.n = i % 3 + 1;
      ASSERT_TRUE(bench.Add(std::to_string(i), request).ok());
      if (!batched) bench.RunAll();
    }
    bench.RunAll();
    for (auto& [id, choices] : bench.said_) {
      for (auto& [index, choice] : choices) (batched ? together : alone).push_back(choice.tokens);
    }
  }
  EXPECT_EQ(alone.size(), 12u);
  EXPECT_EQ(alone, together);
  EXPECT_NE(alone[1], alone[2]) << "the choices of one request differ";
}

TEST(EngineCore, ManyChoicesShareOnePromptAndAllEnd) {
  Bench bench;
  Request request = Greedy(10, 12);
  request.n = 20;  // more than may run at once
  ASSERT_TRUE(bench.Add("r", request).ok());
  bench.RunAll();
  ASSERT_EQ(bench.said_["r"].size(), 20u);
  const auto truth = Truth(bench.model_, request, 12);
  for (auto& [index, choice] : bench.said_["r"]) {
    EXPECT_EQ(choice.tokens, truth) << index;
    EXPECT_EQ(choice.last.finish, FinishReason::kLength);
  }
  EXPECT_EQ(bench.core_.Stats().kv_usage, 0.0);
}

TEST(EngineCore, StopsAtEndOfTextAndStopIds) {
  const auto truth = Truth(FakeModel(8, kVocab), Greedy(6, 1), 12);
  const auto first = [&](int32_t id) { return std::find(truth.begin(), truth.end(), id) - truth.begin() + 1; };
  Bench eos(64, {truth[5]});
  ASSERT_TRUE(eos.Add("r", Greedy(6, 12)).ok());
  eos.RunAll();
  EXPECT_EQ(eos.said_["r"][0].last.finish, FinishReason::kStop);
  EXPECT_EQ(eos.said_["r"][0].last.stop_reason, "");
  EXPECT_EQ(static_cast<long>(eos.said_["r"][0].tokens.size()), first(truth[5])) << "the end of text is a token";

  Request on = Greedy(6, 12);
  on.params.ignore_eos = true;
  on.params.stop_token_ids = {truth[7]};
  ASSERT_TRUE(eos.Add("on", on).ok());
  eos.RunAll();
  EXPECT_EQ(eos.said_["on"][0].last.finish, FinishReason::kStop);
  EXPECT_EQ(eos.said_["on"][0].last.stop_reason, std::to_string(truth[7]));
  EXPECT_EQ(static_cast<long>(eos.said_["on"][0].tokens.size()), first(truth[7]));
}

TEST(EngineCore, RefusesWhatCannotRun) {
  Bench bench(10);  // 40 tokens
  const auto message = [&](const Request& request) {
    const Status status = bench.Add("r", request);
    return status.ok() ? std::string("accepted") : status.error().message;
  };
  EXPECT_NE(message(Greedy(0, 5)).find("empty"), std::string::npos);
  EXPECT_NE(message(Greedy(300, 5)).find("context holds 200"), std::string::npos);
  EXPECT_NE(message(Greedy(190, 11)).find("max_tokens to 10"), std::string::npos);
  EXPECT_NE(message(Greedy(30, 11)).find("KV cache holds 40"), std::string::npos);
  EXPECT_NE(message(Greedy(30, 2147483647)).find("max_tokens"), std::string::npos);
  Request odd = Greedy(3, 5);
  odd.prompt_ids[1] = kVocab;
  EXPECT_NE(message(odd).find("vocabulary"), std::string::npos);
  odd.prompt_ids[1] = -1;
  EXPECT_NE(message(odd).find("vocabulary"), std::string::npos);
  odd = Greedy(3, 5);
  odd.n = 0;
  EXPECT_NE(message(odd).find("n is 0"), std::string::npos);
  odd.n = 1;
  odd.params.temperature = std::nan("");
  EXPECT_NE(message(odd).find("temperature"), std::string::npos);
  EXPECT_FALSE(bench.core_.HasWork());

  ASSERT_TRUE(bench.Add("fits exactly", Greedy(30, 10)).ok());
  Request open = Greedy(30, -1);
  ASSERT_TRUE(bench.Add("as far as it goes", open).ok());
  bench.RunAll();
  EXPECT_EQ(bench.said_["fits exactly"][0].tokens.size(), 10u);
  EXPECT_EQ(bench.said_["as far as it goes"][0].tokens.size(), 10u);
}

TEST(EngineCore, CancelsBeforeDuringAndTwice) {
  Bench bench;
  Request three = Greedy(20, 50);
  three.n = 3;
  ASSERT_TRUE(bench.Add("waiting", three).ok());
  bench.Cancel("waiting");
  bench.Cancel("waiting");
  bench.Cancel("never was");
  EXPECT_EQ(bench.said_["waiting"].size(), 3u);
  for (auto& [index, choice] : bench.said_["waiting"]) EXPECT_EQ(choice.last.finish, FinishReason::kCancelled);
  EXPECT_FALSE(bench.core_.HasWork());

  ASSERT_TRUE(bench.Add("prefill", three).ok());
  ASSERT_TRUE(bench.Add("decode", three).ok());
  ASSERT_TRUE(bench.Step().ok());  // 16 of 20 prompt tokens
  bench.Cancel("prefill");
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(bench.Step().ok());
  EXPECT_GT(bench.core_.Stats().kv_usage, 0.0);
  bench.Cancel("decode");
  EXPECT_EQ(bench.core_.Stats().kv_usage, 0.0);
  EXPECT_EQ(bench.core_.Verify(), "");
  EXPECT_GT(bench.said_["decode"][2].tokens.size(), 0u);
  EXPECT_EQ(bench.finished_.size(), 9u);
}

TEST(EngineCore, NanLogitsEndOneSequenceOnly) {
  Bench bench;
  const Request good = Greedy(6, 10);
  const auto truth = Truth(bench.model_, good, 10);
  int32_t poison = 0;
  while (std::find(truth.begin(), truth.end(), poison) != truth.end() || good.prompt_ids.back() == poison) ++poison;
  Request bad = Greedy(6, 10);
  bad.prompt_ids.back() = poison;
  bench.executor_.PoisonToken(poison);
  ASSERT_TRUE(bench.Add("bad", bad).ok());
  ASSERT_TRUE(bench.Add("good", good).ok());
  bench.RunAll();
  EXPECT_EQ(bench.said_["bad"][0].last.finish, FinishReason::kError);
  EXPECT_NE(bench.said_["bad"][0].last.error.find("NaN"), std::string::npos);
  EXPECT_EQ(bench.said_["good"][0].tokens, truth);
}

TEST(EngineCore, AFaultIsReportedAndEverythingAnswered) {
  Bench bench;
  Request two = Greedy(6, 10);
  two.n = 2;
  ASSERT_TRUE(bench.Add("runs", two).ok());
  ASSERT_TRUE(bench.Step().ok());
  // A prompt long enough that the step which fails was to leave a snapshot of its ring.
  Request long_prompt = Greedy(40, 10);
  long_prompt.n = 2;
  ASSERT_TRUE(bench.Add("waits", long_prompt).ok());
  bench.executor_.FailAt(2);
  ASSERT_TRUE(bench.Step().ok());
  const Status status = bench.Step();
  ASSERT_FALSE(status.ok());
  bench.core_.EndAll(FinishReason::kError, status.error().message, &bench.outbox_);
  bench.Collect();
  EXPECT_FALSE(bench.core_.HasWork());
  for (const char* id : {"runs", "waits"}) {
    ASSERT_EQ(bench.said_[id].size(), 2u);
    for (auto& [index, choice] : bench.said_[id]) {
      EXPECT_EQ(choice.last.finish, FinishReason::kError);
      EXPECT_NE(choice.last.error.find("broken"), std::string::npos);
    }
  }
}

TEST(EngineCore, PromptLogprobsCoverThePromptWhateverTheChunks) {
  Bench bench(40);
  Request request = Greedy(37, 4);
  request.params.prompt_logprobs = 2;
  ASSERT_TRUE(bench.Add("warm", Greedy(37, 1)).ok());  // its prefix is cached, which must not cut the list
  bench.RunAll();
  ASSERT_TRUE(bench.Add("r", request).ok());
  bench.RunAll();
  const auto& choice = bench.said_["r"][0];
  ASSERT_EQ(choice.prompt_logprobs.size(), 37u);
  EXPECT_EQ(choice.tokens, Truth(bench.model_, request, 4));
  EXPECT_EQ(choice.last.usage.cached_prompt_tokens, 0);
  FakeHistory history(bench.model_);
  for (int p = 0; p + 1 < 37; ++p) {
    history.Append(request.prompt_ids[p]);
    EXPECT_EQ(choice.prompt_logprobs[p + 1].token, request.prompt_ids[p + 1]);
    ASSERT_EQ(choice.prompt_logprobs[p + 1].top.size(), 2u);
    EXPECT_EQ(choice.prompt_logprobs[p + 1].top[0].token, history.Greedy()) << "the best after position " << p;
  }
}

TEST(EngineCore, TimesAndCountsAddUp) {
  Bench bench;
  ASSERT_TRUE(bench.Add("a", Greedy(20, 5)).ok());
  bench.RunAll();
  ASSERT_TRUE(bench.Add("b", Greedy(20, 5)).ok());
  bench.RunAll();
  ASSERT_EQ(bench.finished_.size(), 2u);
  const FinishedStats& a = bench.finished_[0];
  EXPECT_EQ(a.queue_us, 1000);    // planned in the first step after arrival
  EXPECT_EQ(a.prefill_us, 1000);  // 16 tokens, then 4
  EXPECT_EQ(a.decode_us, 4000);
  EXPECT_EQ(a.e2e_us, 6000);
  EXPECT_EQ(a.usage.prompt_tokens, 20);
  EXPECT_EQ(a.usage.completion_tokens, 5);
  EXPECT_EQ(a.usage.cached_prompt_tokens, 0);
  EXPECT_EQ(bench.core_.Stats().prompt_tokens, 40);
}

}  // namespace
}  // namespace minimo
