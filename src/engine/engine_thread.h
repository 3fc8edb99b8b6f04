// The Engine that programs see: an EngineCore, the thread that owns it, and the inbox through which all others reach
// it. CONTRACT.md says who owns what.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "engine/admission.h"
#include "engine/engine_core.h"
#include "engine/watched_executor.h"
#include "minimo/engine.h"
#include "spec/model_spec.h"

namespace minimo {

struct EngineParts {
  std::shared_ptr<const void> model;  // what the executor reads: kept until the engine is gone
  ModelSpec spec;
  std::unique_ptr<Executor> executor;
  ThreadTeam* team = nullptr;            // the executor's own, used between its runs; may be null
  std::unique_ptr<Tokenizer> tokenizer;  // null only in tests: events carry ids alone
  SamplingParams default_params;
  std::vector<int32_t> eos_ids;
  SchedulerOptions scheduler;
  KvCacheOptions kv;
  int max_queue = 0;
  int replicas = 1;  // of attention
};

class EngineThread final : public Engine {
 public:
  explicit EngineThread(EngineParts parts);
  ~EngineThread() override;

  Result<std::string> Submit(Request request, EventSink sink) override;
  void Cancel(const std::string& id) override;
  EngineStats Stats() const override;
  void SetObserver(std::shared_ptr<EngineObserver> observer) override;
  ExpertLoad GetExpertLoad() const override;
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }
  const ModelSpec& model() const override { return parts_.spec; }
  const SamplingParams& default_params() const override { return parts_.default_params; }
  int max_model_len() const override { return parts_.scheduler.max_model_len; }
  bool Healthy() const override {
    return healthy_.load(std::memory_order_acquire) && parts_.executor->Check().ok();
  }

 private:
  // Either a request or the id of one to cancel.
  struct Message {
    std::unique_ptr<LiveRequest> request;
    std::string cancel_id;
  };

  void Loop();
  void Watch();
  bool TakeInbox(std::vector<Message>* messages);
  void Fail(const std::string& error, Outbox* outbox);
  Status Step(Outbox* outbox);
  void Send(Outbox* outbox);
  void Publish(const Outbox& outbox);

  EngineParts parts_;
  SteadyClock clock_;
  AdmissionLimits limits_;
  std::atomic<bool> mail_{false};  // something lies in the inbox
  WatchedExecutor executor_;
  EngineCore core_;  // the engine thread's alone, and so is the outbox
  Outbox outbox_;

  mutable std::mutex mutex_;  // guards what follows up to the blank line
  std::condition_variable wake_;     // the engine's thread
  std::condition_variable stopped_;  // its watch
  std::vector<Message> inbox_;
  int queued_ = 0;  // requests in the inbox, on their way into the core or waiting there
  std::unordered_set<std::string> live_ids_;
  int64_t next_id_ = 0;
  bool stop_ = false;
  std::string fault_;
  EngineStats stats_;
  ExpertLoad expert_load_;

  std::mutex observer_mutex_;  // held while the observer is called
  std::shared_ptr<EngineObserver> observer_;
  std::atomic<bool> healthy_{true};
  int64_t expert_load_us_ = 0;  // engine thread: when expert_load_ was copied last
  std::thread thread_;  // with watch_ last: everything above exists when it starts
  std::thread watch_;   // where the executor may not return
};

}  // namespace minimo
