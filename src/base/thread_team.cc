#include "base/thread_team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

namespace minimo {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Before a worker sleeps: longer than the serial gaps within a decode step and between two, short enough that an idle
// engine costs nothing.
constexpr auto kWorkerSpin = microseconds(300);
// The same where there are more members than cores: whom a spinning worker waits for may need its core.
constexpr auto kCrowdedSpin = microseconds(5);
// Before who spins offers its core after every round: longer than the gaps within a step, shorter than the time in
// which its tokens are chosen and written, by threads that may have this core alone.
constexpr auto kAlone = microseconds(20);
// Before the caller, which never sleeps, offers its core after every round.
constexpr auto kCallerSpin = microseconds(50);
// A round of kPauses takes 2 to 5 us. One that took longer than this was interrupted: the core is shared with others,
// and who sleeps there is scheduled sooner after a wake-up than who has spent its time spinning.
constexpr auto kInterrupted = microseconds(50);
constexpr int kPauses = 64;

std::vector<int> UsableCores() {
  std::vector<int> cores;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void Bind(pthread_t thread, std::span<const int> cores) {  // a refusal only costs speed
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  pthread_setaffinity_np(thread, sizeof set, &set);
}

// Waits until done(), `limit` has passed or the core was taken away; true if done.
template <typename Done>
bool SpinUntil(steady_clock::duration limit, Done&& done) {
  auto now = steady_clock::now();
  const auto offer = now + kAlone, deadline = now + limit;
  while (true) {
    for (int i = 0; i < kPauses; ++i) {
      if (done()) return true;
      CpuRelax();
    }
    if (now >= offer) std::this_thread::yield();
    const auto before = now;
    now = steady_clock::now();
    if (now >= deadline || now - before > kInterrupted) return done();
  }
}

}  // namespace

int AvailableCores() { return std::max<int>(1, static_cast<int>(UsableCores().size())); }

std::vector<NumaNode> UsableNodes() { return ReadNumaNodes(UsableCores()); }

ThreadTeam::ThreadTeam(int threads) : cores_(UsableCores()) {
  const int available = std::max<int>(1, static_cast<int>(cores_.size()));
  const int count = threads > 0 ? threads : available;
  more_than_cores_ = count > available;
  parts_ = std::make_unique<Part[]>(static_cast<size_t>(count));
  for (int member = 1; member < count; ++member) workers_.emplace_back([this, member] { WorkerLoop(member); });
}

ThreadTeam::~ThreadTeam() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    region_number_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::PinWorkers() {
  if (cores_.size() != static_cast<size_t>(size())) return;
  for (size_t i = 0; i < workers_.size(); ++i) Bind(workers_[i].native_handle(), {&cores_[i + 1], 1});
  pinned_ = true;
}

void ThreadTeam::PinCaller() {
  if (!nodes_.empty()) return Bind(pthread_self(), nodes_[0].cores);
  if (pinned_) Bind(pthread_self(), {&cores_[0], 1});
}

void ThreadTeam::SpreadOver(std::vector<NumaNode> nodes) {
  if (nodes.size() < 2 || static_cast<int>(nodes.size()) > std::min(size(), kMaxNumaNodes)) return;
  nodes_ = std::move(nodes);
  for (int member = 1; member < size(); ++member) {
    const std::vector<int>& cores = nodes_[static_cast<size_t>(NodeOf(member))].cores;
    Bind(workers_[static_cast<size_t>(member - 1)].native_handle(), cores);
  }
}

// A part goes from region - 1 to region once. Whoever moves it may read region_ and context_ until it is done, for the
// caller begins no other region before.
bool ThreadTeam::Begin(int part, uint64_t region) {
  uint64_t last = region - 1;
  std::atomic<uint64_t>& begun = parts_[part].begun;
  return begun.load(std::memory_order_relaxed) == last &&
         begun.compare_exchange_strong(last, region, std::memory_order_acq_rel);
}

void ThreadTeam::RunErased(Region region, void* context) {
  region_ = region;
  context_ = context;
  // seq_cst: ordered before the look at sleepers_, which a worker raises before it sleeps
  const uint64_t number = region_number_.fetch_add(1) + 1;
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  region(context, 0);
  const int count = size();
  for (int part = 1; part < count; ++part) {
    if (!Begin(part, number)) continue;
    region(context, part);
    parts_[part].done.store(number, std::memory_order_relaxed);
  }
  for (int part = 1; part < count; ++part) {
    const auto done = [&] { return parts_[part].done.load(std::memory_order_acquire) == number; };
    if (SpinUntil(kCallerSpin, done)) continue;
    while (!done()) std::this_thread::yield();
  }
}

void ThreadTeam::WorkerLoop(int member) {
  uint64_t seen = 0;
  const auto limit = more_than_cores_ ? kCrowdedSpin : kWorkerSpin;
  while (true) {
    if (!SpinUntil(limit, [&] { return region_number_.load(std::memory_order_acquire) != seen; })) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return region_number_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    seen = region_number_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!Begin(member, seen)) continue;
    region_(context_, member);
    parts_[member].done.store(seen, std::memory_order_release);
  }
}

}  // namespace minimo
