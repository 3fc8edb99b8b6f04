#include "engine/engine_thread.h"

#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "minimo/engine_observer.h"

namespace minimo {
namespace {

// Copies of the expert counters (127 KB for 62 layers of 256) this far apart cost nothing measurable, and a dashboard
// at 10 Hz sees no older ones.
constexpr int64_t kExpertLoadEveryUs = 100'000;
constexpr std::chrono::seconds kIdleCheck{1};
// A call that has not come back this long after a rank was lost does not.
constexpr std::chrono::milliseconds kWatch{100}, kComesBack{300};

AdmissionLimits Limits(const EngineParts& parts) {
  AdmissionLimits limits;
  const KvLayout& layout = parts.executor->kv_layout();
  limits.vocab_size = parts.executor->vocab_size();
  limits.max_model_len = parts.scheduler.max_model_len;
  limits.kv_capacity_tokens = int64_t{layout.num_blocks} * layout.block_size;
  limits.eos_ids = parts.eos_ids;
  limits.tokenizer = parts.tokenizer.get();
  return limits;
}

}  // namespace

EngineThread::EngineThread(EngineParts parts)
    : parts_(std::move(parts)),
      limits_(Limits(parts_)),
      executor_(*parts_.executor),
      core_({&executor_, parts_.tokenizer.get(), &clock_, parts_.team, &mail_, parts_.replicas},
            parts_.scheduler, parts_.kv),
      stats_(core_.Stats()),
      expert_load_(parts_.executor->GetExpertLoad()),
      thread_([this] { Loop(); }) {
  if (executor_.MayNotReturn()) watch_ = std::thread([this] { Watch(); });
}

EngineThread::~EngineThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  stopped_.notify_one();
  if (watch_.joinable()) watch_.join();
  thread_.join();
}

Result<std::string> EngineThread::Submit(Request request, EventSink sink) {
  const std::string asked_id = request.id;
  MINIMO_ASSIGN(auto live, Admit(std::move(request), std::move(sink), limits_));
  live->arrival_us = clock_.NowUs();
  if (const Status check = parts_.executor->Check(); !check.ok()) {
    return Errorf("the engine has failed: {}", check.error().message);
  }
  std::unique_lock lock(mutex_);
  if (!fault_.empty()) return Errorf("the engine has failed: {}", fault_);
  if (stop_) return Error{"the engine is shutting down"};
  if (parts_.max_queue > 0 && queued_ >= parts_.max_queue) {
    return Errorf("{}: {} requests wait, the limit is {}; try again later", kQueueFull, queued_, parts_.max_queue);
  }
  std::string id = asked_id;
  while (id.empty() || (asked_id.empty() && live_ids_.count(id) > 0)) id = fmt::format("request-{}", next_id_++);
  if (!live_ids_.insert(id).second) return Errorf("request id \"{}\" is in use by a live request", id);
  live->request.id = id;
  inbox_.push_back({std::move(live), {}});
  ++queued_;
  mail_.store(true, std::memory_order_relaxed);
  lock.unlock();  // before the engine's thread wakes up, on this core perhaps, and wants it
  wake_.notify_one();
  return id;
}

void EngineThread::Cancel(const std::string& id) {
  {
    std::lock_guard lock(mutex_);
    if (live_ids_.count(id) == 0) return;
    inbox_.push_back({nullptr, id});
    mail_.store(true, std::memory_order_relaxed);
  }
  wake_.notify_one();
}

EngineStats EngineThread::Stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting = queued_;
  return stats;
}

void EngineThread::SetObserver(std::shared_ptr<EngineObserver> observer) {
  std::lock_guard lock(observer_mutex_);
  observer_ = std::move(observer);
}

Engine::ExpertLoad EngineThread::GetExpertLoad() const {
  std::lock_guard lock(mutex_);
  return expert_load_;
}

// Waits for messages while there is no work, but not for ever: an idle engine looks after its ranks too. False: the
// engine is to stop.
bool EngineThread::TakeInbox(std::vector<Message>* messages) {
  messages->clear();
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, kIdleCheck, [&] { return stop_ || !inbox_.empty() || core_.HasWork(); });
  messages->swap(inbox_);
  mail_.store(false, std::memory_order_relaxed);
  return !stop_;
}

