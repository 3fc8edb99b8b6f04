#include "bench/serve_bench.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "bench/environment.h"
#include "bench/floor.h"
#include "bench/interrupt.h"
#include "bench/prompt_codec.h"
#include "bench/result_file.h"
#include "bench/serve_metrics.h"
#include "bench/serve_result.h"
#include "models/loader.h"

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

constexpr double kCallTimeoutS = 30;
constexpr auto kAskAgain = std::chrono::milliseconds(200);
constexpr size_t kShownErrors = 10;
constexpr double kKvBits = 16;  // of a cached number, for the floor

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

Result<std::pair<std::string, std::string>> KeyValue(const char* flag, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) return Errorf("{} {}: expected KEY=VALUE", flag, text);
  return std::pair(text.substr(0, equals), text.substr(equals + 1));
}

Result<double> Number(const char* flag, const std::string& text) {
  double value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) {
    return Errorf("{} {}: expected a number", flag, text);
  }
  return value;
}

// Everything a run needs, made from the options and checked before the first request.
struct Prepared {
  HttpTarget target;
  LoadOptions load;
  std::string model;      // as the result names it
  std::string tokenizer;  // folder, or empty
  std::vector<SampleRequest> requests;
  std::vector<double> arrivals;
  ServeResultOptions result;
  std::vector<double> percentiles;
  Goodput goodput;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::optional<ModelFacts> facts;
};

// Asks again for wait_s seconds while the server is not there yet.
Result<std::string> FirstModel(const HttpTarget& target, double wait_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(wait_s);
  auto answer = Call(target, "GET", "/v1/models", "", kCallTimeoutS);
  while ((!answer.ok() || answer->status >= 500) && std::chrono::steady_clock::now() < deadline &&
         !InterruptScope::Requested()) {
    std::this_thread::sleep_for(kAskAgain);
    answer = Call(target, "GET", "/v1/models", "", kCallTimeoutS);
  }
  MINIMO_ASSIGN(const HttpReply reply, std::move(answer));
  if (reply.status != 200) return Errorf("/v1/models: {}", DescribeHttpError(reply.status, reply.reason, reply.body));
  const Json json = Json::parse(reply.body, nullptr, false);
  const auto data = json.is_object() ? json.find("data") : json.end();
  if (!json.is_object() || data == json.end() || !data->is_array() || data->empty() || !(*data)[0].is_object() ||
      !(*data)[0].contains("id") || !(*data)[0]["id"].is_string()) {
    return Errorf("/v1/models lists no model: name one with --model");
  }
  return (*data)[0]["id"].get<std::string>();
}

Status PrepareServer(const ServeBenchOptions& o, Prepared* p) {
  const bool chat = o.backend == "openai-chat";
  const std::vector<std::string> completions = {"openai", "vllm", "sglang", "llama.cpp", "minimo"};
  if (!chat && std::find(completions.begin(), completions.end(), o.backend) == completions.end()) {
    return Errorf("--backend {}: expected openai, openai-chat, vllm, sglang, llama.cpp or minimo", o.backend);
  }
  const std::string host = o.host.find(':') == std::string::npos ? o.host : "[" + o.host + "]";
  MINIMO_ASSIGN(p->target, ResolveTarget(o.base_url.empty() ? fmt::format("http://{}:{}", host, o.port) : o.base_url));
  if (const char* key = std::getenv("OPENAI_API_KEY"); key != nullptr && *key != '\0') {
    p->target.headers.emplace_back("Authorization", fmt::format("Bearer {}", key));
  }
  for (const std::string& header : o.headers) {
    MINIMO_ASSIGN(auto pair, KeyValue("--header", header));
    std::erase_if(p->target.headers, [&](const auto& h) { return h.first == pair.first; });
    p->target.headers.push_back(std::move(pair));
  }
  p->load = o.load;
  p->load.generation.api = chat ? Api::kChat : Api::kCompletions;
  p->load.endpoint = !o.endpoint.empty() ? o.endpoint : chat ? "/v1/chat/completions" : "/v1/completions";
  if (p->load.max_concurrency < 0) return Errorf("--max-concurrency {}: expected 1 or more", p->load.max_concurrency);
  p->model = o.model;
  if (p->model.empty()) {
    MINIMO_ASSIGN(p->model, FirstModel(p->target, o.ready_check_timeout_s));
  }
  p->load.generation.model = o.served_model_name.empty() ? p->model : o.served_model_name;
  return {};
}

