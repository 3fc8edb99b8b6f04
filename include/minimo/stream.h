// Blocking use of an engine, for programs that have a thread to wait with.
//
//   MINIMO_ASSIGN(auto stream, Stream::Submit(*engine, request));
//   while (auto event = stream->Next()) std::cout << event->text;
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "minimo/engine.h"
#include "minimo/request.h"
#include "minimo/result.h"

namespace minimo {

// The events of one request. One thread reads it; Cancel may come from any. Ends with all n choices; destroying it
// earlier cancels the request. The engine must outlive it.
class Stream {
 public:
  static Result<std::unique_ptr<Stream>> Submit(Engine& engine, Request request);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Waits for the next event. nullopt: every choice has ended.
  std::optional<Event> Next();
  // Likewise, at most this long. nullopt: ended, or the time is up; ended() tells which.
  std::optional<Event> Next(std::chrono::microseconds timeout);

  bool ended() const;
  void Cancel();
  const std::string& id() const { return id_; }

 private:
  struct Shared;
  Stream(Engine& engine, std::shared_ptr<Shared> shared);

  Engine& engine_;
  std::shared_ptr<Shared> shared_;  // with the sink, which may be called for a while after this is gone
  std::string id_;
};

// One whole choice.
struct Completion {
  std::string text;
  std::vector<OutputToken> tokens;
  std::vector<OutputToken> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string stop_reason;
  Usage usage;
  Timing timing;
};

// Runs a request to its end: its n choices in order. An error of one choice is the error of all.
Result<std::vector<Completion>> Generate(Engine& engine, Request request);

}  // namespace minimo
