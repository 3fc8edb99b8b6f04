// The executor as the engine's thread calls it, so that another thread can tell whether it is in a call, and if that
// call never comes back, act in its stead.
#pragma once

#include <atomic>

#include "base/error.h"
#include "engine/executor.h"

namespace minimo {

class WatchedExecutor final : public Executor {
 public:
  explicit WatchedExecutor(Executor& executor) : executor_(executor) {}

  // True if the engine's thread is in a call: from now on everything of the engine is the caller's, and when the call
  // comes back after all, it fails and `abandoned`. Any thread.
  bool Abandon() {
    Place in_call = Place::kInCall;
    return place_.compare_exchange_strong(in_call, Place::kAbandoned, std::memory_order_acq_rel);
  }
  bool abandoned() const { return place_.load(std::memory_order_acquire) == Place::kAbandoned; }

  const KvLayout& kv_layout() const override { return executor_.kv_layout(); }
  int vocab_size() const override { return executor_.vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override {
    return Call([&] { return executor_.Run(step, output); });
  }
  bool OffersCandidates() const override { return executor_.OffersCandidates(); }
  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override {
    return Call([&] { return executor_.FetchLogits(rows, output); });
  }
  bool BeginsAhead() const override { return executor_.BeginsAhead(); }
  Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) override {
    return Call([&] { return executor_.StartNext(step, tokens); });
  }
  Engine::ExpertLoad GetExpertLoad() const override { return executor_.GetExpertLoad(); }
  Status Check() const override { return executor_.Check(); }
  bool MayNotReturn() const override { return executor_.MayNotReturn(); }

 private:
  enum class Place { kEngine, kInCall, kAbandoned };

  template <typename Body>
  Status Call(const Body& body) {
    place_.store(Place::kInCall, std::memory_order_release);
    const Status status = body();
    Place in_call = Place::kInCall;
    const bool back = place_.compare_exchange_strong(in_call, Place::kEngine, std::memory_order_acq_rel);
    return back ? status : Status(Error{"given up before it came back"});
  }

  Executor& executor_;
  std::atomic<Place> place_{Place::kEngine};
};

}  // namespace minimo
