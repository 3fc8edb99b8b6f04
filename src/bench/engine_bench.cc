#include "bench/engine_bench.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bench/engine_run.h"
#include "bench/environment.h"
#include "bench/floor.h"
#include "bench/interrupt.h"
#include "bench/progress.h"
#include "bench/result_file.h"
#include "bench/stats.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

constexpr int kFirstPlainId = 256;  // byte-level vocabularies keep single bytes below

double KvBits(const EngineOptions& o) {
  if (o.kv_cache_dtype == "fp8") return 8;
  if (o.kv_cache_dtype == "f32") return 32;
  if (o.kv_cache_dtype == "bf16" || o.dtype == "bf16" || o.backend == "cuda") return 16;
  return 32;  // auto on the CPU: exact
}

// Better of two measurements: the machine may have been busy during one.
void Improve(Environment* environment) {
  const auto measured = MeasureMemoryBandwidth();
  if (!measured.ok()) return;
  auto& best = environment->memory_bandwidth;
  if (!best || measured->best_gbs > best->best_gbs) best = *measured;
}

// Of the memory that holds the weights; 0 where it is not known which that is.
double Bandwidth(double given, const std::string& backend, const Environment& environment) {
  if (given > 0) return given;
  if (backend == "cuda") return GpuReadGbs(environment);
  const bool cpu = backend == "cpu" || environment.gpus.empty();
  return cpu && environment.memory_bandwidth ? environment.memory_bandwidth->best_gbs : 0;
}

struct BatchResult {
  int batch = 0;
  int iterations = 0;
  std::vector<double> ttft_ms;   // of the batch: until its last request has its first token
  std::vector<double> tpot_ms;   // of each iteration: mean step while all sequences decode
  std::vector<double> e2el_ms;
  std::vector<double> step_ms;   // all steps while all sequences decode
  std::vector<double> reads_gbs; // of each iteration, measured after it
  double touched = 0;            // experts a layer, as the router chose
};

// Gaps between tokens from the moment the last request has begun to the moment the first one ends.
void AddDecodeSteps(const EngineRun& run, BatchResult* result) {
  double begin = 0, end = std::numeric_limits<double>::infinity();
  for (const auto& times : run.token_times_s) {
    if (times.empty()) return;
    begin = std::max(begin, times.front());
    end = std::min(end, times.back());
  }
  double sum = 0;
  size_t count = 0;
  for (const auto& times : run.token_times_s) {
    for (size_t i = 1; i < times.size(); ++i) {
      if (times[i - 1] < begin || times[i] > end) continue;
      const double ms = (times[i] - times[i - 1]) * 1e3;
      sum += ms;
      ++count;
      result->step_ms.push_back(ms);
    }
  }
  if (count > 0) result->tpot_ms.push_back(sum / static_cast<double>(count));
  result->ttft_ms.push_back(begin * 1e3);
  result->e2el_ms.push_back(run.end_s * 1e3);
}

Json MetricJson(const char* key, const std::vector<double>& values) {
  const Summary s = Summarize(values, std::vector<double>{10, 90, 99});
  const std::string name = key;
  return {{"mean_" + name + "_ms", s.mean},
          {"median_" + name + "_ms", s.median},
          {"std_" + name + "_ms", s.std},
          {"min_" + name + "_ms", s.min},
          {"max_" + name + "_ms", s.max},
          {"p10_" + name + "_ms", s.percentiles[0].second},
          {"p90_" + name + "_ms", s.percentiles[1].second},
          {"p99_" + name + "_ms", s.percentiles[2].second}};
}

