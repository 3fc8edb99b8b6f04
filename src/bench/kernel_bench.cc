#include "bench/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bench/environment.h"
#include "bench/interrupt.h"
#include "bench/kernel_cases.h"
#include "bench/progress.h"
#include "bench/result_file.h"
#include "bench/stats.h"
#include "models/synth.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

constexpr int kLeastRuns = 5;

Result<ModelFacts> Facts(const KernelBenchOptions& o) {
  std::error_code ignored;
  if (!std::filesystem::exists(o.model, ignored) && (o.model == "minimax-m2" || o.model == "mimo-v2-flash")) {
    SynthOptions like;
    like.like = o.model;
    MINIMO_ASSIGN(const std::string text, SynthConfig(like));
    MINIMO_ASSIGN(const ModelConfig config, ParseModelConfig(text, o.model));
    ModelFacts facts{o.model, config.spec, Fp8Bits(o.model == "mimo-v2-flash")};
    if (o.quantization == "w4") facts.bits = W4Bits();
    if (o.quantization == "bf16") facts.bits = UniformBits("bf16", 16);
    if (o.quantization == "f32") facts.bits = UniformBits("f32", 32);
    return facts;
  }
  return ReadModelFacts(o.model, o.quantization);
}

// Room for the largest single piece that a case takes.
int64_t PoolBytes(const ModelFacts& facts, int64_t least) {
  const double head = static_cast<double>(facts.spec.vocab) * facts.spec.hidden * facts.bits.head / 8;
  return std::max<int64_t>(least, static_cast<int64_t>(1.5 * head) / 64 * 64);
}

std::vector<double> TimeUs(const KernelCase& c, double seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> us;
  double spent = 0;
  for (int i = 0; (spent < seconds || i < kLeastRuns) && !InterruptScope::Requested(); ++i) {
    if (c.prepare) c.prepare();
    const auto start = Clock::now();
    c.run();
    const double s = std::chrono::duration<double>(Clock::now() - start).count();
    spent += s;
    if (i > 0) us.push_back(s * 1e6);  // 0: warm-up
  }
  return us;
}

Json LineJson(const KernelCase& c, const std::vector<double>& us, double gbs) {
  const Summary s = Summarize(us);
  Json json = {{"op", c.op}, {"shape", c.shape}, {"tokens", c.tokens}, {"runs", us.size()},
               {"median_us", s.median}, {"min_us", s.min}, {"max_us", s.max}, {"bytes", c.bytes}};
  json["gbs"] = c.bytes / s.median * 1e-3;
  json["tflops"] = c.flop / s.median * 1e-6;
  if (c.prepare && gbs > 0) {  // without fresh memory for each run the caches answer, and there is no floor
    json["floor_us"] = c.bytes / gbs * 1e-3;
    json["share_of_floor"] = c.bytes / gbs * 1e-3 / s.median;
  }
  return json;
}

void PrintLine(const Json& l) {
  fmt::print("{:<22} {:<32} {:>6} {:>11.1f} {:>11.1f} {:>11.1f} {:>8.2f} {:>8.3f}", l["op"].get<std::string>(),
             l["shape"].get<std::string>(), l["tokens"].get<int>(), l["median_us"].get<double>(),
             l["min_us"].get<double>(), l["max_us"].get<double>(), l["gbs"].get<double>(), l["tflops"].get<double>());
  if (l.contains("floor_us")) {
    fmt::print(" {:>10.1f} {:>7.1f} %", l["floor_us"].get<double>(), 100 * l["share_of_floor"].get<double>());
  }
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

Result<bool> RunKernelBench(const KernelBenchOptions& o) {
  for (const int tokens : o.tokens) {
    if (tokens < 1) return Errorf("--tokens {}: expected at least 1", tokens);
  }
  DType kv_dtype = DType::kBf16;
  if (o.kv_cache_dtype == "f32") kv_dtype = DType::kF32;
  if (o.kv_cache_dtype == "fp8") kv_dtype = DType::kF8E4M3;
  MINIMO_ASSIGN(ModelFacts facts, Facts(o));
  const bool tiled = o.activations == "int8";
  if (tiled) facts.bits = TiledBits(facts.bits);
  if (facts.spec.layers.empty()) return Errorf("{}: no layers", o.model);
  Environment environment = CollectEnvironment();
  double gbs = o.memory_bandwidth_gbs;
  if (gbs <= 0) {
    MINIMO_ASSIGN(environment.memory_bandwidth, MeasureMemoryBandwidth({o.threads}));
    gbs = environment.memory_bandwidth->best_gbs;
  }
  ThreadTeam team(o.threads);
  WeightPool pool(PoolBytes(facts, o.pool_bytes), o.seed, team);
  const InterruptScope interrupt;  // until here there is nothing to print

  fmt::print("{}, {}, context {}, cache {}, {} threads\n", facts.name, facts.bits.name, o.context, o.kv_cache_dtype,
             team.size());
  fmt::print("{:<22} {:<32} {:>6} {:>11} {:>11} {:>11} {:>8} {:>8} {:>10} {:>9}\n", "operator", "shape", "tokens",
             "median us", "least", "most", "GB/s", "TFLOPS", "floor us", "reached");
  Json lines = Json::array();
  for (const int tokens : o.tokens) {
    for (const KernelCase& c : MakeKernelCases(facts, tokens, o.context, kv_dtype, tiled, pool, team, o.seed)) {
      if (InterruptScope::Requested()) break;
      if (!o.only.empty() && c.op.find(o.only) == std::string::npos) continue;
      const std::vector<double> us = TimeUs(c, o.seconds);
      if (us.empty()) break;
      lines.push_back(LineJson(c, us, gbs));
      PrintLine(lines.back());
    }
  }
  std::fputs(Describe(environment).c_str(), stdout);
  if (!o.json_file.empty()) {
    const Json json = {{"kind", "kernels"},
                       {"environment", ToJson(environment)},
                       {"model_id", o.model},
                       {"model_shape", ToJson(facts)},
                       {"seed", o.seed},
                       {"bandwidth_gbs", gbs},
                       {"activations", o.activations},
                       {"context", o.context},
                       {"kv_cache_dtype", o.kv_cache_dtype},
                       {"lines", lines}};
    MINIMO_TRY(WriteResult(o.json_file, json));
  }
  return !InterruptScope::Requested();
}

}  // namespace minimo::bench