// The model's folder on this machine, if there is one: its tokenizer makes the prompts, its shape gives the floor.
Status PrepareModelFolder(const ServeBenchOptions& o, Prepared* p) {
  std::error_code ignored;
  const auto found = ResolveModelFolder(o.tokenizer.empty() ? p->model : o.tokenizer);
  const std::filesystem::path folder = found.ok() ? *found : std::string();
  if (std::filesystem::exists(folder / "tokenizer.json", ignored)) {
    p->tokenizer = folder.string();
  } else if (!o.tokenizer.empty()) {
    return Errorf("--tokenizer {}: no tokenizer.json there", o.tokenizer);
  }
  const auto model_folder = ResolveModelFolder(p->model);
  for (const std::string& candidate : {model_folder.ok() ? *model_folder : std::string(), p->tokenizer}) {
    if (p->facts || candidate.empty() || !std::filesystem::exists(candidate + "/config.json", ignored)) continue;
    auto facts = ReadModelFacts(candidate, o.quantization);
    if (facts.ok()) p->facts = std::move(facts).value();
  }
  return {};
}

Status PrepareWorkload(const ServeBenchOptions& o, Prepared* p) {
  Json extra = Json::object();
  for (const auto& [name, value] : o.sampling) {
    extra[name] = value == std::floor(value) && name == "top_k" ? Json(static_cast<int64_t>(value)) : Json(value);
  }
  if (!o.extra_body.empty()) {
    const Json given = Json::parse(o.extra_body, nullptr, false);
    if (!given.is_object()) return Errorf("--extra-body: expected a JSON object, found {}", o.extra_body);
    extra.update(given);
  }
  if (!extra.empty()) p->load.generation.extra_body = extra.dump();
  DatasetOptions dataset = o.dataset;
  dataset.text_only = p->load.generation.api == Api::kChat;
  if (dataset.name == "random") p->load.generation.ignore_eos = true;  // as vLLM does, to reach the asked-for length
  std::optional<PromptCodec> codec;
  if (!p->tokenizer.empty()) {
    MINIMO_ASSIGN(codec, LoadPromptCodec(p->tokenizer));
  }
  MINIMO_ASSIGN(p->requests, MakeDataset(dataset, codec ? &*codec : nullptr));
  MINIMO_TRY(Validate(o.arrivals));
  p->arrivals = ArrivalTimes(o.arrivals, p->requests.size());
  return {};
}

Status PrepareResult(const ServeBenchOptions& o, Prepared* p) {
  p->result.request_rate = o.arrivals.request_rate;
  p->result.burstiness = o.arrivals.burstiness;
  p->result.max_concurrency = p->load.max_concurrency;
  p->result.percentile_metrics = Split(o.percentile_metrics, ',');
  const std::vector<std::string> known = {"ttft", "tpot", "itl", "e2el", "client_queue_time",
                                          "e2el_including_client_queue"};
  for (const std::string& name : p->result.percentile_metrics) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Errorf("--percentile-metrics {}: expected some of ttft,tpot,itl,e2el,client_queue_time,"
                    "e2el_including_client_queue", name);
    }
  }
  for (const std::string& text : Split(o.metric_percentiles, ',')) {
    MINIMO_ASSIGN(const double percentile, Number("--metric-percentiles", text));
    if (percentile < 0 || percentile > 100) return Errorf("--metric-percentiles {}: expected 0 to 100", text);
    p->percentiles.push_back(percentile);
  }
  MINIMO_ASSIGN(p->goodput, ParseGoodput(o.goodput));
  p->result.has_goodput = !p->goodput.empty();
  for (const std::string& item : o.metadata) {
    MINIMO_ASSIGN(auto pair, KeyValue("--metadata", item));
    p->metadata.push_back(std::move(pair));
  }
  return {};
}

// The first request, again and again until it succeeds.
Status WaitUntilReady(const Prepared& p, double timeout_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  LoadOptions load = p.load;
  load.show_progress = false;
  while (true) {
    MINIMO_ASSIGN(const LoadResult run, RunLoad(p.target, load, {p.requests[0]}, {0.0}));
    if (run.outcomes[0].success) return {};
    if (InterruptScope::Requested()) return Errorf("interrupted while waiting for the server");
    if (std::chrono::steady_clock::now() >= deadline) {
      return Errorf("the server was not ready within {} s: {}", timeout_s, run.outcomes[0].error);
    }
    std::this_thread::sleep_for(kAskAgain);
  }
}