Json PointJson(const LatencyOptions& o, const BatchResult& r, const ModelFacts& facts, double gbs) {
  Json json = {
      {"batch_size", r.batch}, {"input_len", o.input_len}, {"output_len", o.output_len}, {"iterations", r.iterations}};
  json.update(MetricJson("ttft", r.ttft_ms));
  json.update(MetricJson("tpot", r.tpot_ms));
  json.update(MetricJson("e2el", r.e2el_ms));
  json["tpots_ms"] = r.step_ms;
  json["ttfts_ms"] = r.ttft_ms;
  json["e2els_ms"] = r.e2el_ms;
  json["avg_latency"] = Summarize(r.e2el_ms).mean * 1e-3;  // seconds, as vLLM's latency benchmark has it
  const double tpot = Summarize(r.tpot_ms).median, ttft = Summarize(r.ttft_ms).median;
  json["output_tok_s"] = tpot > 0 ? r.batch * 1e3 / tpot : 0;
  json["prompt_tok_s"] = ttft > 0 ? r.batch * static_cast<double>(o.input_len) * 1e3 / ttft : 0;
  const double context = o.input_len + 0.5 * o.output_len;
  const StepBytes bytes = DecodeBytes(facts, r.batch, context, KvBits(o.engine));
  json["bytes_per_step"] = bytes.Total();
  json["experts_touched_uniform"] = ExpertsTouched(facts.spec.moe, r.batch);
  json["experts_touched_measured"] = r.touched;
  json["floor_ms"] = FloorMs(bytes, gbs);
  json["share_of_floor"] = tpot > 0 ? FloorMs(bytes, gbs) / tpot : 0;
  if (!r.reads_gbs.empty()) {
    std::vector<double> shares;
    for (size_t i = 0; i < std::min(r.reads_gbs.size(), r.tpot_ms.size()); ++i) {
      shares.push_back(FloorMs(bytes, r.reads_gbs[i]) / r.tpot_ms[i]);
    }
    json["reads_gbs"] = r.reads_gbs;
    json["share_of_reads"] = Summarize(shares).median;
  }
  return json;
}

void PrintPoint(const Json& p) {
  fmt::print("{:>6} {:>10.2f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.1f} {:>10.1f} {:>10.3f} {:>8.1f} %\n",
             p["batch_size"].get<int>(), p["median_ttft_ms"].get<double>(), p["median_tpot_ms"].get<double>(),
             p["min_tpot_ms"].get<double>(), p["max_tpot_ms"].get<double>(), p["output_tok_s"].get<double>(),
             p["prompt_tok_s"].get<double>(), p["floor_ms"].get<double>(), 100 * p["share_of_floor"].get<double>());
}

Result<std::vector<SampleRequest>> RandomIds(const ModelSpec& spec, int count, int input_len, int output_len,
                                             double range_ratio, uint64_t seed) {
  DatasetOptions o;
  o.num_prompts = count;
  o.random_input_len = input_len;
  o.random_output_len = output_len;
  o.random_range_ratio = range_ratio;
  o.vocab_size = std::max(spec.vocab, kFirstPlainId + 1);
  o.seed = seed;
  return MakeDataset(o, nullptr);
}

// The host's bandwidth moves from second to second: what it was beside this iteration.
Status ShowIteration(int number, BatchResult* result) {
  constexpr MemoryBandwidthOptions kShort{.threads = 0, .buffer_bytes = 256 << 20, .passes = 3};
  MINIMO_ASSIGN(const MemoryBandwidth reads, MeasureMemoryBandwidth(kShort));
  result->reads_gbs.push_back(reads.median_gbs);
  fmt::print("iteration {}: TTFT {:.2f} ms, TPOT {:.3f} ms, reads {:.1f} GB/s\n", number, result->ttft_ms.back(),
             result->tpot_ms.back(), reads.median_gbs);
  std::fflush(stdout);
  return {};
}

// One batch size; what there is if the user stops it.
Result<BatchResult> MeasureBatch(Engine& engine, const LatencyOptions& o, int batch, ProgressLine* progress) {
  BatchResult result;
  result.batch = batch;
  for (int i = -o.warmups; i < o.iterations && !InterruptScope::Requested(); ++i) {
    const uint64_t seed = o.seed * 1000003 + static_cast<uint64_t>(batch) * 1009 + static_cast<uint64_t>(i + o.warmups);
    MINIMO_ASSIGN(const auto requests, RandomIds(engine.model(), batch, o.input_len, o.output_len, 0, seed));
    MINIMO_ASSIGN(const EngineRun run, RunOnEngine(engine, requests, [&](size_t ended) {
      if (progress->Due()) {
        progress->Show(fmt::format("batch {}: iteration {}/{}, {}/{} ended, {}", batch, std::max(0, i + 1),
                                   o.iterations, ended, batch, FormatSeconds(progress->elapsed_s())));
      }
    }));
    if (!run.error.empty()) return Errorf("batch {}: {}", batch, run.error);
    if (run.interrupted || i < 0) continue;
    ++result.iterations;
    AddDecodeSteps(run, &result);
    if (o.each_iteration && !result.tpot_ms.empty()) MINIMO_TRY(ShowIteration(i + 1, &result));
  }
  result.touched = MeasuredExpertsTouched(engine.GetExpertLoad(), engine.model().moe.top_k, batch);
  return result;
}

