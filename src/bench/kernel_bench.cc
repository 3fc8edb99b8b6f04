#include "bench/kernel_bench.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bench/environment.h"
#include "bench/fma_rate.h"
#include "bench/interrupt.h"
#include "bench/kernel_cases.h"
#include "bench/paired_times.h"
#include "bench/progress.h"
#include "bench/result_file.h"
#include "bench/stats.h"
#include "models/synth.h"
#include "ops/linear/cpu_isa.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

constexpr size_t kLeastRuns = 5;

// The calling thread on the first core while the team's workers have the others, as the engine's.
class PinnedThread {
 public:
  explicit PinnedThread(ThreadTeam& team) {
    sched_getaffinity(0, sizeof before_, &before_);
    team.PinCaller();
  }
  ~PinnedThread() { sched_setaffinity(0, sizeof before_, &before_); }
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;

 private:
  cpu_set_t before_;
};

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

// What the machine gives, measured in this run; 0: not known.
struct Machine {
  double gbs = 0;      // the best of some reads, or as told
  int streams = 1;     // places that a thread of the faster reader reads from at once
  double tflops = 0;   // float32
};

// A read beside a run, of as many bytes, but of enough for a time that is not all start and end.
double ReadBeside(const KernelCase& c, int streams, WeightPool& pool, ThreadTeam& team) {
  constexpr double kLeast = 16 << 20, kMost = 256 << 20;
  const int64_t bytes = std::min(static_cast<int64_t>(std::clamp(c.bytes, kLeast, kMost)), pool.size());
  return ReadGbs(team, pool.Next(bytes), bytes, streams);
}

Json LineJson(const KernelCase& c, const PairedTimes& times, const Machine& machine) {
  const Summary s = Summarize(times.us);
  Json json = {{"op", c.op}, {"shape", c.shape}, {"tokens", c.tokens}, {"runs", times.us.size()},
               {"median_us", s.median}, {"min_us", s.min}, {"max_us", s.max}, {"bytes", c.bytes}};
  json["gbs"] = c.bytes / s.median * 1e-3;
  json["tflops"] = c.flop / s.median * 1e-6;
  if (!c.prepare) return json;  // without fresh memory for each run the caches answer, and there is no floor
  if (machine.gbs > 0) {
    json["floor_us"] = c.bytes / machine.gbs * 1e-3;
    json["share_of_floor"] = c.bytes / machine.gbs * 1e-3 / s.median;
  }
  const auto add_share = [&](const std::string& name, double least_us) {
    const Summary share = ShareOfReads(times, c.bytes, least_us);
    json[name] = share.median;
    json[name + "_quarter"] = share.percentiles[0].second;
    json[name + "_three_quarters"] = share.percentiles[1].second;
  };
  json["reads_gbs"] = Summarize(times.reads_gbs).median;
  add_share("share_of_reads", 0);
  if (c.float_products && machine.tflops > 0) {
    json["arithmetic_us"] = c.flop / machine.tflops * 1e-6;
    json["share_of_arithmetic"] = c.flop / machine.tflops * 1e-6 / s.median;
    add_share("share_of_both", c.flop / machine.tflops * 1e-6);
  }
  return json;
}

void PrintHead() {
  fmt::print("{:<22} {:<38} {:>6} {:>10} {:>10} {:>10} {:>7} {:>7} {:>9} {:>8} {:>7} {:>24} {:>8}\n", "operator",
             "shape", "tokens", "median us", "least", "most", "GB/s", "TFLOPS", "floor us", "of floor", "reads",
             "of reads (middle half)", "of both");
}

void PrintLine(const Json& l) {
  const auto number = [&](const char* key) { return l[key].get<double>(); };
  fmt::print("{:<22} {:<38} {:>6} {:>10.1f} {:>10.1f} {:>10.1f} {:>7.2f} {:>7.3f}", l["op"].get<std::string>(),
             l["shape"].get<std::string>(), l["tokens"].get<int>(), number("median_us"), number("min_us"),
             number("max_us"), number("gbs"), number("tflops"));
  if (l.contains("floor_us")) fmt::print(" {:>9.1f} {:>6.1f} %", number("floor_us"), 100 * number("share_of_floor"));
  if (l.contains("share_of_reads")) {
    fmt::print(" {:>7.1f} {:>24}", number("reads_gbs"),
               fmt::format("{:.1f} % ({:.0f} to {:.0f})", 100 * number("share_of_reads"),
                           100 * number("share_of_reads_quarter"), 100 * number("share_of_reads_three_quarters")));
  }
  if (l.contains("share_of_both")) fmt::print(" {:>6.1f} %", 100 * number("share_of_both"));
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
  Machine machine;
  machine.gbs = o.memory_bandwidth_gbs;
  if (machine.gbs <= 0) {
    MINIMO_ASSIGN(environment.memory_bandwidth, MeasureMemoryBandwidth({o.threads}));
    machine.gbs = environment.memory_bandwidth->best_gbs;
    machine.streams = environment.memory_bandwidth->streams;
  }
  ThreadTeam team(o.threads);
  team.PinWorkers();  // as the engine does
  const PinnedThread pinned(team);
  MINIMO_ASSIGN(WeightPool pool, WeightPool::Make(PoolBytes(facts, o.pool_bytes), o.seed, team));
  static_cast<void>(ActiveCpuIsa());  // what MINIMO_CPU_ISA forbids, Highway must not choose from now on
  machine.tflops = MeasureFmaTflops(team);
  const InterruptScope interrupt;  // until here there is nothing to print

  fmt::print("{}, {}, context {}, cache {}, {} threads\n", facts.name, facts.bits.name, o.context, o.kv_cache_dtype,
             team.size());
  PrintHead();
  Json lines = Json::array();
  for (const int tokens : o.tokens) {
    for (const KernelCase& c : MakeKernelCases(facts, tokens, o.context, kv_dtype, tiled, pool, team, o.seed)) {
      if (InterruptScope::Requested()) break;
      if (!o.only.empty() && c.op.find(o.only) == std::string::npos) continue;
      PairedWork work{c.prepare, c.run, nullptr};
      if (c.prepare) work.read_gbs = [&] { return ReadBeside(c, machine.streams, pool, team); };
      const PairedTimes times = TimeBesideReads(work, o.seconds, kLeastRuns);
      if (times.us.empty()) break;
      lines.push_back(LineJson(c, times, machine));
      PrintLine(lines.back());
    }
  }
  fmt::print("float32 products at most {:.3f} TFLOPS; of both: of the reads' time or the products', the longer\n",
             machine.tflops);
  std::fputs(Describe(environment).c_str(), stdout);
  if (!o.json_file.empty()) {
    const Json json = {{"kind", "kernels"},
                       {"environment", ToJson(environment)},
                       {"model_id", o.model},
                       {"model_shape", ToJson(facts)},
                       {"seed", o.seed},
                       {"bandwidth_gbs", machine.gbs},
                       {"float32_tflops", machine.tflops},
                       {"isa", NameOf(ActiveCpuIsa())},
                       {"activations", o.activations},
                       {"context", o.context},
                       {"kv_cache_dtype", o.kv_cache_dtype},
                       {"lines", lines}};
    MINIMO_TRY(WriteResult(o.json_file, json));
  }
  return !InterruptScope::Requested();
}

}  // namespace minimo::bench