void EngineThread::Loop() {
  if (parts_.team != nullptr) parts_.team->PinCaller();
  std::vector<Message> messages;
  for (bool running = true; running;) {
    running = TakeInbox(&messages);
    for (Message& message : messages) {
      if (message.request != nullptr) {
        core_.Add(std::move(message.request));
      } else {
        core_.Cancel(message.cancel_id, &outbox_);
      }
    }
    Status status;
    if (!running) {
      core_.EndAll(FinishReason::kCancelled, "", &outbox_);
    } else if (core_.HasWork()) {
      status = Step(&outbox_);
      if (status.ok()) continue;  // and all is sent
      if (executor_.abandoned()) return;
    } else if (healthy_.load(std::memory_order_relaxed)) {
      status = parts_.executor->Check();
    }
    if (!status.ok()) Fail(status.error().message, &outbox_);
    Send(&outbox_);
  }
}

// Answers everyone, should a rank be lost and the engine's thread not come back from its executor to do so.
void EngineThread::Watch() {
  std::unique_lock lock(mutex_);
  for (std::chrono::milliseconds lost{0}; !stopped_.wait_for(lock, kWatch, [&] { return stop_; });) {
    lock.unlock();
    const Status check = executor_.Check();
    if (!check.ok()) lost += kWatch;
    if (lost > kComesBack && executor_.Abandon()) {
      Fail(check.error().message, &outbox_);
      Send(&outbox_);
      return;
    }
    lock.lock();
  }
}

Status EngineThread::Step(Outbox* outbox) {
  MINIMO_TRY(core_.Step());
  int groups = 0;
  do {
    MINIMO_TRY(core_.Answer(outbox));
    Send(outbox);
    ++groups;
  } while (!core_.Answered());
  {
    const std::lock_guard lock(observer_mutex_);
    if (observer_ != nullptr) observer_->OnStep(core_.last_step());
  }
  // Whoever writes many tokens may wait for this core: behind the next step they would be milliseconds late. With few a
  // step is short, and to give the core away costs more, where others want it.
  if (groups > 1) std::this_thread::yield();
  return {};
}

// From here on Submit refuses; what it let in before is answered here.
void EngineThread::Fail(const std::string& error, Outbox* outbox) {
  LogError("the engine has failed, every request is answered with the error: {}", error);
  std::vector<Message> messages;
  {
    std::lock_guard lock(mutex_);
    fault_ = error.empty() ? "unknown fault" : error;
    messages.swap(inbox_);
  }
  healthy_.store(false, std::memory_order_release);
  for (Message& message : messages) {
    if (message.request != nullptr) core_.Add(std::move(message.request));
  }
  core_.EndAll(FinishReason::kError, error, outbox);
}

void EngineThread::Send(Outbox* outbox) {
  // Before the sinks hear of an end: the id is free again, and Stats shows the blocks as given back.
  Publish(*outbox);
  for (Delivery& delivery : outbox->deliveries) delivery.request->sink(std::move(delivery.event));
  {
    std::lock_guard lock(observer_mutex_);
    if (observer_ != nullptr) {
      if (!outbox->deliveries.empty()) observer_->OnSent();
      for (const FinishedStats& stats : outbox->finished) observer_->OnFinished(stats);
    }
  }
  outbox->Clear();
}

void EngineThread::Publish(const Outbox& outbox) {
  const int64_t now_us = clock_.NowUs();
  const bool copy_load =
      !executor_.abandoned() && (!core_.HasWork() || now_us - expert_load_us_ >= kExpertLoadEveryUs);
  ExpertLoad load;
  if (copy_load) {
    load = parts_.executor->GetExpertLoad();
    expert_load_us_ = now_us;
  }
  std::lock_guard lock(mutex_);
  stats_ = core_.Stats();
  queued_ = core_.num_waiting();
  for (const Message& message : inbox_) queued_ += message.request != nullptr;
  for (const auto& request : outbox.ended) live_ids_.erase(request->request.id);
  if (copy_load) expert_load_ = std::move(load);
}

}  // namespace minimo
