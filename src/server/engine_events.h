// GET /v1/engine/events: what the engine does, as a small stream of server-sent events at 10 Hz, made once for all
// watchers. docs/api.md describes the stream.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "minimo/engine.h"
#include "server/http_types.h"
#include "server/recent_latency.h"

namespace minimo::server {

class EngineEvents {
 public:
  EngineEvents(const Engine& engine, RecentLatency& first_token, RecentLatency& inter_token, std::string model_name,
               int max_num_seqs);

  // Joins the watchers; the stream lasts until the client leaves or the server drains.
  void Watch(HttpRequest&& request, ReplyPtr reply);

  // Called about ten times a second by one thread: sends to the watchers, if there are any.
  void Tick(const EngineStats& stats, int64_t now_us);

  void EndAll();

 private:
  struct Watcher;
  std::string StatsEvent(const EngineStats& stats, int64_t now_us);
  std::string ExpertsEvent();  // "" if no expert was used since the last

  const Engine& engine_;
  RecentLatency& first_token_;
  RecentLatency& inter_token_;
  const std::string model_name_;
  const int max_num_seqs_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Watcher>> watchers_;  // guarded by mutex_
  bool ended_ = false;                              // guarded by mutex_
  EngineStats last_;
  int64_t last_us_ = 0;
  std::vector<int64_t> last_counts_;
};

}  // namespace minimo::server
