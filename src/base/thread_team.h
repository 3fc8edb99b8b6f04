// A persistent team of threads that runs one parallel region at a time: the caller is member 0. Workers spin for a
// while after a region and then sleep, so that back-to-back operators cost a barrier and no wake-up.
//
// A region has one part a member. The caller takes over parts that nobody has begun by the time its own is done, so a
// worker that sleeps, or whose core runs something else, delays nobody: the caller waits for begun parts alone.
//
// Thread rule: Run is called by one thread at a time. Regions do not nest.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/numa.h"

namespace minimo {

class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);  // >= 1; 0: all cores this process may use
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Binds each worker to a core of its own, the first left to the caller, if the team has as many members as this
  // process may use cores; otherwise does nothing, for others may count on the same cores.
  void PinWorkers();
  // Binds the calling thread to the first core (or node) if the workers are bound. For a thread that from now on does
  // little else than call Run: threads that it starts inherit its core. Left free, it is moved to a worker's core now
  // and then when something else runs on its own, and both share that core for a step or more.
  void PinCaller();

  // Shares the members out over memory nodes, as many to each in turn from the first on, and binds workers to the cores
  // of theirs. Does nothing for fewer than two nodes or fewer members than nodes.
  void SpreadOver(std::vector<NumaNode> nodes);
  int nodes() const { return nodes_.empty() ? 1 : static_cast<int>(nodes_.size()); }
  // The node (an index) whose rows part `part` of a region computes first; -1 as an id: pages lie wherever.
  int NodeOf(int part) const { return nodes_.empty() ? 0 : part * nodes() / size(); }
  int NodeId(int node) const { return nodes_.empty() ? -1 : nodes_[static_cast<size_t>(node)].id; }

  // fn(begin, end) over the rows of a matrix, each range run by members of the node where they shall lie and touched
  // first there, cut at multiples of kNodeRows.
  template <typename Fn>
  void ParallelForRows(int64_t rows, Fn&& fn) {
    Run([&](int part) {
      const int node = NodeOf(part), parts_before = FirstPart(node);
      const auto [first, last] = RowsOfNode(rows, nodes(), node);
      const int64_t units = (last - first + kNodeRows - 1) / kNodeRows;
      const auto [begin, end] = Split(units, FirstPart(node + 1) - parts_before, part - parts_before);
      if (begin == end) return;
      const PlacePages place(NodeId(node));
      fn(first + begin * kNodeRows, end == units ? last : first + end * kNodeRows);
    });
  }

  // fn(part) for each part in [0, size()), once, on any member; returns when all are done.
  template <typename Fn>
  void Run(Fn&& fn) {
    if (workers_.empty()) {
      fn(0);
      return;
    }
    RunErased([](void* context, int part) { (*static_cast<std::remove_reference_t<Fn>*>(context))(part); },
              const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // fn(begin, end) over [0, count) in one contiguous range a member, cut at multiples of `grain`.
  template <typename Fn>
  void ParallelFor(int64_t count, int64_t grain, Fn&& fn) {
    const int64_t units = (count + grain - 1) / grain;
    if (units <= 1 || workers_.empty()) {
      if (count > 0) fn(int64_t{0}, count);
      return;
    }
    Run([&](int part) {
      const auto [begin, end] = Split(units, size(), part);
      if (begin < end) fn(begin * grain, end * grain < count ? end * grain : count);
    });
  }

  // fn(index) over [0, count), handed out one by one: for work of uneven size.
  template <typename Fn>
  void ParallelForDynamic(int64_t count, Fn&& fn) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) fn(i);
      return;
    }
    std::atomic<int64_t> next{0};
    Run([&](int) {
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) fn(i);
    });
  }

  // The part-th of `parts` nearly equal ranges of [0, count).
  static std::pair<int64_t, int64_t> Split(int64_t count, int parts, int part) {
    return {count * part / parts, count * (part + 1) / parts};
  }

 private:
  int FirstPart(int node) const {  // of a node: the least part whose NodeOf is it
    return nodes_.empty() ? (node == 0 ? 0 : size()) : (node * size() + nodes() - 1) / nodes();
  }

  using Region = void (*)(void* context, int part);
  // Numbers of the last region whose part of this index was begun, and was done.
  struct alignas(64) Part {
    std::atomic<uint64_t> begun{0};
    std::atomic<uint64_t> done{0};
  };
  void RunErased(Region region, void* context);
  void WorkerLoop(int member);
  bool Begin(int part, uint64_t region);

  std::vector<std::thread> workers_;
  std::unique_ptr<Part[]> parts_;
  std::vector<int> cores_;     // that this process may use
  std::vector<NumaNode> nodes_;  // two and more, or none
  bool more_than_cores_ = false;
  bool pinned_ = false;
  alignas(64) std::atomic<uint64_t> region_number_{0};
  Region region_ = nullptr;  // of region_number_, with context_: read by whoever has begun a part of it
  void* context_ = nullptr;
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Cores this process may use (its affinity mask), at least 1.
int AvailableCores();

// The machine's memory nodes, by the cores that this process may use.
std::vector<NumaNode> UsableNodes();

}  // namespace minimo
