// A whole engine on many thread ranks: concurrent requests under continuous batching say what one rank says alone.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/parallel/many_requests.h"

namespace minimo::testing {
namespace {

class ParallelEngine : public ::testing::TestWithParam<const char*> {};

TEST_P(ParallelEngine, TextsOfManyRequestsAreThoseOfOneRank) {
  auto one = Engine::Create(ManyRequestsOptions(GetParam()));
  ASSERT_TRUE(one.ok()) << one.error().message;
  const std::vector<Request> requests = ManyRequests((*one)->tokenizer());
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
    EngineOptions options = ManyRequestsOptions(GetParam());
    options.tensor_parallel_size = layout.ranks;
    options.data_parallel_size = layout.replicas;
    options.moe_prefill = layout.prefill;
    options.moe_decode = layout.decode;
    options.rank_timeout_ms = 60000;
    auto engine = Engine::Create(options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    EXPECT_EQ(Texts(**engine, requests), expected);
    EXPECT_TRUE((*engine)->Healthy());
  }
}

INSTANTIATE_TEST_SUITE_P(Nano, ParallelEngine, ::testing::Values("nano-minimax-m2", "nano-mimo-v2-flash"),
                         [](const auto& info) { return std::string(info.param).find("mimo") == 5 ? "MiMo" : "M2"; });

TEST(ParallelEngineErrors, WhatCannotWorkIsRefusedInWords) {
  EngineOptions options = ManyRequestsOptions("nano-minimax-m2");
  options.tensor_parallel_size = 5000;
  const auto engine = Engine::Create(options);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.error().message.find("--tensor-parallel-size is 5000"), std::string::npos);
}

}  // namespace
}  // namespace minimo::testing
