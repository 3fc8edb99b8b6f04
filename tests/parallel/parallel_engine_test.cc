// A whole engine on many thread ranks: concurrent requests under continuous batching say what one rank says alone.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "minimo/engine.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"
#include "tests/support/repo_dir.h"

namespace minimo {
namespace {

EngineOptions Options(const std::string& model) {
  EngineOptions options;
  options.model = (testing::RepoDir() / "models" / model).string();
  options.max_model_len = 256;
  options.max_num_seqs = 8;
  options.max_num_batched_tokens = 32;  // prompts in chunks beside decoding sequences
  options.kv_blocks = 40;               // too few for all: some are preempted
  options.threads = 1;
  return options;
}

std::vector<Request> Requests(const Tokenizer& tokenizer) {
  const std::string prompts[] = {"What is 17 plus 25?", "Write a haiku about the ocean.", "The capital of France is",
                                 "Once upon a time", "What is 3 times 9? Answer briefly.", "Hello",
                                 "Name three colours and say which you like best.", "Repeat after me: one two three"};
  std::vector<Request> requests;
  for (int i = 0; i < 16; ++i) {
    Request request;
    request.prompt_ids = *tokenizer.Encode(prompts[i % 8] + (i < 8 ? "" : " Please."));
    request.params.temperature = i % 4 < 2 ? 0 : 0.9;
    request.params.seed = static_cast<uint64_t>(i);
    if (i % 4 == 2) request.params.top_k = 40;       // candidates decide
    if (i % 4 == 3) request.params.top_p = 0.95;     // mostly
    if (i == 5) request.params.logprobs = 4;
    if (i == 6) request.params.repetition_penalty = 1.2;  // whole rows
    if (i == 10) request.params.top_p = 1, request.params.top_k = 0;
    if (i == 3 || i == 11) request.n = 3;
    request.params.max_tokens = 12 + i;
    request.params.ignore_eos = i % 2 == 0;
    requests.push_back(std::move(request));
  }
  return requests;
}

std::string Text(Engine& engine, const Request& request) {
  auto stream = Stream::Submit(engine, request);
  if (!stream.ok()) return "refused: " + stream.error().message;
  std::vector<std::string> texts(static_cast<size_t>(request.n));
  while (auto event = (*stream)->Next()) {
    texts[static_cast<size_t>(event->choice)] += event->text;
    if (event->finish == FinishReason::kError) return "failed: " + event->error;
  }
  std::string all;
  for (const std::string& text : texts) all += text + "|";
  return all;
}

class ParallelEngine : public ::testing::TestWithParam<const char*> {};

TEST_P(ParallelEngine, TextsOfManyRequestsAreThoseOfOneRank) {
  auto one = Engine::Create(Options(GetParam()));
  ASSERT_TRUE(one.ok()) << one.error().message;
  const std::vector<Request> requests = Requests((*one)->tokenizer());
  std::vector<std::string> expected;
  for (const Request& request : requests) expected.push_back(Text(**one, request));

  struct Layout {
    int ranks;
    std::string prefill;
    std::string decode;
    int replicas = 1;
  };
  std::vector<Layout> layouts = {{1, "", ""}, {2, "", ""}, {1, "ep", "ep", 2}, {1, "ep", "tp", 3}, {2, "tp", "tp", 4}};
  for (const int ranks : {2, 3, 4, 8, 16, 64}) {
    layouts.insert(layouts.end(), {{ranks, "tp", "tp"}, {ranks, "ep", "ep"}, {ranks, "ep", "tp"}});
    const std::string mixed = std::to_string(ranks / 2) + "x2";
    if (ranks > 2 && ranks % 2 == 0) layouts.push_back({ranks, mixed, mixed});
  }
  for (const Layout& layout : layouts) {
    SCOPED_TRACE(::testing::Message() << layout.ranks << " ranks in each of " << layout.replicas
                                      << " replicas, experts " << layout.prefill << " in prefill, " << layout.decode
                                      << " in decode");
    EngineOptions options = Options(GetParam());
    options.tensor_parallel_size = layout.ranks;
    options.data_parallel_size = layout.replicas;
    options.moe_prefill = layout.prefill;
    options.moe_decode = layout.decode;
    options.rank_timeout_ms = 60000;
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    std::vector<std::string> texts(requests.size());
    std::vector<std::thread> clients;
    for (size_t i = 0; i < requests.size(); ++i) {
      clients.emplace_back([&, i] { texts[i] = Text(**engine, requests[i]); });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(texts, expected);
    EXPECT_TRUE((*engine)->Healthy());
  }
}

INSTANTIATE_TEST_SUITE_P(Nano, ParallelEngine, ::testing::Values("nano-minimax-m2", "nano-mimo-v2-flash"),
                         [](const auto& info) { return std::string(info.param).find("mimo") == 5 ? "MiMo" : "M2"; });

TEST(ParallelEngineErrors, WhatCannotWorkIsRefusedInWords) {
  EngineOptions options = Options("nano-minimax-m2");
  options.tensor_parallel_size = 5000;
  const auto engine = Engine::Create(options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("--tensor-parallel-size is 5000"), std::string::npos);
}

}  // namespace
}  // namespace minimo
