// The engine with a real model and tokenizer: golden texts, stop strings, choices, log-probabilities, options.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "convert/convert.h"
#include "minimo/engine.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"
#include "tests/support/scratch_dir.h"
#include "tests/support/shared.h"

namespace minimo {
namespace {

EngineOptions Nano(const std::string& name) {
  EngineOptions options;
  options.model = (testing::RepoDir() / "models" / name).string();
  options.threads = 1;
  options.max_model_len = 1024;
  return options;
}

std::unique_ptr<Engine> MustCreate(const EngineOptions& options) {
  auto engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  return engine.ok() ? std::move(*engine) : nullptr;
}

Request Greedy(const Engine& engine, const std::string& text, int max_tokens) {
  Request request;
  request.prompt_ids = *engine.tokenizer().Encode(text);
  request.params.temperature = 0;
  request.params.max_tokens = max_tokens;
  return request;
}

TEST(EngineText, SaysWhatTheReferenceSays) {
  MINIMO_REQUIRE_SHARED();
  for (const char* name : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    std::ifstream file(testing::SharedDir() / "golden" / name / "cases.json");
    const auto cases = nlohmann::json::parse(file);
    auto engine = MustCreate(Nano(name));
    ASSERT_GT(cases.size(), 0u);
    std::vector<std::unique_ptr<Stream>> streams;
    for (const auto& c : cases) {
      Request request;
      request.prompt_ids = c["prompt_ids"].get<std::vector<int32_t>>();
      request.params.temperature = 0;
      request.params.max_tokens = static_cast<int32_t>(c["greedy_ids"].size());
      auto stream = Stream::Submit(*engine, request);
      ASSERT_TRUE(stream.ok()) << stream.error().message;
      streams.push_back(std::move(*stream));
    }
    for (size_t i = 0; i < streams.size(); ++i) {
      std::vector<int32_t> ids;
      while (auto event = streams[i]->Next()) {
        for (const OutputToken& token : event->tokens) ids.push_back(token.token);
      }
      EXPECT_EQ(ids, cases[i]["greedy_ids"].get<std::vector<int32_t>>()) << name << " case " << i;
    }
  }
}

TEST(EngineText, StopStringsCutTheText) {
  auto engine = MustCreate(Nano("nano-minimax-m2"));
  const Request whole = Greedy(*engine, "The ocean is", 40);
  const std::string text = (*Generate(*engine, whole))[0].text;
  ASSERT_GT(text.size(), 20u);
  const std::string stop = text.substr(10, 4);
  const size_t at = text.find(stop);

  Request request = whole;
  request.params.stop = {stop};
  auto cut = Generate(*engine, request);
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ((*cut)[0].text, text.substr(0, at));
  EXPECT_EQ((*cut)[0].finish, FinishReason::kStop);
  EXPECT_EQ((*cut)[0].stop_reason, stop);

  request.params.include_stop_str_in_output = true;
  EXPECT_EQ((*Generate(*engine, request))[0].text, text.substr(0, at + stop.size()));

  request.params.min_tokens = 40;
  EXPECT_EQ((*Generate(*engine, request))[0].finish, FinishReason::kLength) << "no stop before min_tokens";
}

TEST(EngineText, ChoicesAreSeededAndDiffer) {
  auto engine = MustCreate(Nano("nano-mimo-v2-flash"));
  Request request = Greedy(*engine, "Once upon a time", 24);
  request.params.temperature = 1;
  request.params.seed = 11;
  request.params.ignore_eos = true;
  request.params.logprobs = 3;
  request.n = 4;
  const auto first = Generate(*engine, request);
  const auto again = Generate(*engine, request);
  ASSERT_TRUE(first.ok() && again.ok());
  ASSERT_EQ(first->size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ((*first)[i].text, (*again)[i].text);
    ASSERT_EQ((*first)[i].tokens.size(), 24u);
    for (const OutputToken& token : (*first)[i].tokens) {
      EXPECT_LE(token.logprob, 0);
      ASSERT_EQ(token.top.size(), 3u);
      EXPECT_GE(token.top[0].logprob, token.logprob - 1e-4f);
    }
  }
  EXPECT_NE((*first)[0].text, (*first)[1].text);
}

TEST(EngineText, PromptLogprobsAgreeWithTheNextStep) {
  auto engine = MustCreate(Nano("nano-minimax-m2"));
  Request request = Greedy(*engine, "What is 2+3? Answer briefly.", 1);
  request.params.prompt_logprobs = 1;
  const auto whole = Generate(*engine, request);
  ASSERT_TRUE(whole.ok());
  ASSERT_EQ((*whole)[0].prompt_logprobs.size(), request.prompt_ids.size());
  // What the model says after the prompt without its last token is what prompt_logprobs says of that token.
  Request shorter = request;
  shorter.prompt_ids.pop_back();
  shorter.params.prompt_logprobs = -1;
  shorter.params.logprobs = 1;
  const auto next = Generate(*engine, shorter);
  ASSERT_TRUE(next.ok());
  EXPECT_EQ((*whole)[0].prompt_logprobs.back().top[0].token, (*next)[0].tokens[0].token);
  EXPECT_EQ((*whole)[0].prompt_logprobs.back().top[0].logprob, (*next)[0].tokens[0].logprob);
}

TEST(EngineText, LoadsDummyWeightsOfTheSameShapes) {
  EngineOptions options = Nano("nano-mimo-v2-flash");
  options.load_format = "dummy";
  auto engine = MustCreate(options);
  ASSERT_NE(engine, nullptr);
  const auto done = Generate(*engine, Greedy(*engine, "hello", 8));
  ASSERT_TRUE(done.ok()) << done.error().message;
  const auto load = engine->GetExpertLoad();
  EXPECT_GT(load.layers, 0);
  EXPECT_EQ(load.counts.size(), static_cast<size_t>(load.layers) * static_cast<size_t>(load.experts));
  options.model = "minimax-m2";  // 229 GB
  const auto whole = Engine::Create(options);
  ASSERT_FALSE(whole.ok());
  EXPECT_NE(whole.error().message.find("num_layers"), std::string::npos) << whole.error().message;
}

TEST(EngineText, ResidentWeightsSayTheSame) {
  for (const char* model : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    EngineOptions options = Nano(model);
    const auto mapped = MustCreate(options);
    options.load_format = "resident";
    const auto resident = MustCreate(options);
    ASSERT_TRUE(mapped != nullptr && resident != nullptr);
    const auto want = Generate(*mapped, Greedy(*mapped, "Once upon a time", 12));
    const auto got = Generate(*resident, Greedy(*resident, "Once upon a time", 12));
    ASSERT_TRUE(want.ok() && got.ok());
    EXPECT_EQ((*got)[0].text, (*want)[0].text) << model;
  }
}

// Four bits are laid out in tiles where the machine has products for them.
TEST(EngineText, ResidentFourBitWeightsSayTheSame) {
  testing::ScratchDir dir;
  EngineOptions options = Nano("nano-minimax-m2");
  ASSERT_TRUE(Convert({options.model, dir.File("w4"), {TargetFormat::kW4}, 2}, {}).ok());
  options.model = dir.File("w4");
  std::vector<std::string> texts;
  for (const char* format : {"auto", "resident"}) {
    options.load_format = format;
    const auto engine = MustCreate(options);
    ASSERT_NE(engine, nullptr);
    const auto got = Generate(*engine, Greedy(*engine, "Once upon a time", 12));
    ASSERT_TRUE(got.ok());
    texts.push_back((*got)[0].text);
  }
  EXPECT_EQ(texts[0], texts[1]);
}

TEST(EngineText, RefusesOptionsInWords) {
  const auto message = [](auto change) {
    EngineOptions options = Nano("nano-minimax-m2");
    change(options);
    const auto engine = Engine::Create(options);
    return engine.ok() ? std::string("created") : engine.error().message;
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(message([](auto& o) { o.model = "no-such-model"; }), "no-such-model"));
  EXPECT_TRUE(has(message([](auto& o) { o.model = "/nowhere"; }), "/nowhere"));
  EXPECT_TRUE(has(message([](auto& o) { o.backend = "tpu"; }), "tpu"));
  EXPECT_TRUE(has(message([](auto& o) { o.max_num_seqs = 0; }), "max_num_seqs"));
  EXPECT_TRUE(has(message([](auto& o) { o.max_num_batched_tokens = 1; }), "max_num_batched_tokens"));
  EXPECT_TRUE(has(message([](auto& o) { o.block_size = 0; }), "block_size"));
  EXPECT_TRUE(has(message([](auto& o) { o.kv_cache_dtype = "int3"; }), "int3"));
  EXPECT_TRUE(has(message([](auto& o) { o.kv_cache_bytes = 1; }), "give it more memory"));
  EXPECT_TRUE(has(message([](auto& o) { o.max_model_len = 1 << 30; }), "max_model_len"));
  EXPECT_TRUE(has(message([](auto& o) { o.load_format = "gguf"; }), "gguf"));
  EXPECT_TRUE(has(message([](auto& o) {
                    o.load_format = "resident";
                    o.activations = "int8";
                  }),
                  "resident"));
  EXPECT_TRUE(has(message([](auto& o) { o.prefill_activations = "int4"; }), "int4"));
}

}  // namespace
}  // namespace minimo
