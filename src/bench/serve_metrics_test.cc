// Arrivals, workloads, parsers, statistics and the printed block: everything of `bench serve` that needs no clock.
#include "bench/serve_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/arrivals.h"
#include "bench/dataset.h"
#include "bench/http_response.h"
#include "bench/openai_client.h"
#include "bench/serve_result.h"

namespace minimo::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(StatsTest, PercentilesAreNumPys) {
  const std::vector<double> values = {4, 1, 3, 2};
  const std::vector<double> ps = {0, 25, 50, 99, 100};
  const Summary s = Summarize(values, ps);
  EXPECT_DOUBLE_EQ(s.mean, 2.5);
  EXPECT_DOUBLE_EQ(s.median, 2.5);
  EXPECT_DOUBLE_EQ(s.std, std::sqrt(1.25));
  EXPECT_DOUBLE_EQ(s.percentiles[1].second, 1.75);
  EXPECT_DOUBLE_EQ(s.percentiles[3].second, 3.97);
  EXPECT_DOUBLE_EQ(s.percentiles[4].second, 4);
  EXPECT_EQ(Summarize({}, ps).mean, 0);
}

TEST(ArrivalsTest, GapsFollowTheGammaDistribution) {
  constexpr size_t kCount = 20000;
  for (const double burstiness : {0.5, 1.0, 4.0}) {
    ArrivalOptions options;
    options.request_rate = 10;
    options.burstiness = burstiness;
    options.seed = 7;
    const std::vector<double> times = ArrivalTimes(options, kCount);
    EXPECT_DOUBLE_EQ(times.back(), kCount / 10.0) << "scaled to the asked-for rate";
    std::vector<double> gaps;
    for (size_t i = 1; i < kCount; ++i) gaps.push_back(times[i] - times[i - 1]);
    const Summary s = Summarize(gaps);
    EXPECT_NEAR(s.mean, 0.1, 0.001);
    EXPECT_NEAR(s.std / s.mean, 1 / std::sqrt(burstiness), 0.03) << burstiness;  // of Gamma(k): 1 / sqrt(k)
  }
}

TEST(ArrivalsTest, AllAtOnceMetronomeRampAndRefusals) {
  ArrivalOptions options;
  EXPECT_THAT(ArrivalTimes(options, 3), ElementsAre(0, 0, 0));
  options.request_rate = 4;
  options.burstiness = std::numeric_limits<double>::infinity();
  EXPECT_THAT(ArrivalTimes(options, 3), ElementsAre(0.25, 0.5, 0.75));
  options.request_rate = std::numeric_limits<double>::infinity();
  options.ramp_up = RampUp::kExponential;
  options.ramp_up_start_rps = 1;
  options.ramp_up_end_rps = 4;
  EXPECT_THAT(ArrivalTimes(options, 3), ElementsAre(1, 1.5, 1.75));
  EXPECT_TRUE(Validate(options).ok());
  options.ramp_up_end_rps = 0.5;
  EXPECT_FALSE(Validate(options).ok());
  options = {};
  options.burstiness = 0;
  EXPECT_FALSE(Validate(options).ok());
}

TEST(DatasetTest, RandomLengthsCoverTheRangeAndTheSeedDecides) {
  DatasetOptions options;
  options.num_prompts = 2000;
  options.random_input_len = 900;
  options.random_output_len = 90;
  options.random_range_ratio = 0.03;
  options.random_prefix_len = 5;
  options.id_prefix = "b-";
  const auto requests = MakeDataset(options, nullptr);
  ASSERT_TRUE(requests.ok()) << requests.error().message;
  int low = 1 << 30, high = 0, out_low = 1 << 30, out_high = 0;
  for (const SampleRequest& r : *requests) {
    ASSERT_EQ(r.prompt_len, static_cast<int>(r.prompt_ids.size()));
    low = std::min(low, r.prompt_len);
    high = std::max(high, r.prompt_len);
    out_low = std::min(out_low, r.output_len);
    out_high = std::max(out_high, r.output_len);
    EXPECT_TRUE(std::equal(r.prompt_ids.begin(), r.prompt_ids.begin() + 5, requests->front().prompt_ids.begin()));
  }
  EXPECT_EQ(low, 5 + 873);  // floor(900 * 0.97)
  EXPECT_EQ(high, 5 + 927);
  EXPECT_EQ(out_low, 87);   // floor(87.3), ceil(92.7)
  EXPECT_EQ(out_high, 93);
  EXPECT_EQ(requests->at(7).id, "b-7");
  EXPECT_EQ(MakeDataset(options, nullptr)->at(3).prompt_ids, requests->at(3).prompt_ids);
  options.seed = 1;
  EXPECT_NE(MakeDataset(options, nullptr)->at(3).prompt_ids, requests->at(3).prompt_ids);
  options.random_range_ratio = 1;
  EXPECT_FALSE(MakeDataset(options, nullptr).ok());
}