struct Bench {
  Environment environment;
  ModelFacts facts;
  std::unique_ptr<Engine> engine;
};

Result<Bench> Open(const EngineOptions& options, const std::string& quantization, double bandwidth) {
  Bench bench;
  MINIMO_ASSIGN(bench.facts, ReadModelFacts(options.model, quantization, options.num_layers));
  if (options.activations == "int8") bench.facts.bits = TiledBits(bench.facts.bits);
  bench.environment = CollectEnvironment();
  if (bandwidth <= 0) Improve(&bench.environment);
  MINIMO_ASSIGN(bench.engine, Engine::Create(options));
  return bench;
}

Json CommonJson(const char* kind, const Bench& bench, const EngineOptions& o, uint64_t seed) {
  return {{"kind", kind},
          {"environment", ToJson(bench.environment)},
          {"model_id", o.model},
          {"model_shape", ToJson(bench.facts)},
          {"seed", seed},
          {"engine",
           {{"backend", o.backend},
            {"dtype", o.dtype},
            {"activations", o.activations},
            {"kv_cache_dtype", o.kv_cache_dtype},
            {"threads", o.threads},
            {"load_format", o.load_format},
            {"num_layers", o.num_layers}}}};
}

struct Totals {
  long completed = 0, prompt = 0, output = 0;
};

// Of the requests that ran to their full length.
Totals Count(const EngineRun& run, const std::vector<SampleRequest>& requests) {
  Totals totals;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (run.token_times_s[i].size() < static_cast<size_t>(requests[i].output_len)) continue;
    ++totals.completed;
    totals.prompt += requests[i].prompt_len;
    totals.output += static_cast<long>(run.token_times_s[i].size());
  }
  return totals;
}

}  // namespace

Result<bool> RunLatencyBench(const LatencyOptions& given) {
  LatencyOptions o = given;
  if (o.input_len < 1 || o.output_len < 2 || o.iterations < 1) {
    return Errorf("--input-len {} --output-len {} --num-iters {}: expected at least 1, 2 and 1", o.input_len,
                  o.output_len, o.iterations);
  }
  for (const int batch : o.batch_sizes) {
    if (batch < 1) return Errorf("--batch-size {}: expected at least 1", batch);
    o.engine.max_num_seqs = std::max(o.engine.max_num_seqs, batch);
  }
  o.engine.enable_prefix_caching = false;
  const InterruptScope interrupt;
  MINIMO_ASSIGN(Bench bench, Open(o.engine, o.quantization, o.memory_bandwidth_gbs));
  std::vector<BatchResult> results;
  {
    ProgressLine progress(o.show_progress);
    for (const int batch : o.batch_sizes) {
      if (InterruptScope::Requested()) break;
      MINIMO_ASSIGN(BatchResult result, MeasureBatch(*bench.engine, o, batch, &progress));
      if (!result.tpot_ms.empty()) results.push_back(std::move(result));
    }
  }
  if (o.memory_bandwidth_gbs <= 0) Improve(&bench.environment);
  const double gbs = Bandwidth(o.memory_bandwidth_gbs, o.engine.backend, bench.environment);

  Json json = CommonJson("latency", bench, o.engine, o.seed);
  json["bandwidth_gbs"] = gbs;
  json["points"] = Json::array();
  fmt::print("{}, {}, {} tokens in, {} out, {} iterations\n", bench.facts.name, bench.facts.bits.name, o.input_len,
             o.output_len, o.iterations);
  fmt::print("{:>6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "batch", "TTFT ms", "TPOT ms", "least",
             "most", "out tok/s", "in tok/s", "floor ms", "reached");
  for (const BatchResult& result : results) {
    json["points"].push_back(PointJson(o, result, bench.facts, gbs));
    PrintPoint(json["points"].back());
  }
  std::fputs(Describe(bench.environment).c_str(), stdout);
  if (!o.json_file.empty()) MINIMO_TRY(WriteResult(o.json_file, json));
  if (InterruptScope::Requested()) std::fputs("Interrupted: the figures cover what had ended.\n", stderr);
  return !InterruptScope::Requested();
}

