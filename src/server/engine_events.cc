#include "server/engine_events.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "server/json_writer.h"
#include "server/protocol.h"

namespace minimo::server {

struct EngineEvents::Watcher {
  ReplyPtr reply;
  std::atomic<bool> gone{false};
};

EngineEvents::EngineEvents(const Engine& engine, RecentLatency& first_token, RecentLatency& inter_token,
                           std::string model_name, int max_num_seqs)
    : engine_(engine),
      first_token_(first_token),
      inter_token_(inter_token),
      model_name_(std::move(model_name)),
      max_num_seqs_(max_num_seqs) {}

void EngineEvents::Watch(HttpRequest&&, ReplyPtr reply) {
  auto watcher = std::make_shared<Watcher>();
  watcher->reply = reply;
  reply->BeginStream(SseHead());
  reply->OnClose([weak = std::weak_ptr(watcher)] {
    if (auto watcher = weak.lock()) watcher->gone = true;
  });
  const EngineStats stats = engine_.Stats();
  const Engine::ExpertLoad load = engine_.GetExpertLoad();
  JsonWriter hello;
  hello.Object()
      .Member("model", model_name_)
      .Member("max_model_len", engine_.max_model_len())
      .Member("max_num_seqs", max_num_seqs_)
      .Member("kv_capacity_tokens", stats.kv_capacity_tokens)
      .Member("moe_layers", load.layers)
      .Member("experts", load.experts)
      .EndObject();
  reply->Write(fmt::format("event: hello\ndata: {}\n\n", hello.str()), 0);
  const std::lock_guard lock(mutex_);
  if (ended_) {
    reply->End();
  } else {
    watchers_.push_back(std::move(watcher));
  }
}

std::string EngineEvents::StatsEvent(const EngineStats& stats, int64_t now_us) {
  const double seconds = last_us_ == 0 ? 0 : static_cast<double>(now_us - last_us_) * 1e-6;
  const auto rate = [&](int64_t now, int64_t before) {
    return seconds <= 0 ? 0.0 : static_cast<double>(now - before) / seconds;
  };
  const auto latency = [](JsonWriter& json, const char* name, const RecentLatency::Summary& summary) {
    json.Key(name).Object().Key("p50");
    summary.p50_ms < 0 ? json.Null() : json.Number(summary.p50_ms);
    json.Key("p99");
    summary.p99_ms < 0 ? json.Null() : json.Number(summary.p99_ms);
    json.EndObject();
  };
  JsonWriter json;
  json.Object()
      .Member("time_us", now_us)
      .Member("running", stats.running)
      .Member("waiting", stats.waiting)
      .Member("kv_usage", stats.kv_usage)
      .Member("prompt_tokens_per_second", rate(stats.prompt_tokens, last_.prompt_tokens))
      .Member("generation_tokens_per_second", rate(stats.generation_tokens, last_.generation_tokens))
      .Member("steps_per_second", rate(stats.steps, last_.steps))
      .Member("prompt_tokens", stats.prompt_tokens)
      .Member("generation_tokens", stats.generation_tokens)
      .Member("steps", stats.steps)
      .Member("preemptions", stats.preemptions)
      .Member("prefix_queries", stats.prefix_queries)
      .Member("prefix_hits", stats.prefix_hits)
      .Member("last_step_us", stats.last_step_us)
      .Member("last_step_tokens", stats.last_step_tokens);
  latency(json, "ttft_ms", first_token_.Take());
  latency(json, "itl_ms", inter_token_.Take());
  return fmt::format("event: stats\ndata: {}\n\n", json.EndObject().str());
}

std::string EngineEvents::ExpertsEvent() {
  const Engine::ExpertLoad load = engine_.GetExpertLoad();
  if (load.counts.empty()) return {};
  if (last_counts_.size() != load.counts.size()) {  // the first tick that is watched: from here on
    last_counts_ = load.counts;
    return {};
  }
  if (last_counts_ == load.counts) return {};
  std::string out =
      fmt::format("event: experts\ndata: {{\"layers\":{},\"experts\":{},\"tokens\":[", load.layers, load.experts);
  auto to = std::back_inserter(out);
  for (size_t layer = 0; layer < static_cast<size_t>(load.layers); ++layer) {
    out += layer == 0 ? "[" : ",[";
    for (size_t i = 0; i < static_cast<size_t>(load.experts); ++i) {
      const size_t at = layer * static_cast<size_t>(load.experts) + i;
      if (i > 0) out += ',';
      fmt::format_to(to, "{}", load.counts[at] - last_counts_[at]);
    }
    out += ']';
  }
  out += "]}\n\n";
  last_counts_ = load.counts;
  return out;
}

void EngineEvents::Tick(const EngineStats& stats, int64_t now_us) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(watchers_, [](const auto& watcher) { return watcher->gone.load(); });
    watchers = watchers_;
  }
  const bool watched = !watchers.empty();
  if (watched) {
    const auto text = std::make_shared<const std::string>(StatsEvent(stats, now_us) + ExpertsEvent());
    for (const auto& watcher : watchers) {
      watcher->reply->Post([watcher, text] { watcher->reply->Write(*text, 0); });
    }
  } else {
    first_token_.Take();
    inter_token_.Take();
    last_counts_.clear();
  }
  last_ = stats;
  last_us_ = now_us;
}

void EngineEvents::EndAll() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    watchers.swap(watchers_);
  }
  for (const auto& watcher : watchers) {
    watcher->reply->Post([watcher] { watcher->reply->End(); });
  }
}

}  // namespace minimo::server
