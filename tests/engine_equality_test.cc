// Batched results equal unbatched ones, on the real nano models: random requests that share too small a KV cache with
// random arrivals, cancels, preemptions and prefix hits give the texts that each gives alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <thread>

#include "minimo/engine.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"
#include "tests/support/repo_dir.h"

namespace minimo {
namespace {

std::string ModelFolder(const std::string& name) { return (testing::RepoDir() / "models" / name).string(); }

EngineOptions Options(const std::string& model) {
  EngineOptions options;
  options.model = ModelFolder(model);
  options.max_model_len = 512;
  options.max_num_seqs = 64;
  options.threads = 1;  // a spinning team would slow down whatever else the machine tests at the same time
  return options;
}

// Prompts of real text: some share a long beginning.
std::vector<Request> MakeRequests(const Tokenizer& tokenizer, int count, bool shared_prefixes, uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::string words[] = {"the ocean", "What is 17 plus 25?", "a haiku", "Paris", "neural networks", "42",
                               "call the tool", "weather in Rome", "once upon a time", "answer briefly"};
  const auto text = [&](int length) {
    std::string out;
    for (int i = 0; i < length; ++i) out += words[random() % 10] + (random() % 3 == 0 ? ". " : " ");
    return out;
  };
  std::vector<std::vector<int32_t>> prefixes;
  for (int i = 0; i < 4; ++i) prefixes.push_back(*tokenizer.Encode(text(30)));
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request request;
    request.id = "r" + std::to_string(i);
    if (shared_prefixes) {
      const auto& prefix = prefixes[random() % prefixes.size()];
      request.prompt_ids.assign(prefix.begin(), prefix.end() - static_cast<int>(random() % 40));
    }
    const auto own = *tokenizer.Encode(text(1 + static_cast<int>(random() % 12)));
    request.prompt_ids.insert(request.prompt_ids.end(), own.begin(), own.end());
    request.params.temperature = 0;
    request.params.ignore_eos = random() % 2 == 0;  // real ends, and long outputs
    request.params.max_tokens = 1 + static_cast<int32_t>(random() % 40);
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Said {
  std::string text;
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
  int32_t cached = 0;
};

void Take(Said* said, Event&& event) {
  said->text += event.text;
  for (const OutputToken& token : event.tokens) said->tokens.push_back(token.token);
  said->finish = event.finish;
  said->cached = event.usage.cached_prompt_tokens;
}

std::vector<Said> RunAlone(const std::string& model, const std::vector<Request>& requests) {
  EngineOptions options = Options(model);
  options.enable_prefix_caching = false;
  auto engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  std::vector<Said> all(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    auto stream = Stream::Submit(**engine, requests[i]);
    EXPECT_TRUE(stream.ok()) << stream.error().message;
    while (auto event = (*stream)->Next()) Take(&all[i], std::move(*event));
  }
  return all;
}

struct Load {
  const char* name;
  int requests;
  bool shared_prefixes;
  int budget;      // tokens a step
  int kv_divisor;  // KV for this part of them; short steps let fewer run at once
};

struct Case {
  const char* model;
  Load load;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " " << c.load.name; }

class EngineEquality : public ::testing::TestWithParam<Case> {};

TEST_P(EngineEquality, TextsDoNotDependOnTheBatch) {
  const auto& [model, load] = GetParam();
  EngineOptions options = Options(model);
  options.max_num_batched_tokens = load.budget;
  options.enable_prefix_caching = load.shared_prefixes;
  auto probe = Engine::Create(options);
  ASSERT_TRUE(probe.ok()) << probe.error().message;
  const auto requests = MakeRequests((*probe)->tokenizer(), load.requests, load.shared_prefixes, 7);
  probe->reset();

  // Blocks for a part of what all of them would take, or of what may run at once.
  int64_t blocks = 0, largest = 0;
  for (const Request& r : requests) {
    const int64_t own = (static_cast<int64_t>(r.prompt_ids.size()) + r.params.max_tokens + 15) / 16;
    blocks += own;
    largest = std::max(largest, own);
  }
  blocks = std::min<int64_t>(blocks, blocks * options.max_num_seqs / load.requests);
  options.kv_blocks = static_cast<int>(std::max(blocks / load.kv_divisor, largest));
  auto engine = Engine::Create(options);
  ASSERT_TRUE(engine.ok()) << engine.error().message;

  const auto alone = RunAlone(model, requests);
  std::vector<Said> said(requests.size());
  std::vector<bool> cancelled(requests.size(), false);
  std::mt19937_64 random(3);
  std::vector<std::unique_ptr<Stream>> streams;
  for (size_t i = 0; i < requests.size(); ++i) {
    auto stream = Stream::Submit(**engine, requests[i]);
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    streams.push_back(std::move(*stream));
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    if (random() % 8 == 0) {
      const size_t victim = random() % streams.size();
      cancelled[victim] = true;
      streams[victim]->Cancel();
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    while (auto event = streams[i]->Next()) Take(&said[i], std::move(*event));
  }

  int whole = 0, hits = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    hits += said[i].cached > 0;
    if (said[i].finish == FinishReason::kCancelled) {
      EXPECT_TRUE(cancelled[i]);
      EXPECT_EQ(alone[i].text.compare(0, said[i].text.size(), said[i].text), 0) << "request " << i;
      continue;
    }
    ++whole;
    EXPECT_EQ(said[i].tokens, alone[i].tokens) << "request " << i << ", " << said[i].cached << " tokens cached";
    EXPECT_EQ(said[i].text, alone[i].text) << "request " << i;
    EXPECT_EQ(said[i].finish, alone[i].finish) << "request " << i;
  }
  const EngineStats stats = (*engine)->Stats();
  EXPECT_GE(whole, load.requests / 2);
  // In steps of 16 tokens too few requests run at once to fill the pool every time.
  EXPECT_GE(stats.preemptions, load.budget > 16 ? 1 : 0);
  if (load.shared_prefixes) {
    EXPECT_GT(hits, load.requests / 8);
  }
  EXPECT_EQ(stats.kv_usage, 0.0) << "the pool is whole again";
  EXPECT_EQ(stats.running + stats.waiting, 0);
  std::printf("%s, %s: %d of %d whole, %lld preemptions, %d with prefix hits, %lld of %lld tokens cached\n", model,
              load.name, whole, load.requests, static_cast<long long>(stats.preemptions), hits,
              static_cast<long long>(stats.prefix_hits), static_cast<long long>(stats.prefix_queries));
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const char* model : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    cases.push_back({model, {"64", 64, false, 512, 4}});
    cases.push_back({model, {"256", 256, false, 512, 4}});
    cases.push_back({model, {"256_shared_prefixes", 256, true, 512, 4}});
    cases.push_back({model, {"64_shared_prefixes_chunks_of_16", 64, true, 16, 10}});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Nano, EngineEquality, ::testing::ValuesIn(Cases()), [](const auto& info) {
  std::string name = std::string(info.param.model) + "_" + info.param.load.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace minimo