std::optional<SpecDecodeStats> SpecDecode(const HttpTarget& target) {
  const auto reply = Call(target, "GET", "/metrics", "", kCallTimeoutS);
  if (!reply.ok() || reply->status != 200) return std::nullopt;
  return ParseSpecDecodeMetrics(reply->body);
}

std::string LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &local);
  return text;
}

// vLLM's pattern: LABEL-RATEqps-concurrencyN-MODEL-DATE.json.
std::string ResultPath(const ServeBenchOptions& o, const Prepared& p, const std::string& date) {
  std::string name = o.result_filename;
  if (name.empty()) {
    name = fmt::format("{}-{}qps{}-{}-{}.json", o.label.empty() ? o.backend : o.label, o.arrivals.request_rate,
                       p.load.max_concurrency > 0 ? fmt::format("-concurrency{}", p.load.max_concurrency) : "",
                       std::filesystem::path(p.model).filename().string(), date);
  }
  return o.result_dir.empty() ? name : (std::filesystem::path(o.result_dir) / name).string();
}

// The bandwidth behind the floor in GB/s, or 0. Measured before the load, while the server idles.
Result<double> FloorBandwidth(const ServeBenchOptions& o, const Prepared& p, Environment* environment) {
  if (o.memory_bandwidth == "none") return 0.0;
  if (o.memory_bandwidth != "auto") return Number("--memory-bandwidth", o.memory_bandwidth);
  if (!p.target.IsLoopback()) return 0.0;
  const auto measured = MeasureMemoryBandwidth();
  if (!measured.ok()) return 0.0;
  environment->memory_bandwidth = *measured;
  return environment->gpus.empty() ? measured->best_gbs : 0.0;  // a GPU's memory is not this one
}

struct Floor {
  double gbs = 0;
  double batch = 0;    // requests in flight on average: the sum of latencies over the duration
  double context = 0;  // tokens in a sequence half way through its answer
  double tpot_ms = 0;
};

std::optional<Floor> FloorOf(const Prepared& p, const LoadResult& load, const ServeMetrics& m, double gbs) {
  if (!p.facts || gbs <= 0 || m.completed == 0 || load.duration_s <= 0) return std::nullopt;
  Floor floor;
  floor.gbs = gbs;
  floor.batch = std::max(1.0, m.e2el_ms.mean * 1e-3 * m.completed / load.duration_s);
  floor.context = (static_cast<double>(m.total_input) + 0.5 * static_cast<double>(m.total_output)) / m.completed;
  floor.tpot_ms = FloorMs(DecodeBytes(*p.facts, floor.batch, floor.context, kKvBits), gbs);
  return floor;
}

void Print(const ServeMetrics& m, const LoadResult& load, const Prepared& p, const Environment& environment,
           const std::optional<SpecDecodeStats>& spec, const std::optional<Floor>& floor) {
  if (load.interrupted) std::fputs("Interrupted: the figures cover the requests that had ended.\n", stderr);
  size_t shown = 0;
  for (size_t i = 0; i < load.outcomes.size() && shown < kShownErrors; ++i) {
    if (load.outcomes[i].error.empty()) continue;
    fmt::print(stderr, "request {}: {}\n", p.requests[i].id, load.outcomes[i].error);
    ++shown;
  }
  if (static_cast<size_t>(m.failed) > shown)
    fmt::print(stderr, "... and {} more\n", static_cast<size_t>(m.failed) - shown);
  std::fputs(FormatServeResult(m, load.duration_s, p.result, spec).c_str(), stdout);
  if (floor) {
    fmt::print("{:<40} {:<10.2f}\n", "Memory read bandwidth (GB/s):", floor->gbs);
    fmt::print("{:<40} {:<10.1f}\n", "Requests in flight, on average:", floor->batch);
    fmt::print("{:<40} {:<10.3f}\n", "Memory floor of TPOT (ms):", floor->tpot_ms);
    fmt::print("{:<40} {:<10.1f}\n", "Floor / median TPOT (%):",
               m.tpot_ms.median > 0 ? 100 * floor->tpot_ms / m.tpot_ms.median : 0);
  }
  std::fputs(Describe(environment).c_str(), stdout);
  std::fflush(stdout);
}

