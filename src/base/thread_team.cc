#include "base/thread_team.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace minimo {
namespace {

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Spins before a worker sleeps: longer than the serial gaps within a decode step (tens of us), short enough that an
// idle engine costs nothing.
constexpr auto kSpin = std::chrono::microseconds(200);
// Pauses before the first yield, about 5 us: most barriers are shorter. Beyond it the core is offered to others after
// every round, for where there are fewer cores than threads the one waited for may be waiting for this core.
constexpr int kPauses = 128;

// Waits until done() or kSpin has passed; true if done.
template <typename Done>
bool SpinUntil(Done&& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (true) {
    for (int i = 0; i < kPauses; ++i) {
      if (done()) return true;
      CpuRelax();
    }
    if (std::chrono::steady_clock::now() >= deadline) return done();
    std::this_thread::yield();
  }
}

}  // namespace

int AvailableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::max(1u, std::thread::hardware_concurrency());
  return std::max(1, CPU_COUNT(&set));
}

ThreadTeam::ThreadTeam(int threads) {
  const int count = threads > 0 ? threads : AvailableCores();
  for (int member = 1; member < count; ++member) workers_.emplace_back([this, member] { WorkerLoop(member); });
}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::RunErased(Region region, void* context) {
  region_ = region;
  context_ = context;
  remaining_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // seq_cst: ordered before the look at sleepers_, which a worker raises before it sleeps
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  region(context, 0);
  while (remaining_.load(std::memory_order_acquire) != 0) {
    if (SpinUntil([&] { return remaining_.load(std::memory_order_acquire) == 0; })) break;
  }
}

void ThreadTeam::WorkerLoop(int member) {
  uint64_t seen = 0;
  while (true) {
    const auto begun = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (!SpinUntil(begun)) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    region_(context_, member);
    remaining_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace minimo
