// The commands without a server, on the nano models, seconds in all: what they write and that it adds up.
#include "bench/engine_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/engine_run.h"
#include "bench/kernel_bench.h"
#include "bench/load_bench.h"
#include "bench/memory_bandwidth.h"
#include "bench/paired_times.h"
#include "bench/report.h"

namespace minimo::bench {
namespace {

using ::testing::HasSubstr;

struct TempFile {
  std::string path = (std::filesystem::temp_directory_path() / ("minimo-bench-" + std::to_string(getpid()))).string();
  ~TempFile() { std::filesystem::remove(path); }
  std::string Text() const {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  nlohmann::json Read() const { return nlohmann::json::parse(Text(), nullptr, false); }
};

void ExpectProvenance(const nlohmann::json& json) {
  for (const char* key : {"commit", "command", "date", "cpu", "cores"})
    EXPECT_TRUE(json["environment"].contains(key)) << key;
  EXPECT_TRUE(json["model_shape"].contains("number_format"));
  const auto page = MakeReport({{"f", json.dump()}}, "t");
  EXPECT_TRUE(page.ok()) << page.error().message;
}

TEST(EngineBenchTest, LatencyOfBatches) {
  TempFile file;
  LatencyOptions o;
  o.engine.model = "nano-mimo-v2-flash";
  o.batch_sizes = {1, 3};
  o.input_len = 40;
  o.output_len = 6;
  o.iterations = 2;
  o.memory_bandwidth_gbs = 10;
  o.each_iteration = true;
  o.json_file = file.path;
  o.show_progress = false;
  const auto clean = RunLatencyBench(o);
  ASSERT_TRUE(clean.ok()) << clean.error().message;
  EXPECT_TRUE(*clean);
  const auto json = file.Read();
  ASSERT_EQ(json["points"].size(), 2u);
  ExpectProvenance(json);
  for (const auto& p : json["points"]) {
    EXPECT_GT(p["median_ttft_ms"], 0);
    EXPECT_LE(p["min_tpot_ms"], p["median_tpot_ms"]);
    EXPECT_NEAR(p["floor_ms"], p["bytes_per_step"].get<double>() / 10e6, 1e-9);
    ASSERT_EQ(p["reads_gbs"].size(), 2u);
    EXPECT_GT(p["reads_gbs"][0], 0);
    EXPECT_GT(p["share_of_reads"], 0);
    EXPECT_NEAR(p["output_tok_s"], p["batch_size"].get<double>() * 1e3 / p["median_tpot_ms"].get<double>(), 1e-6);
  }
  EXPECT_EQ(json["points"][0]["tpots_ms"].size(), 10u) << "two iterations of five steps";
  EXPECT_NEAR(json["points"][0]["experts_touched_measured"], 4, 0.01);
  o.output_len = 1;
  EXPECT_FALSE(RunLatencyBench(o).ok());
}

TEST(EngineBenchTest, ThroughputHasVllmsKeys) {
  TempFile file;
  ThroughputOptions o;
  o.engine.model = "nano-minimax-m2";
  o.dataset.num_prompts = 5;
  o.iterations = 2;
  o.dataset.random_input_len = 30;
  o.dataset.random_output_len = 4;
  o.memory_bandwidth_gbs = 10;
  o.json_file = file.path;
  o.show_progress = false;
  const auto clean = RunThroughputBench(o);
  ASSERT_TRUE(clean.ok()) << clean.error().message;
  const auto json = file.Read();
  ExpectProvenance(json);
  EXPECT_EQ(json["num_requests"], 5);
  EXPECT_EQ(json["total_num_tokens"], 5 * 34);
  EXPECT_EQ(json["elapsed_times"].size(), 2u);
  EXPECT_NEAR(json["tokens_per_second"].get<double>() * json["elapsed_time"].get<double>(), 170, 1e-6);
}

TEST(EngineBenchTest, StartUpByPhase) {
  TempFile file;
  LoadBenchOptions o;
  o.engine.model = "nano-minimax-m2";
  o.iterations = 2;
  o.json_file = file.path;
  const auto clean = RunLoadBench(o);
  ASSERT_TRUE(clean.ok()) << clean.error().message;
  const auto json = file.Read();
  ExpectProvenance(json);
  EXPECT_EQ(json["phases"].size(), 2u);
  EXPECT_EQ(json["parts"].size(), 3u);
  EXPECT_GT(json["total_s"], 0);
  o.engine.model = "no-such-model";
  EXPECT_THAT(RunLoadBench(o).error().message, HasSubstr("no-such-model"));
}

KernelBenchOptions ShortKernelBench(const char* model, int tokens, const TempFile& file) {
  KernelBenchOptions o;
  o.model = model;
  o.tokens = {tokens};
  o.context = 50;
  o.seconds = 0;
  o.memory_bandwidth_gbs = 10;
  o.pool_bytes = 1 << 24;
  o.json_file = file.path;
  return o;
}

TEST(EngineBenchTest, EveryOperatorHasALine) {
  TempFile file;
  const KernelBenchOptions o = ShortKernelBench("nano-mimo-v2-flash", 2, file);
  const auto clean = RunKernelBench(o);
  ASSERT_TRUE(clean.ok()) << clean.error().message;
  const auto json = file.Read();
  ExpectProvenance(json);
  std::set<std::string> ops;
  for (const auto& line : json["lines"]) {
    ops.insert(line["op"]);
    EXPECT_GT(line["median_us"], 0);
    EXPECT_NEAR(line["gbs"], line["bytes"].get<double>() / line["median_us"].get<double>() * 1e-3, 1e-9);
    const std::string op = line["op"];
    const bool reads_memory = op.starts_with("linear") || op.starts_with("attention") || op.starts_with("dense") ||
                              op.starts_with("experts");
    ASSERT_EQ(line.contains("share_of_reads"), reads_memory) << op;
    if (!reads_memory) continue;
    EXPECT_GT(line["reads_gbs"], 0) << op;
    EXPECT_GT(line["share_of_reads_quarter"], 0) << op;
    EXPECT_LE(line["share_of_reads_quarter"], line["share_of_reads"]) << op;
    EXPECT_LE(line["share_of_reads"], line["share_of_reads_three_quarters"]) << op;
    EXPECT_NEAR(line["share_of_floor"].get<double>() * line["median_us"].get<double>(),
                line["bytes"].get<double>() / 10e3, 1e-6) << op;
    EXPECT_GE(line["share_of_both"], line["share_of_reads"]) << op;
    EXPECT_GE(line["share_of_both"].get<double>(), 0.99 * line["share_of_arithmetic"].get<double>()) << op;
  }
  EXPECT_GT(json["float32_tflops"], 0.001);
  EXPECT_LT(json["float32_tflops"], 1000);
  for (const char* op :
       {"rms_norm", "linear q/k/v, full", "linear q/k/v, sliding", "attention, full", "attention, sliding", "rope q",
        "linear output", "dense gate, up", "dense down", "linear router", "router top-k", "experts gate, up",
        "silu_mul", "experts down", "linear head"}) {
    EXPECT_TRUE(ops.contains(op)) << op;
  }
}

TEST(EngineBenchTest, ProductsOfInt8HaveNoFloorOfFloats) {
  TempFile file;
  KernelBenchOptions o = ShortKernelBench("nano-minimax-m2", 1, file);
  o.activations = "int8";
  ASSERT_TRUE(RunKernelBench(o).ok());
  const auto json = file.Read();
  EXPECT_EQ(json["lines"].size(), 11u);
  for (const auto& line : json["lines"]) {
    const std::string op = line["op"];
    EXPECT_EQ(line.contains("share_of_both"), op.starts_with("attention")) << op;
  }
}

// A machine whose memory slows down while it is measured: each run is compared with the reads beside it.
TEST(PairedTimesTest, EachRunHasTheMeanOfTheReadsAroundIt) {
  std::vector<double> reads = {10, 20, 40, 80};
  size_t next = 0;
  int prepared = 0, runs = 0;
  const PairedTimes times =
      TimeBesideReads({[&] { ++prepared; }, [&] { ++runs; }, [&] { return reads[next++]; }}, 0, 3);
  EXPECT_EQ(times.us.size(), 3u);
  EXPECT_EQ(times.reads_gbs, (std::vector<double>{15, 30, 60}));
  EXPECT_EQ(next, reads.size());
  EXPECT_EQ(runs, 4) << "one does not count";
  EXPECT_EQ(prepared, runs);
  EXPECT_TRUE(TimeBesideReads({nullptr, [] {}, nullptr}, 0, 2).reads_gbs.empty());
}

TEST(PairedTimesTest, Share) {
  const PairedTimes times{{100, 200, 400, 100, 100}, {10, 10, 10, 20, 40}};  // 1 MB: 100, 100, 100, 50, 25 us
  const Summary share = ShareOfReads(times, 1e6, 0);
  EXPECT_EQ(share.count, 5u);
  EXPECT_NEAR(share.median, 0.5, 1e-12);
  EXPECT_NEAR(share.percentiles[0].second, 0.25, 1e-12);
  EXPECT_NEAR(share.percentiles[1].second, 0.5, 1e-12);
  EXPECT_NEAR(share.max, 1, 1e-12);
  EXPECT_NEAR(ShareOfReads(times, 1e6, 80).percentiles[1].second, 0.8, 1e-12) << "arithmetic takes longer";
}

TEST(MemoryBandwidthTest, ReadsFasterThanADiskAndSlowerThanACache) {
  const auto measured = MeasureMemoryBandwidth({1, int64_t{256} << 20, 3});
  ASSERT_TRUE(measured.ok());
  EXPECT_GT(measured->best_gbs, 0.5);
  EXPECT_LT(measured->best_gbs, 1000);
  EXPECT_LE(measured->worst_gbs, measured->median_gbs);
  EXPECT_LE(measured->median_gbs, measured->best_gbs);
  EXPECT_EQ(measured->threads, 1);
  EXPECT_TRUE(measured->streams == 1 || measured->streams == 4);
}

TEST(ExpertsTouchedTest, FollowsTheCounts) {
  Engine::ExpertLoad load;
  load.layers = 2;
  load.experts = 4;
  load.counts = {0, 0, 0, 0, 10, 10, 10, 10};
  EXPECT_NEAR(MeasuredExpertsTouched(load, 1, 1), 1, 1e-12);
  EXPECT_NEAR(MeasuredExpertsTouched(load, 1, 2), 4 * (1 - 0.75 * 0.75), 1e-12);
  load.counts = {0, 0, 0, 0, 40, 0, 0, 0};
  EXPECT_NEAR(MeasuredExpertsTouched(load, 1, 100), 1, 1e-12) << "all tokens to one expert";
}

}  // namespace
}  // namespace minimo::bench
