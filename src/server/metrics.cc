#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "server/http_server.h"

namespace minimo::server {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;
using Labels = std::map<std::string, std::string>;

// Boundaries of vLLM's histograms (vllm/v1/metrics/loggers.py), with finer ones below for small models.
const Buckets kFirstToken = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,
                             0.75,   1.0,   2.5,    5.0,   7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
const Buckets kInterToken = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,  0.15, 0.2,
                             0.3,    0.4,   0.5,    0.75,  1.0,  2.5,   5.0,  7.5,   10.0, 20.0, 40.0, 80.0};
const Buckets kLatency = {0.005, 0.02, 0.1,  0.3,  0.5,  0.8,   1.0,   1.5,   2.0,   2.5,    5.0,   10.0,
                          15.0,  20.0, 30.0, 40.0, 50.0, 60.0,  120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const Buckets kStepTokens = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Buckets kChoices = {1, 2, 5, 10, 20};
const Buckets kTokenWritten = {0.00001, 0.00002, 0.00005, 0.0001, 0.00015, 0.0002, 0.0003,
                               0.0005,  0.001,   0.002,   0.005,  0.01,    0.1,    1.0};

// 1, 2, 5, 10, 20, 50 ... up to `limit`.
Buckets OneTwoFive(int limit) {
  Buckets buckets;
  for (int64_t decade = 1;; decade *= 10) {
    for (const int64_t mantissa : {1, 2, 5}) {
      if (decade * mantissa > limit) return buckets;
      buckets.push_back(static_cast<double>(decade * mantissa));
    }
  }
}

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

// A counter that follows a total kept elsewhere.
struct Follower {
  Counter* counter = nullptr;
  int64_t seen = 0;
  void To(int64_t total) {
    if (total > seen) counter->Increment(static_cast<double>(total - seen));
    seen = std::max(seen, total);
  }
};

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;
  Labels labels;
  std::mutex mutex;  // guards the followers

  Gauge* running;
  Gauge* waiting;
  Gauge* kv_usage;
  Follower prompt_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits, steps;
  Follower connections_total, connections_refused, clients_dropped;
  Gauge* connections;
  std::map<std::string, Counter*> success;
  Histogram *first_token, *inter_token, *per_output_token, *e2e, *queue, *prefill, *decode, *inference;
  Histogram *prompt_size, *generation_size, *max_generation, *params_n, *params_max_tokens, *step_tokens,
      *token_written;
  prometheus::Family<Counter>* http = nullptr;
  prometheus::Family<Gauge>* expert_load = nullptr;
  prometheus::Family<Counter>* expert_tokens = nullptr;
  std::vector<std::array<Gauge*, 4>> expert_gauges;  // by layer: min, median, max, idle
  std::vector<Follower> expert_followers;
  RecentLatency recent_first_token, recent_inter_token;

  struct EngineWatch final : EngineObserver {
    explicit EngineWatch(Families& families) : f(families) {}
    void OnStep(const StepStats& stats) override;
    void OnFinished(const FinishedStats& stats) override;
    Families& f;
  };
  EngineWatch observer{*this};

  Gauge* NewGauge(const char* name, const char* help, Labels extra = {}) {
    extra.insert(labels.begin(), labels.end());
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(extra);
  }
  Counter* NewCounter(const char* name, const char* help) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
  }
  Histogram* NewHistogram(const char* name, const char* help, const Buckets& buckets) {
    return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, buckets);
  }
};