Result<bool> RunThroughputBench(const ThroughputOptions& given) {
  ThroughputOptions o = given;
  if (o.iterations < 1) return Errorf("--num-iters {}: expected at least 1", o.iterations);
  if (o.iterations > 1) o.engine.enable_prefix_caching = false;  // the same prompts come again
  const InterruptScope interrupt;
  MINIMO_ASSIGN(Bench bench, Open(o.engine, o.quantization, o.memory_bandwidth_gbs));
  const DatasetOptions& d = o.dataset;
  MINIMO_ASSIGN(const auto requests, RandomIds(bench.engine->model(), d.num_prompts, d.random_input_len,
                                               d.random_output_len, d.random_range_ratio, d.seed));
  std::vector<double> elapsed_s;
  Totals totals;
  {
    ProgressLine progress(o.show_progress);
    for (int i = 0; i < o.iterations && !InterruptScope::Requested(); ++i) {
      MINIMO_ASSIGN(const EngineRun run, RunOnEngine(*bench.engine, requests, [&](size_t ended) {
        if (!progress.Due()) return;
        const EngineStats stats = bench.engine->Stats();
        progress.Show(fmt::format("{}/{} requests, {} running, {} waiting, KV {:.0f} %, {}", ended, requests.size(),
                                  stats.running, stats.waiting, 100 * stats.kv_usage,
                                  FormatSeconds(progress.elapsed_s())));
      }));
      if (!run.error.empty()) return Errorf("a request failed: {}", run.error);
      if (run.interrupted && i > 0) break;  // the whole iterations tell more
      totals = Count(run, requests);
      elapsed_s.push_back(std::max(run.end_s, 1e-9));
    }
  }
  const bool interrupted = InterruptScope::Requested();
  if (elapsed_s.empty()) return false;
  const Summary elapsed = Summarize(elapsed_s);
  const auto rate = [&](long count) { return static_cast<double>(count) / elapsed.median; };
  fmt::print("Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n", rate(totals.completed),
             rate(totals.prompt + totals.output), rate(totals.output));
  fmt::print("Total num prompt tokens:  {}\nTotal num output tokens:  {}\n", totals.prompt, totals.output);
  fmt::print("Seconds: {:.3f} (median of {}, {:.3f} to {:.3f})\n", elapsed.median, elapsed.count, elapsed.min,
             elapsed.max);
  std::fputs(Describe(bench.environment).c_str(), stdout);
  if (interrupted) std::fputs("Interrupted: the figures cover the requests that had ended.\n", stderr);
  if (!o.json_file.empty()) {
    Json json = CommonJson("throughput", bench, o.engine, d.seed);
    json["elapsed_time"] = elapsed.median;  // this and the next four: vLLM's keys
    json["num_requests"] = totals.completed;
    json["total_num_tokens"] = totals.prompt + totals.output;
    json["requests_per_second"] = rate(totals.completed);
    json["tokens_per_second"] = rate(totals.prompt + totals.output);
    json["output_tokens_per_second"] = rate(totals.output);
    json["elapsed_times"] = elapsed_s;
    json["random_input_len"] = d.random_input_len;
    json["random_output_len"] = d.random_output_len;
    json["random_range_ratio"] = d.random_range_ratio;
    MINIMO_TRY(WriteResult(o.json_file, json));
  }
  return !interrupted;
}

}  // namespace minimo::bench
