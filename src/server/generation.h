// One HTTP request's work in the engine, from submission to the last event, whatever the protocol: admission, events
// carried from the engine's thread to the connection's, cancellation when the client leaves, metrics, the log line.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "minimo/engine.h"
#include "minimo/request.h"
#include "server/api_error.h"
#include "server/http_types.h"

namespace minimo::server {

class Metrics;

// How many sequences the server lets into the engine: those that run and a queue behind them. Thread-safe.
class Admission {
 public:
  explicit Admission(int capacity) : capacity_(capacity) {}  // sequences; 0: no limit

  // Takes `sequences` places, or none. A request larger than the whole capacity enters when nothing else is in.
  bool Enter(int sequences);
  void Leave(int sequences) { inside_.fetch_sub(sequences); }
  int inside() const { return inside_.load(); }

  // Requests that anybody still refers to, the engine's thread included: the server ends when there are none.
  int alive() const { return alive_.load(); }

 private:
  friend class Generation;
  const int capacity_;
  std::atomic<int> inside_{0};
  std::atomic<int> alive_{0};
};

// How a protocol writes what the engine produces. Called on the connection's thread.
class OutputWriter {
 public:
  virtual ~OutputWriter() = default;
  // The engine has taken the request. Streams begin here.
  virtual void OnAccepted() = 0;
  // News of choice prompt * n + event.choice, in order for each choice. The last one has event.finish.
  virtual void OnEvent(int choice, Event&& event) = 0;
  // Every choice has ended: write the end, or the whole answer.
  virtual void OnComplete() = 0;
  // The work failed, before or after OnAccepted; write the error and end. Nothing is called after.
  virtual void OnFailure(const ApiError& error) = 0;
};

struct GenerationContext {
  Engine& engine;
  Metrics& metrics;
  Admission& admission;
};

class Generation final : public IoTask, public std::enable_shared_from_this<Generation> {
 public:
  struct Origin {  // for the log line
    std::string path;
    std::string request_id;
    std::string peer;
    std::string user;
    int64_t received_us = 0;
    bool stream = false;
  };

  // One engine request a prompt, all with the same n. Everything that follows happens through `writer`.
  static void Start(const GenerationContext& context, ReplyPtr reply, Origin origin, std::vector<Request> prompts,
                    std::unique_ptr<OutputWriter> writer);

  ~Generation() override;

  void Run() override { Deliver(); }  // the connection's thread

 private:
  struct Choice {
    bool finished = false;
    Usage usage;
  };
  struct Mail {
    int choice;
    Event event;
  };

  Generation(const GenerationContext& context, ReplyPtr reply, Origin origin, std::unique_ptr<OutputWriter> writer);
  void Submit(std::vector<Request> prompts);
  void Receive(int choice, Event&& event);  // the engine's thread
  void Deliver();                           // the connection's thread
  void DeliverOne(Mail&& mail);
  void Fail(const ApiError& error);
  void CancelAll();
  void LogLine(int status, const std::string& outcome);

  GenerationContext context_;
  ReplyPtr reply_;
  Origin origin_;
  std::unique_ptr<OutputWriter> writer_;
  std::vector<std::string> engine_ids_;
  std::vector<Choice> choices_;
  int n_ = 1;
  int places_ = 0;  // taken from admission
  int unfinished_ = 0;
  bool over_ = false;  // completed, failed or abandoned: later events are dropped
  Timing first_timing_;
  FinishReason last_finish_ = FinishReason::kNone;

  std::vector<Mail> delivering_;  // the connection's thread; empty between, it keeps its room

  std::mutex mutex_;
  std::vector<Mail> mail_;  // guarded by mutex_
};

}  // namespace minimo::server