Metrics::Metrics(const std::string& model_name, const CacheConfig& cache, int64_t capacity_tokens, int max_model_len)
    : f_(std::make_unique<Families>()) {
  Families& f = *f_;
  f.labels = {{"model_name", model_name}, {"engine", "0"}};
  f.running = f.NewGauge("vllm:num_requests_running", "Sequences in the running batch.");
  f.waiting = f.NewGauge("vllm:num_requests_waiting", "Sequences that wait to be scheduled.");
  f.kv_usage = f.NewGauge("vllm:kv_cache_usage_perc", "Share of KV cache blocks in use; 1 is all.");
  f.prompt_tokens.counter = f.NewCounter("vllm:prompt_tokens_total", "Prompt tokens processed.");
  f.generation_tokens.counter = f.NewCounter("vllm:generation_tokens_total", "Tokens generated.");
  f.preemptions.counter = f.NewCounter("vllm:num_preemptions_total", "Sequences preempted.");
  f.prefix_queries.counter =
      f.NewCounter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.");
  f.prefix_hits.counter = f.NewCounter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
  auto& success = prometheus::BuildCounter().Name("vllm:request_success_total").Help("Choices finished, by reason.")
                      .Register(f.registry);
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    Labels labels = f.labels;
    labels["finished_reason"] = reason;
    f.success[reason] = &success.Add(labels);
  }
  f.step_tokens = f.NewHistogram("vllm:iteration_tokens_total", "Tokens per engine step.", kStepTokens);
  f.first_token = f.NewHistogram("vllm:time_to_first_token_seconds", "Arrival to first token.", kFirstToken);
  f.inter_token = f.NewHistogram("vllm:inter_token_latency_seconds", "Between two tokens of a choice.", kInterToken);
  f.per_output_token = f.NewHistogram("vllm:request_time_per_output_token_seconds",
                                      "Mean time per token after the first, per choice.", kInterToken);
  f.e2e = f.NewHistogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", kLatency);
  f.queue = f.NewHistogram("vllm:request_queue_time_seconds", "Arrival to first scheduled.", kLatency);
  f.prefill = f.NewHistogram("vllm:request_prefill_time_seconds", "First scheduled to first token.", kLatency);
  f.decode = f.NewHistogram("vllm:request_decode_time_seconds", "First token to last token.", kLatency);
  f.inference = f.NewHistogram("vllm:request_inference_time_seconds", "First scheduled to last token.", kLatency);
  const Buckets sizes = OneTwoFive(max_model_len);
  f.prompt_size = f.NewHistogram("vllm:request_prompt_tokens", "Prompt tokens of a choice.", sizes);
  f.generation_size = f.NewHistogram("vllm:request_generation_tokens", "Tokens generated for a choice.", sizes);
  f.max_generation = f.NewHistogram("vllm:request_max_num_generation_tokens",
                                    "Largest number of tokens asked of a choice.", sizes);
  f.params_n = f.NewHistogram("vllm:request_params_n", "The parameter n.", kChoices);
  f.params_max_tokens = f.NewHistogram("vllm:request_params_max_tokens", "The parameter max_tokens.", sizes);
  f.NewGauge("vllm:cache_config_info", "The KV cache.",
             {{"block_size", std::to_string(cache.block_size)},
              {"cache_dtype", cache.cache_dtype},
              {"enable_prefix_caching", cache.enable_prefix_caching ? "True" : "False"},
              {"num_gpu_blocks",
               std::to_string(cache.block_size > 0 ? capacity_tokens / cache.block_size : 0)}})
      ->Set(1);
  f.NewGauge("vllm:lora_requests_info", "LoRA adapters; minimo has none.",
             {{"max_lora", "0"}, {"running_lora_adapters", ""}, {"waiting_lora_adapters", ""}})
      ->Set(0);
  f.NewCounter("vllm:corrupted_requests_total", "Requests with NaN in their logits.");
  f.NewCounter("vllm:spec_decode_num_drafts_total", "Drafts proposed by speculative decoding.");
  f.NewCounter("vllm:spec_decode_num_draft_tokens_total", "Draft tokens proposed.");
  f.NewCounter("vllm:spec_decode_num_accepted_tokens_total", "Draft tokens accepted.");
  auto& accepted = prometheus::BuildCounter().Name("vllm:spec_decode_num_accepted_tokens_per_pos_total")
                       .Help("Draft tokens accepted, by position.").Register(f.registry);
  for (const char* position : {"0", "1", "2"}) {
    Labels labels = f.labels;
    labels["position"] = position;
    accepted.Add(labels);
  }

  f.NewGauge("minimo:kv_cache_capacity_tokens", "Tokens the full-attention KV pool can hold.")
      ->Set(static_cast<double>(capacity_tokens));
  f.steps.counter = f.NewCounter("minimo:engine_steps_total", "Steps of the engine.");
  f.token_written = f.NewHistogram("minimo:token_write_latency_seconds",
                                   "From a token sampled to its bytes handed to the socket.", kTokenWritten);
  f.connections = f.NewGauge("minimo:http_connections", "Open client connections.");
  f.connections_total.counter = f.NewCounter("minimo:http_connections_total", "Connections accepted.");
  f.connections_refused.counter = f.NewCounter("minimo:http_connections_refused_total", "Connections over the limit.");
  f.clients_dropped.counter = f.NewCounter("minimo:http_clients_dropped_total", "Clients that read too slowly.");
  f.http = &prometheus::BuildCounter()
                .Name("minimo:http_requests_total")
                .Help("Generation requests by path and status.")
                .Register(f.registry);
  f.expert_load = &prometheus::BuildGauge().Name("minimo:expert_load")
                       .Help("Tokens routed to a layer's experts over an even share: the least, median and most "
                             "loaded expert, and the share of experts never used.")
                       .Register(f.registry);
  f.expert_tokens = &prometheus::BuildCounter().Name("minimo:expert_tokens_total")
                         .Help("Tokens times experts routed in a layer.").Register(f.registry);
}

