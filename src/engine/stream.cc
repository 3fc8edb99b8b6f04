#include "minimo/stream.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"

namespace minimo {

struct Stream::Shared {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Event> events;
  int open_choices = 1;  // choices whose last event has not come yet
  bool waiting = false;  // the reader sleeps in Next, or has been woken there and has not run yet

  // On the engine's thread, which may be bound to a core and is never done with it. A reader that has been woken for an
  // earlier event and has not run since may wait for this core until the system takes it away: for milliseconds, in
  // which a small model says dozens of tokens that the reader may not want. It is woken without the lock, for on this
  // core it would run at once, into the lock.
  void Push(Event&& event) {
    bool starved;
    {
      std::lock_guard lock(mutex);
      starved = waiting && !events.empty();
      open_choices -= event.finish != FinishReason::kNone;
      events.push_back(std::move(event));
    }
    wake.notify_one();
    if (starved) std::this_thread::yield();
  }
  // Requires the mutex and an event or the end.
  std::optional<Event> Pop() {
    if (events.empty()) return std::nullopt;
    Event event = std::move(events.front());
    events.pop_front();
    return event;
  }
  bool Ready() const { return !events.empty() || open_choices == 0; }
};

Stream::Stream(Engine& engine, std::shared_ptr<Shared> shared) : engine_(engine), shared_(std::move(shared)) {}

Result<std::unique_ptr<Stream>> Stream::Submit(Engine& engine, Request request) {
  auto shared = std::make_shared<Shared>();
  shared->open_choices = request.n;
  std::unique_ptr<Stream> stream(new Stream(engine, shared));
  auto id = engine.Submit(std::move(request), [shared](Event&& event) { shared->Push(std::move(event)); });
  if (!id.ok()) {
    shared->open_choices = 0;  // nothing to cancel
    return id.error();
  }
  stream->id_ = std::move(*id);
  return stream;
}

Stream::~Stream() {
  std::unique_lock lock(shared_->mutex);
  const bool running = shared_->open_choices > 0;
  lock.unlock();
  if (running) Cancel();
}

std::optional<Event> Stream::Next() {
  std::unique_lock lock(shared_->mutex);
  shared_->waiting = true;
  shared_->wake.wait(lock, [&] { return shared_->Ready(); });
  shared_->waiting = false;
  return shared_->Pop();
}

std::optional<Event> Stream::Next(std::chrono::microseconds timeout) {
  std::unique_lock lock(shared_->mutex);
  shared_->waiting = true;
  shared_->wake.wait_for(lock, timeout, [&] { return shared_->Ready(); });
  shared_->waiting = false;
  return shared_->Pop();
}

bool Stream::ended() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->events.empty() && shared_->open_choices == 0;
}

void Stream::Cancel() { engine_.Cancel(id_); }

Result<std::vector<Completion>> Generate(Engine& engine, Request request) {
  std::vector<Completion> choices(request.n > 0 ? static_cast<size_t>(request.n) : 0);
  MINIMO_ASSIGN(auto stream, Stream::Submit(engine, std::move(request)));
  while (auto event = stream->Next()) {
    if (event->finish == FinishReason::kError) return Error{event->error};
    Completion& choice = choices[static_cast<size_t>(event->choice)];
    choice.text += event->text;
    for (OutputToken& token : event->tokens) choice.tokens.push_back(std::move(token));
    if (!event->prompt_logprobs.empty()) choice.prompt_logprobs = std::move(event->prompt_logprobs);
    choice.finish = event->finish;
    choice.stop_reason = std::move(event->stop_reason);
    choice.usage = event->usage;
    choice.timing = event->timing;
  }
  return choices;
}

}  // namespace minimo