// A tokenizer in which a letter is a token, and two equal letters in a row are one.
PromptCodec LetterCodec() {
  PromptCodec codec;
  codec.encode = [](std::string_view text) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size(); ++i) {
      ids.push_back(text[i]);
      if (i + 1 < text.size() && text[i] == text[i + 1]) ++i;
    }
    return ids;
  };
  codec.decode = [](std::span<const int32_t> ids) {
    std::string text;
    for (const int32_t id : ids) text += static_cast<char>(id);
    return text;
  };
  codec.ordinary_ids.resize(26);
  std::iota(codec.ordinary_ids.begin(), codec.ordinary_ids.end(), 'a');
  codec.render_chat = [](const std::string& text) -> Result<std::string> { return "<" + text + ">"; };
  return codec;
}

TEST(DatasetTest, WithATokenizerPromptsAreTextsOfTheRightLength) {
  const PromptCodec codec = LetterCodec();
  DatasetOptions options;
  options.num_prompts = 50;
  options.random_input_len = 60;
  const auto requests = MakeDataset(options, &codec);
  ASSERT_TRUE(requests.ok());
  for (const SampleRequest& r : *requests) {
    EXPECT_EQ(codec.encode(r.prompt).size(), 60u);
    EXPECT_EQ(r.prompt_len, 60);
    EXPECT_TRUE(r.prompt_ids.empty());
  }
}

std::string WriteTemp(const std::string& name, const std::string& text) {
  const std::string path = (std::filesystem::temp_directory_path() / (name + std::to_string(getpid()))).string();
  std::ofstream(path) << text;
  return path;
}

TEST(DatasetTest, ShareGptAndCustomFiles) {
  const PromptCodec codec = LetterCodec();
  DatasetOptions options;
  options.name = "sharegpt";
  options.num_prompts = 3;
  options.disable_shuffle = true;
  options.path = WriteTemp("sharegpt", R"([{"conversations":[{"from":"human","value":"abcdef"},{"value":"abcdefg"}]},
      {"conversations":[{"value":"ab"},{"value":"too short a prompt"}]}, {"conversations":[{"value":"alone"}]},
      {"conversations":[{"value":"second"},{"value":"answer"}]}])");
  auto requests = MakeDataset(options, &codec);
  ASSERT_TRUE(requests.ok()) << requests.error().message;
  ASSERT_EQ(requests->size(), 3u) << "two usable, one of them twice";
  EXPECT_EQ(requests->at(0).prompt, "abcdef");
  EXPECT_EQ(requests->at(0).output_len, 7);
  EXPECT_EQ(requests->at(1).prompt, "second");
  EXPECT_EQ(requests->at(2).id, "2");
  std::filesystem::remove(options.path);

  options.name = "custom";
  options.path = WriteTemp("custom", "{\"prompt\": \"hey\", \"output_tokens\": 5}\n\n{\"prompt\": \"you\"}\n");
  requests = MakeDataset(options, &codec);
  ASSERT_TRUE(requests.ok()) << requests.error().message;
  EXPECT_EQ(requests->at(0).prompt, "<hey>");
  EXPECT_EQ(requests->at(0).output_len, 5);
  EXPECT_EQ(requests->at(1).output_len, 256);
  std::filesystem::remove(options.path);
  options.path = WriteTemp("custom", "{\"prompt\": \"hey\"}\nnonsense\n");
  EXPECT_THAT(MakeDataset(options, &codec).error().message, HasSubstr("line 2"));
  std::filesystem::remove(options.path);
}

TEST(HttpResponseTest, AnyCutOfTheBytesGivesTheSameBody) {
  const std::string wire =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "6;x=y\r\ndata: \r\n7\r\na\n\ndata\r\n1\r\n:\r\n4\r\n b\r\n\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n";
  for (size_t cut = 1; cut < wire.size(); ++cut) {
    HttpResponseParser parser;
    SseParser sse;
    std::vector<std::string> events;
    for (size_t at = 0; at < wire.size(); at += cut) {
      std::string body;
      ASSERT_TRUE(parser.Feed(std::string_view(wire).substr(at, cut), &body).ok());
      for (auto& event : sse.Feed(body)) events.push_back(event);
    }
    ASSERT_TRUE(parser.done());
    EXPECT_TRUE(parser.keep_alive());
    EXPECT_THAT(events, ElementsAre("a", "b")) << cut;
  }
}

