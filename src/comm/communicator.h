// What ranks say to each other. A rank is a thread of this process (threads.h), an MPI process (mpi.h) or alone; GPUs
// talk through nccl.h. Every collective is called by all ranks of the group, in the same order.
//
// Determinism: sums are taken in the order of the ranks, element by element, so all ranks hold bit-equal results and a
// rerun gives the same bits.
//
// Failure: a rank that dies, hangs longer than the timeout or calls Abort makes the running and every later call of
// every rank return the same kind of error, also in the groups split from this one. No collective of ours waits for
// ever; MPI itself may, in any of its calls, once a connection has broken: Lost tells others of a call that has not
// come back.
//
// Thread rule: one thread at a time; Abort from any thread. Lifetime: groups made by Split keep what they need.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "minimo/result.h"

namespace minimo {

// A rank that is silent this long inside a collective is lost: below the 10 s within which a failure must be known.
inline constexpr int kDefaultCommTimeoutMs = 8000;

// The first failure of a world of ranks in this process; shared by all groups split from it.
class AbortState {
 public:
  bool aborted() const { return aborted_.load(std::memory_order_acquire); }
  void Set(std::string why);  // the first caller's words stay
  Error error() const;        // requires aborted()

  // When the call that is under way must have come back, by the steady clock; 0: none, or one that is sure to.
  std::atomic<int64_t> returns_by_us{0};

 private:
  std::atomic<bool> aborted_{false};
  mutable std::mutex mutex_;
  std::string why_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual const char* backend() const = 0;  // "alone", "threads", "mpi"

  // values [count] float32, in place: the sum over ranks.
  Status AllReduceSum(std::span<float> values);

  // values [sum of counts] float32; mine [counts[rank()]] receives the sum over ranks of this rank's part, where rank
  // r's part begins after those of ranks 0..r-1.
  Status ReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts, std::span<float> mine);

  // all = the parts of all ranks in order; rank r's part has counts[r] elements.
  template <typename T>
  Status AllGatherV(std::span<const T> mine, std::span<const int64_t> counts, std::span<T> all) {
    static_assert(std::is_trivially_copyable_v<T>);
    return GatherBytes(std::as_bytes(mine), Scaled(counts, sizeof(T)), std::as_writable_bytes(all));
  }
  template <typename T>
  Status AllGather(std::span<const T> mine, std::span<T> all) {  // all.size() == size() * mine.size()
    return AllGatherV<T>(mine, std::vector<int64_t>(size_, static_cast<int64_t>(mine.size())), all);
  }
  // The parts of all ranks, whose sizes they need not know beforehand.
  Result<std::vector<std::vector<std::byte>>> AllGatherBytes(std::span<const std::byte> mine);

  // Rank r gets send_counts[r] elements of `send` (parts in rank order); `receive` holds what came, in rank order.
  template <typename T>
  Status AllToAllV(std::span<const T> send, std::span<const int64_t> send_counts, std::span<T> receive,
                   std::span<const int64_t> receive_counts) {
    static_assert(std::is_trivially_copyable_v<T>);
    return ExchangeBytes(std::as_bytes(send), Scaled(send_counts, sizeof(T)), std::as_writable_bytes(receive),
                         Scaled(receive_counts, sizeof(T)));
  }

  // data on `root` reaches all ranks; the size is the same everywhere.
  Status Broadcast(std::span<std::byte> data, int root);
  // As Broadcast, of a size that only `root` knows.
  Status BroadcastBytes(std::vector<std::byte>* data, int root);

  Status Barrier();

  // The ranks of one colour form a group, ordered by (key, rank). Collective over this group.
  Result<std::unique_ptr<Communicator>> Split(int color, int key);

  // Ends the group with an error that says why. Any thread.
  void Abort(std::string why);
  bool failed() const { return abort_->aborted(); }
  Error failure() const { return abort_->error(); }  // requires failed()

  // For those who look after the rank that calls: failed(), which it is too from when a call should have come back long
  // ago. Any thread.
  bool Lost();
  // Whether a call may never come back, failed() or not.
  virtual bool MayNotReturn() const { return false; }

  // How long a collective waits for the slowest rank; loading wants more than serving. Not collective; any thread.
  void set_timeout_ms(int ms) { timeout_ms_ = ms; }
  int timeout_ms() const { return timeout_ms_; }

 protected:
  Communicator(int rank, int size, int timeout_ms, std::shared_ptr<AbortState> abort)
      : abort_(std::move(abort)), rank_(rank), size_(size), timeout_ms_(timeout_ms) {}

  // The backend's part. Sizes have been checked against this rank's own arguments; size() > 1; not yet failed.
  virtual Status DoAllReduceSum(std::span<float> values);  // here: by way of DoExchange and DoGather
  virtual Status DoReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts,
                                    std::span<float> mine);  // here: by way of DoExchange
  virtual Status DoGather(std::span<const std::byte> mine, std::span<const int64_t> bytes,
                          std::span<std::byte> all) = 0;
  virtual Status DoExchange(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                            std::span<std::byte> receive, std::span<const int64_t> receive_bytes) = 0;
  virtual Status DoBroadcast(std::span<std::byte> data, int root) = 0;
  virtual Status DoBarrier() = 0;
  virtual Result<std::unique_ptr<Communicator>> DoSplit(int color, int key) = 0;
  virtual void OnAbort() {}

  // Marks the world failed and returns its first error.
  Error Fail(std::string why);

  // A call that may not return, while it lasts.
  class Call {
   public:
    explicit Call(Communicator& comm);
    ~Call() { state_.returns_by_us = outer_us_; }
    Call(const Call&) = delete;

   private:
    AbortState& state_;
    const int64_t outer_us_;  // of the call that makes this one
  };

  std::shared_ptr<AbortState> abort_;

 private:
  static std::vector<int64_t> Scaled(std::span<const int64_t> counts, int64_t unit);
  Status GatherBytes(std::span<const std::byte> mine, const std::vector<int64_t>& bytes, std::span<std::byte> all);
  Status ExchangeBytes(std::span<const std::byte> send, const std::vector<int64_t>& send_bytes,
                       std::span<std::byte> receive, const std::vector<int64_t>& receive_bytes);

  int rank_;
  int size_;
  std::atomic<int> timeout_ms_;
};

// `mine` if all ranks are well, else on every rank an error that names those that are not. Collective; `comm` may be
// null.
Status AgreeOn(Communicator* comm, const Status& mine);

// One rank: every collective is a copy.
std::unique_ptr<Communicator> MakeAlone();

}  // namespace minimo
