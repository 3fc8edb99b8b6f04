#include "bench/load_bench.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/thread_team.h"
#include "bench/engine_run.h"
#include "bench/environment.h"
#include "bench/floor.h"
#include "bench/interrupt.h"
#include "bench/result_file.h"
#include "bench/stats.h"
#include "models/loader.h"
#include "minimo/tokenizer.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

class Stopwatch {
 public:
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    const double s = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return s;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct Phases {
  std::vector<double> files, weights, tokenizer, engine, first_token;  // seconds, one an iteration
  double bytes = 0;
};

void DropFromCache(const Checkpoint& checkpoint) {
  for (const SafetensorsFile& shard : checkpoint.shards()) {
    const int fd = open(shard.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
}

// One byte of every page would do to fault it in; every byte is what a loader reads.
uint64_t ReadAll(const Checkpoint& checkpoint, ThreadTeam& team) {
  std::vector<const TensorView*> tensors;
  for (const auto& [name, view] : checkpoint.tensors()) tensors.push_back(&view);
  std::atomic<uint64_t> sum{0};
  team.ParallelForDynamic(static_cast<int64_t>(tensors.size()), [&](int64_t i) {
    const TensorView& t = *tensors[static_cast<size_t>(i)];
    uint64_t x = 0;
    const auto* words = reinterpret_cast<const uint64_t*>(t.data);
    for (int64_t k = 0; k < t.bytes() / 8; ++k) x ^= words[k];
    sum ^= x;
  });
  return sum;
}

Status MeasureOnce(const LoadBenchOptions& o, const std::string& folder, Phases* phases) {
  {
    Stopwatch watch;
    MINIMO_ASSIGN(const LoadedModel loaded, LoadModel(folder, {o.engine.num_layers}));
    phases->files.push_back(watch.Lap());
    ThreadTeam team(o.engine.threads);
    watch.Lap();
    volatile uint64_t sink = ReadAll(*loaded.checkpoint, team);
    (void)sink;
    phases->weights.push_back(watch.Lap());
    phases->bytes = static_cast<double>(loaded.checkpoint->total_bytes());
    MINIMO_ASSIGN(const auto tokenizer, Tokenizer::FromFolder(folder));
    phases->tokenizer.push_back(watch.Lap());
    if (o.cold) DropFromCache(*loaded.checkpoint);
  }
  Stopwatch watch;
  MINIMO_ASSIGN(const auto engine, Engine::Create(o.engine));
  phases->engine.push_back(watch.Lap());
  SampleRequest request;
  for (int i = 0; i < o.input_len; ++i) request.prompt_ids.push_back((256 + i) % engine->model().vocab);
  request.output_len = 1;
  MINIMO_ASSIGN(const EngineRun run, RunOnEngine(*engine, {request}, nullptr));
  phases->first_token.push_back(watch.Lap());
  if (!run.error.empty()) return Errorf("the first token: {}", run.error);
  return {};
}

Json PhaseJson(const char* name, const std::vector<double>& seconds, double bytes) {
  const Summary s = Summarize(seconds);
  Json json = {{"name", name}, {"seconds", s.median}, {"min_s", s.min}, {"max_s", s.max}};
  if (bytes > 0 && s.median > 0) json["gbs"] = bytes * 1e-9 / s.median;
  return json;
}

void PrintPhase(const Json& p) {
  fmt::print("{:<44} {:>10.1f} {:>10.1f} {:>10.1f} ", p["name"].get<std::string>(), p["seconds"].get<double>() * 1e3,
             p["min_s"].get<double>() * 1e3, p["max_s"].get<double>() * 1e3);
  if (p.contains("gbs")) fmt::print("{:>8.2f}", p["gbs"].get<double>());
  fmt::print("\n");
}

}  // namespace

Result<bool> RunLoadBench(const LoadBenchOptions& o) {
  if (o.iterations < 1 || o.input_len < 1) return Errorf("--num-iters and --input-len: expected at least 1");
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(o.engine.model));
  MINIMO_ASSIGN(const ModelFacts facts, ReadModelFacts(folder, "", o.engine.num_layers));
  const Environment environment = CollectEnvironment();
  const InterruptScope interrupt;
  Phases phases;
  if (o.cold) {
    MINIMO_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder));
    DropFromCache(checkpoint);
  }
  int done = 0;
  while (done < o.iterations && !InterruptScope::Requested()) {
    MINIMO_TRY(MeasureOnce(o, folder, &phases));
    ++done;
  }
  if (done == 0) return false;

  std::vector<double> total;
  for (size_t i = 0; i < phases.engine.size(); ++i) total.push_back(phases.engine[i] + phases.first_token[i]);
  Json json = {{"kind", "load"}, {"environment", ToJson(environment)}, {"model_id", o.engine.model},
               {"model_shape", ToJson(facts)}, {"iterations", done}, {"cold", o.cold}, {"weight_bytes", phases.bytes}};
  json["total_s"] = Summarize(total).median;
  json["phases"] = {PhaseJson("engine: from nothing to ready", phases.engine, 0),
                    PhaseJson("engine: first token", phases.first_token, 0)};
  json["parts"] = {PhaseJson("files: open, map, check, bind", phases.files, 0),
                   PhaseJson("weights: read every byte", phases.weights, phases.bytes),
                   PhaseJson("tokenizer", phases.tokenizer, 0)};
  fmt::print("{}, {}, {:.3f} GB of weights, {} iterations{}\n", facts.name, facts.bits.name, phases.bytes * 1e-9, done,
             o.cold ? ", files dropped from the page cache" : "");
  fmt::print("{:<44} {:>10} {:>10} {:>10} {:>8}\n", "phase", "median ms", "least", "most", "GB/s");
  for (const Json& phase : json["phases"]) PrintPhase(phase);
  fmt::print("{:<44} {:>10.1f}\n", "total", json["total_s"].get<double>() * 1e3);
  fmt::print("on their own:\n");
  for (const Json& part : json["parts"]) PrintPhase(part);
  std::fputs(Describe(environment).c_str(), stdout);
  if (!o.json_file.empty()) MINIMO_TRY(WriteResult(o.json_file, json));
  return !InterruptScope::Requested();
}

}  // namespace minimo::bench