Json FullResult(const ServeBenchOptions& o, const Prepared& p, const Environment& environment,
                const std::optional<Floor>& floor, const std::string& date) {
  Json json = {{"date", date},         {"endpoint_type", o.backend}, {"backend", o.backend},
               {"model_id", p.model},  {"num_prompts", p.requests.size()}};
  json["label"] = o.label.empty() ? Json(nullptr) : Json(o.label);
  json["tokenizer_id"] = p.tokenizer.empty() ? Json(nullptr) : Json(p.tokenizer);
  for (const auto& [key, value] : p.metadata) json[key] = value;
  json["kind"] = "serve";
  json["seed"] = o.dataset.seed;
  json["dataset"] = o.dataset.name;
  if (o.dataset.name == "random") {
    json["random_input_len"] = o.dataset.random_input_len;
    json["random_output_len"] = o.dataset.random_output_len;
    json["random_range_ratio"] = o.dataset.random_range_ratio;
  }
  json["environment"] = ToJson(environment);
  if (p.facts) json["model_shape"] = ToJson(*p.facts);
  if (floor) {
    json["floor"] = {{"bandwidth_gbs", floor->gbs}, {"batch", floor->batch},
                     {"context", floor->context},   {"tpot_ms", floor->tpot_ms}};
    for (int batch = 1; batch <= 256; batch *= 2) {
      const double ms = FloorMs(DecodeBytes(*p.facts, batch, floor->context, kKvBits), floor->gbs);
      json["floor"]["curve"].push_back({batch, ms});
    }
  }
  return json;
}

}  // namespace

Result<bool> RunServeBench(const ServeBenchOptions& options) {
  const InterruptScope interrupt;
  Prepared p;
  MINIMO_TRY(PrepareResult(options, &p));
  MINIMO_TRY(PrepareServer(options, &p));
  p.result.max_concurrency = p.load.max_concurrency;
  MINIMO_TRY(PrepareModelFolder(options, &p));
  MINIMO_TRY(PrepareWorkload(options, &p));

  if (options.ready_check_timeout_s > 0) MINIMO_TRY(WaitUntilReady(p, options.ready_check_timeout_s));
  Environment environment = CollectEnvironment();
  MINIMO_ASSIGN(const double gbs, FloorBandwidth(options, p, &environment));
  if (options.num_warmups > 0) {
    const std::vector<SampleRequest> warmups(static_cast<size_t>(options.num_warmups), p.requests[0]);
    MINIMO_ASSIGN(const LoadResult ignored, RunLoad(p.target, p.load, warmups, std::vector<double>(warmups.size())));
  }
  const auto spec_before = SpecDecode(p.target);
  MINIMO_ASSIGN(const LoadResult load, RunLoad(p.target, p.load, p.requests, p.arrivals));
  const auto spec_after = spec_before ? SpecDecode(p.target) : std::nullopt;
  const std::optional<SpecDecodeStats> spec =
      spec_after ? std::optional(Difference(*spec_after, *spec_before)) : std::nullopt;

  const ServeMetrics metrics = ComputeServeMetrics(load.outcomes, load.duration_s, p.percentiles, p.goodput);
  const std::optional<Floor> floor = FloorOf(p, load, metrics, gbs);
  Print(metrics, load, p, environment, spec, floor);
  const std::string date = LocalTime();
  Json json = FullResult(options, p, environment, floor, date);
  if (options.save_result || options.append_result) {
    json.update(ServeResultJson(metrics, load, p.result, spec, options.save_detailed));
    MINIMO_TRY(WriteResult(ResultPath(options, p, date), json, options.append_result));
  }
  if (!options.json_file.empty()) {
    ServeResultOptions all = p.result;
    all.percentile_metrics = {"ttft", "tpot", "itl", "e2el"};
    json.update(ServeResultJson(metrics, load, all, spec, true));
    MINIMO_TRY(WriteResult(options.json_file, json));
  }
  const bool failed = metrics.failed > 0 && !options.allow_failures;
  return !failed && !load.interrupted;
}

}  // namespace minimo::bench