Metrics::~Metrics() = default;

std::shared_ptr<EngineObserver> Metrics::Observer() {
  // Borrows: the server takes the observer away from the engine before it ends.
  return std::shared_ptr<EngineObserver>(std::shared_ptr<void>(), &f_->observer);
}
RecentLatency& Metrics::first_token() { return f_->recent_first_token; }
RecentLatency& Metrics::inter_token() { return f_->recent_inter_token; }

void Metrics::Families::EngineWatch::OnStep(const StepStats& stats) {
  f.step_tokens->Observe(stats.prefill_tokens + stats.generated_tokens);
  for (const int64_t us : stats.time_to_first_token_us) f.first_token->Observe(Seconds(us));
  for (const int64_t us : stats.inter_token_us) f.inter_token->Observe(Seconds(us));
  f.recent_first_token.Add(stats.time_to_first_token_us);
  f.recent_inter_token.Add(stats.inter_token_us);
}

void Metrics::Families::EngineWatch::OnFinished(const FinishedStats& stats) {
  if (auto it = f.success.find(ToString(stats.finish)); it != f.success.end()) it->second->Increment();
  if (stats.usage.completion_tokens > 0) {
    f.e2e->Observe(Seconds(stats.e2e_us));
    f.queue->Observe(Seconds(stats.queue_us));
    f.prefill->Observe(Seconds(stats.prefill_us));
    f.decode->Observe(Seconds(stats.decode_us));
    f.inference->Observe(Seconds(stats.inference_us));
  }
  if (stats.usage.completion_tokens > 1) {
    f.per_output_token->Observe(Seconds(stats.decode_us) / (stats.usage.completion_tokens - 1));
  }
  f.prompt_size->Observe(stats.usage.prompt_tokens);
  f.generation_size->Observe(stats.usage.completion_tokens);
  f.max_generation->Observe(stats.max_tokens);
  f.params_n->Observe(stats.n);
  f.params_max_tokens->Observe(stats.max_tokens);
}

void Metrics::ObserveHttp(const std::string& path, int status) {
  f_->http->Add({{"path", path}, {"status", std::to_string(status)}}).Increment();
}