TEST(HttpResponseTest, BrokenFramingIsAnError) {
  std::string body;
  HttpResponseParser early;
  ASSERT_TRUE(early.Feed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", &body).ok());
  EXPECT_FALSE(early.FeedEof().ok());
  HttpResponseParser until_close;
  ASSERT_TRUE(until_close.Feed("HTTP/1.0 200 OK\r\n\r\nabc", &body).ok());
  EXPECT_TRUE(until_close.FeedEof().ok());
  EXPECT_TRUE(until_close.ends_with_connection());
  for (const char* bad : {"SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                          "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
                          "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"}) {
    EXPECT_FALSE(HttpResponseParser().Feed(bad, &body).ok()) << bad;
  }
}

TEST(OpenAiClientTest, BodiesAndExtraFields) {
  GenerationOptions options;
  options.model = "m";
  options.ignore_eos = true;
  options.extra_body = R"({"temperature": 0, "max_tokens": 7})";
  SampleRequest request;
  request.prompt_ids = {1, 2};
  request.output_len = 3;
  const auto body = nlohmann::json::parse(*RequestBody(options, request));
  EXPECT_EQ(body["prompt"], nlohmann::json({1, 2}));
  EXPECT_EQ(body["max_tokens"], 7);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["stream_options"]["include_usage"], true);
  options.extra_body = "[1]";
  EXPECT_FALSE(RequestBody(options, request).ok());
}

TEST(OpenAiClientTest, ARoleIsNoToken) {
  Outcome outcome;
  AnswerReader reader(Api::kChat, &outcome);
  ASSERT_TRUE(reader.OnEvent(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})", 1).ok());
  ASSERT_TRUE(reader.OnEvent(R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})", 2).ok());
  ASSERT_TRUE(reader.OnEvent(R"({"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]})", 5).ok());
  ASSERT_TRUE(reader.OnEnd(false).ok());
  EXPECT_EQ(outcome.ttft, 2);
  EXPECT_EQ(outcome.latency, 5);
  EXPECT_THAT(outcome.itl, ElementsAre(3));
  EXPECT_EQ(outcome.text, "hmx");
}

Outcome Made(double start, double ttft, std::vector<double> itl, int prompt, int tokens) {
  Outcome o;
  o.started = o.success = true;
  o.start_time = start;
  o.ttft = ttft;
  o.latency = ttft + std::accumulate(itl.begin(), itl.end(), 0.0);
  o.itl = std::move(itl);
  o.prompt_len = prompt;
  o.output_tokens = tokens;
  return o;
}

std::vector<Outcome> ThreeAnswersAndAFault() {
  std::vector<Outcome> outcomes = {Made(10, 0.1, {0.1, 0.2}, 7, 3), Made(10, 0.3, {1.1}, 8, 2),
                                   Made(11.4, 0.2, {}, 9, 1)};
  Outcome fault;
  fault.started = true;
  fault.error = "boom";
  outcomes.push_back(fault);
  return outcomes;
}

TEST(ServeMetricsTest, DefinitionsAreVllms) {
  const ServeMetrics m = ComputeServeMetrics(ThreeAnswersAndAFault(), 2.0, {99}, {{"tpot", 500}, {"ttft", 250}});
  EXPECT_EQ(m.completed, 3);
  EXPECT_EQ(m.failed, 1);
  EXPECT_EQ(m.total_input, 24);
  EXPECT_EQ(m.total_output, 6);
  EXPECT_DOUBLE_EQ(m.request_goodput, 1.0);  // the second is slow; the third has one token, so its tpot is 0
  EXPECT_DOUBLE_EQ(m.total_token_throughput, 15);
  EXPECT_NEAR(m.tpot_ms.mean, (150 + 1100) / 2.0, 1e-9);
  EXPECT_NEAR(m.itl_ms.mean, 1400 / 3.0, 1e-9);
  EXPECT_DOUBLE_EQ(m.max_output_tokens_per_s, 4);
  EXPECT_EQ(m.max_concurrent_requests, 2) << "the second ends as the third begins";
  EXPECT_THAT(m.output_lens, ElementsAre(3, 2, 1, 0));
}