// Under one lock: two IO threads would often meet at it.
void Metrics::ObserveTokensWritten(std::span<const int64_t> latencies_us) {
  std::vector<double> buckets(kTokenWritten.size() + 1, 0.0);
  double sum = 0;
  for (const int64_t us : latencies_us) {
    const double seconds = Seconds(us);
    sum += seconds;
    ++buckets[static_cast<size_t>(std::lower_bound(kTokenWritten.begin(), kTokenWritten.end(), seconds) -
                                  kTokenWritten.begin())];
  }
  f_->token_written->ObserveMultiple(buckets, sum);
}

LatencySummary Metrics::TokenWritten() const {
  const auto histogram = f_->token_written->Collect().histogram;
  const auto quantile = [&](double q) {
    const double wanted = q * static_cast<double>(histogram.sample_count);
    double lower = 0, below = 0;
    for (const auto& bucket : histogram.bucket) {
      const double upto = static_cast<double>(bucket.cumulative_count);
      if (upto >= wanted && upto > below) {
        return 1e6 * (lower + (bucket.upper_bound - lower) * (wanted - below) / (upto - below));
      }
      lower = bucket.upper_bound;
      below = upto;
    }
    return 1e6 * lower;
  };
  return {quantile(0.5), quantile(0.99)};
}

void Metrics::Update(const EngineStats& stats) {
  Families& f = *f_;
  const std::lock_guard lock(f.mutex);
  f.running->Set(stats.running);
  f.waiting->Set(stats.waiting);
  f.kv_usage->Set(stats.kv_usage);
  f.prompt_tokens.To(stats.prompt_tokens);
  f.generation_tokens.To(stats.generation_tokens);
  f.preemptions.To(stats.preemptions);
  f.prefix_queries.To(stats.prefix_queries);
  f.prefix_hits.To(stats.prefix_hits);
  f.steps.To(stats.steps);
}

void Metrics::UpdateExpertLoad(const Engine::ExpertLoad& load) {
  if (load.layers <= 0 || load.experts <= 0) return;
  Families& f = *f_;
  const std::lock_guard lock(f.mutex);
  const size_t experts = static_cast<size_t>(load.experts);
  for (size_t layer = 0; layer < static_cast<size_t>(load.layers); ++layer) {
    if (layer >= f.expert_gauges.size()) {
      const auto gauge = [&](const char* stat) {
        Labels labels = f.labels;
        labels["layer"] = std::to_string(layer);
        labels["stat"] = stat;
        return &f.expert_load->Add(labels);
      };
      f.expert_gauges.push_back({gauge("min"), gauge("median"), gauge("max"), gauge("unused")});
      Labels labels = f.labels;
      labels["layer"] = std::to_string(layer);
      f.expert_followers.push_back({&f.expert_tokens->Add(labels), 0});
    }
    std::vector<int64_t> counts(load.counts.begin() + static_cast<ptrdiff_t>(layer * experts),
                                load.counts.begin() + static_cast<ptrdiff_t>((layer + 1) * experts));
    std::sort(counts.begin(), counts.end());
    int64_t total = 0;
    for (int64_t count : counts) total += count;
    f.expert_followers[layer].To(total);
    if (total == 0) continue;
    const double even = static_cast<double>(total) / static_cast<double>(experts);
    const auto& [least, median, most, unused] = f.expert_gauges[layer];
    least->Set(static_cast<double>(counts.front()) / even);
    median->Set(static_cast<double>(counts[experts / 2]) / even);
    most->Set(static_cast<double>(counts.back()) / even);
    unused->Set(static_cast<double>(std::count(counts.begin(), counts.end(), 0)) / static_cast<double>(experts));
  }
}

void Metrics::UpdateHttp(const HttpCounters& counters) {
  Families& f = *f_;
  const std::lock_guard lock(f.mutex);
  f.connections->Set(static_cast<double>(counters.connections.load()));
  f.connections_total.To(counters.connections_total.load());
  f.connections_refused.To(counters.connections_refused.load());
  f.clients_dropped.To(counters.clients_dropped.load());
}

std::string Metrics::Text() const { return prometheus::TextSerializer().Serialize(f_->registry.Collect()); }

}  // namespace minimo::server