TEST(ServeResultTest, TheBlockIsVllms) {
  ServeResultOptions options;
  options.request_rate = 2;
  options.max_concurrency = 4;
  options.has_goodput = true;
  options.percentile_metrics = {"ttft", "e2el"};
  const ServeMetrics m = ComputeServeMetrics(ThreeAnswersAndAFault(), 2.0, {50, 99.9}, {{"ttft", 250}});
  EXPECT_EQ(FormatServeResult(m, 2.0, options, std::nullopt),
            "============ Serving Benchmark Result ============\n"
            "Successful requests:                     3         \n"
            "Failed requests:                         1         \n"
            "Maximum request concurrency:             4         \n"
            "Request rate configured (RPS):           2.00      \n"
            "Benchmark duration (s):                  2.00      \n"
            "Total input tokens:                      24        \n"
            "Total generated tokens:                  6         \n"
            "Request throughput (req/s):              1.50      \n"
            "Request goodput (req/s):                 1.00      \n"
            "Output token throughput (tok/s):         3.00      \n"
            "Peak output token throughput (tok/s):    4.00      \n"
            "Peak concurrent requests:                2.00      \n"
            "Total token throughput (tok/s):          15.00     \n"
            "---------------Time to First Token----------------\n"
            "Mean TTFT (ms):                          200.00    \n"
            "Median TTFT (ms):                        200.00    \n"
            "P50 TTFT (ms):                           200.00    \n"
            "P99.9 TTFT (ms):                         299.80    \n"
            "----------------End-to-end Latency----------------\n"
            "Mean E2EL (ms):                          666.67    \n"
            "Median E2EL (ms):                        400.00    \n"
            "P50 E2EL (ms):                           400.00    \n"
            "P99.9 E2EL (ms):                         1398.00   \n"
            "==================================================\n");
}

TEST(ServeResultTest, JsonKeysAreVllms) {
  LoadResult load;
  load.outcomes = ThreeAnswersAndAFault();
  load.duration_s = 2;
  ServeResultOptions options;
  options.request_rate = std::numeric_limits<double>::infinity();
  const ServeMetrics m = ComputeServeMetrics(load.outcomes, 2.0, {99}, {});
  const auto json = ServeResultJson(m, load, options, std::nullopt, true);
  for (const char* key :
       {"duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
        "request_goodput", "output_throughput", "total_token_throughput", "input_lens", "output_lens", "ttfts", "itls",
        "latencies", "start_times", "queue_times", "generated_texts", "errors", "max_output_tokens_per_s",
        "max_concurrent_requests", "mean_ttft_ms", "median_tpot_ms", "std_itl_ms", "p99_tpot_ms", "burstiness"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_TRUE(json["max_concurrency"].is_null());
  EXPECT_EQ(json["errors"][3], "boom");
  EXPECT_FALSE(ServeResultJson(m, load, options, std::nullopt, false).contains("itls"));
}

TEST(ServeResultTest, SpeculativeDecodingFromTheServersMetrics) {
  const auto stats = ParseSpecDecodeMetrics(
      "# HELP x\nvllm:spec_decode_num_drafts_total{engine=\"0\"} 10\nvllm:spec_decode_num_draft_tokens_total{} 30.0\n"
      "vllm:spec_decode_num_accepted_tokens_total 18\n"
      "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=\"1\"} 5\n"
      "vllm:spec_decode_num_drafts_created{} 1e9\n");
  ASSERT_TRUE(stats);
  EXPECT_DOUBLE_EQ(stats->AcceptanceLength(), 2.8);
  EXPECT_DOUBLE_EQ(stats->AcceptanceRate(), 60);
  EXPECT_THAT(stats->accepted_at, ElementsAre(0, 5));
  EXPECT_DOUBLE_EQ(Difference(*stats, *stats).drafts, 0);
  EXPECT_FALSE(ParseSpecDecodeMetrics("vllm:num_requests_running 1\n"));
}

TEST(GoodputTest, Parses) {
  EXPECT_EQ(ParseGoodput({"ttft:200", "e2el:1e3"})->at("e2el"), 1000);
  for (const char* bad : {"ttft", "ttft:", "itl:3", "ttft:-1", "ttft:3x"})
    EXPECT_FALSE(ParseGoodput({bad}).ok()) << bad;
}

}  // namespace
}  // namespace minimo::bench
