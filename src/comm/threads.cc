#include "comm/threads.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"

namespace minimo {
namespace {

using std::chrono::steady_clock;

// Spinning time before sleeping, when there are cores enough: a decode step's collectives come tens of us apart.
constexpr auto kSpin = std::chrono::microseconds(100);
constexpr int kSleepSliceMs = 50;  // how often a sleeper looks for an abort
// Up to this many bytes, all ranks together, every rank adds up everything itself: one barrier instead of two.
constexpr int64_t kSumAloneBytes = 64 << 10;

void SleepWhileEqual(const std::atomic<uint32_t>& word, uint32_t value, int ms) {
  const timespec limit{ms / 1000, (ms % 1000) * 1000000L};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, &limit, nullptr, 0);
}

void WakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

class ThreadGroup;

// What one rank shows the others of one call: written before a barrier, read after it. The data is a copy, so that a
// rank which gives up can free its own while a late one still reads.
struct Post {
  const char* call = "";
  int64_t size = 0;  // a number all ranks must agree on
  std::vector<std::byte> data;
  std::vector<int64_t> bytes;  // of the parts of `data`, of an exchange
  int color = 0;
  int key = 0;
  std::shared_ptr<ThreadGroup> subgroup;
};

// Posts alternate: while slower ranks still read those of one call, the others may write those of the next, and nobody
// gets two calls ahead because each call has at least one barrier.
struct alignas(64) Desk {
  std::atomic<uint32_t> arrived_at{0};  // generation + 1 of the barrier it last reached
  std::atomic<const char*> call{""};
  Post posts[2];
};

class ThreadGroup {
 public:
  ThreadGroup(int size, std::shared_ptr<AbortState> abort)
      : abort(std::move(abort)), desks(size), spin_(size <= AvailableCores()) {}

  int size() const { return static_cast<int>(desks.size()); }

  // What ranks wrote before the call is visible to all after it.
  Status Meet(int rank, int timeout_ms);

  const std::shared_ptr<AbortState> abort;
  std::vector<Desk> desks;
  std::vector<float> sums[2];  // of large all-reduces, alternating like the posts

 private:
  std::string Missing(uint32_t seen) const;  // "rank 3 of 4" or "ranks 1, 2 of 4"
  Status Sleep(int rank, uint32_t seen, int timeout_ms);

  const bool spin_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
};

std::string ThreadGroup::Missing(uint32_t seen) const {
  std::vector<int> ranks;
  for (int r = 0; r < size(); ++r) {
    if (desks[r].arrived_at.load() != seen + 1) ranks.push_back(r);
  }
  return fmt::format("rank{} {} of {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "), size());
}

Status ThreadGroup::Meet(int rank, int timeout_ms) {
  const uint32_t seen = generation_.load(std::memory_order_acquire);
  desks[rank].arrived_at.store(seen + 1);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_acq_rel);
    WakeAll(generation_);
    return {};
  }
  if (spin_) {
    const auto end = steady_clock::now() + kSpin;
    do {
      if (generation_.load(std::memory_order_acquire) != seen) return {};
    } while (steady_clock::now() < end);
  }
  return Sleep(rank, seen, timeout_ms);
}

Status ThreadGroup::Sleep(int rank, uint32_t seen, int timeout_ms) {
  const auto begin = steady_clock::now();
  bool warned = false;
  while (true) {
    SleepWhileEqual(generation_, seen, kSleepSliceMs);
    if (generation_.load(std::memory_order_acquire) != seen) return {};
    if (abort->aborted()) return abort->error();
    const auto waited_ms = std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - begin).count();
    const char* call = desks[rank].call.load();
    if (waited_ms > timeout_ms) {
      abort->Set(fmt::format("{} did not reach the {} within {:.1f} s", Missing(seen), call, timeout_ms / 1e3));
      return abort->error();
    }
    if (!warned && waited_ms > timeout_ms / 4) {
      warned = true;
      LogWarn("rank {} has waited {:.1f} s at the {} for {}", rank, waited_ms / 1e3, call, Missing(seen));
    }
  }
}

class ThreadRank final : public Communicator {
 public:
  ThreadRank(int rank, std::shared_ptr<ThreadGroup> group, int timeout_ms, bool world)
      : Communicator(rank, group->size(), timeout_ms, group->abort), group_(std::move(group)), world_(world) {}
  ~ThreadRank() override {
    if (world_) abort_->Set(fmt::format("rank {} of {} has left the group", rank(), size()));
  }
  const char* backend() const override { return "threads"; }

 protected:
  Status DoAllReduceSum(std::span<float> values) override;
  Status DoReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts,
                            std::span<float> mine) override;
  Status DoGather(std::span<const std::byte> mine, std::span<const int64_t> bytes, std::span<std::byte> all) override;
  Status DoExchange(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                    std::span<std::byte> receive, std::span<const int64_t> receive_bytes) override;
  Status DoBroadcast(std::span<std::byte> data, int root) override;
  Status DoBarrier() override {
    NewPost({});
    return Call("barrier", 0);
  }
  Result<std::unique_ptr<Communicator>> DoSplit(int color, int key) override;

 private:
  // Begins the next call: this rank's post of it, to be filled in.
  Post& NewPost(std::span<const std::byte> data) {
    ++calls_;
    Post& post = group_->desks[rank()].posts[calls_ % 2];
    post.data.assign(data.begin(), data.end());
    return post;
  }
  const Post& PostOf(int r) const { return group_->desks[r].posts[calls_ % 2]; }
  // Meets the others and checks that all make the same call of the same size.
  Status Call(const char* call, int64_t size);
  Status CheckBytes(int from, int64_t sent, int64_t expected) {
    if (sent == expected) return {};
    return Fail(fmt::format("ranks disagree: rank {} sends {} bytes to rank {}, which expects {}", from, sent, rank(),
                            expected));
  }
  Status MeetAgain() { return group_->Meet(rank(), timeout_ms()); }
  // out[0, count) = the sum over ranks of their posts' floats [begin, begin + count).
  void SumPosts(int64_t begin, int64_t count, float* out) const;

  std::shared_ptr<ThreadGroup> group_;
  uint64_t calls_ = 0;
  const bool world_;
};

Status ThreadRank::Call(const char* call, int64_t size) {
  Desk& desk = group_->desks[rank()];
  desk.call.store(call);
  Post& post = desk.posts[calls_ % 2];
  post.call = call;
  post.size = size;
  MINIMO_TRY(MeetAgain());
  for (int r = 0; r < this->size(); ++r) {
    const Post& other = PostOf(r);
    if (std::strcmp(other.call, call) != 0 || other.size != size) {
      return Fail(fmt::format("ranks disagree: rank {} makes a {} of {} where rank {} makes a {} of {}", rank(), call,
                              size, r, other.call, other.size));
    }
  }
  return {};
}

void ThreadRank::SumPosts(int64_t begin, int64_t count, float* out) const {
  for (int r = 0; r < size(); ++r) {
    const float* part = reinterpret_cast<const float*>(PostOf(r).data.data()) + begin;
    if (r == 0) {
      std::memcpy(out, part, count * sizeof(float));
    } else {
      for (int64_t i = 0; i < count; ++i) out[i] += part[i];
    }
  }
}

Status ThreadRank::DoAllReduceSum(std::span<float> values) {
  const int64_t count = std::ssize(values);
  NewPost(std::as_bytes(values));
  if (count * size() * static_cast<int64_t>(sizeof(float)) <= kSumAloneBytes) {
    MINIMO_TRY(Call("all-reduce", count));
    SumPosts(0, count, values.data());
    return {};
  }
  std::vector<float>& sums = group_->sums[calls_ % 2];
  if (rank() == 0 && std::ssize(sums) < count) sums.resize(count);
  MINIMO_TRY(Call("all-reduce", count));
  const auto [begin, end] = ThreadTeam::Split(count, size(), rank());
  SumPosts(begin, end - begin, sums.data() + begin);
  MINIMO_TRY(MeetAgain());
  std::memcpy(values.data(), sums.data(), count * sizeof(float));
  return {};
}

Status ThreadRank::DoReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts,
                                      std::span<float> mine) {
  NewPost(std::as_bytes(values));
  MINIMO_TRY(Call("reduce-scatter", std::ssize(values)));
  SumPosts(std::accumulate(counts.begin(), counts.begin() + rank(), int64_t{0}), std::ssize(mine), mine.data());
  return {};
}

Status ThreadRank::DoGather(std::span<const std::byte> mine, std::span<const int64_t> bytes,
                            std::span<std::byte> all) {
  NewPost(mine);
  MINIMO_TRY(Call("all-gather", std::ssize(all)));
  int64_t begin = 0;
  for (int r = 0; r < size(); ++r) {
    MINIMO_TRY(CheckBytes(r, std::ssize(PostOf(r).data), bytes[r]));
    if (bytes[r] > 0) std::memcpy(all.data() + begin, PostOf(r).data.data(), bytes[r]);
    begin += bytes[r];
  }
  return {};
}

Status ThreadRank::DoExchange(std::span<const std::byte> send, std::span<const int64_t> send_bytes,
                              std::span<std::byte> receive, std::span<const int64_t> receive_bytes) {
  NewPost(send).bytes.assign(send_bytes.begin(), send_bytes.end());
  MINIMO_TRY(Call("all-to-all", 0));
  int64_t to = 0;
  for (int r = 0; r < size(); ++r) {
    const Post& other = PostOf(r);
    const int64_t from = std::accumulate(other.bytes.begin(), other.bytes.begin() + rank(), int64_t{0});
    MINIMO_TRY(CheckBytes(r, other.bytes[rank()], receive_bytes[r]));
    if (receive_bytes[r] > 0) std::memcpy(receive.data() + to, other.data.data() + from, receive_bytes[r]);
    to += receive_bytes[r];
  }
  return {};
}

Status ThreadRank::DoBroadcast(std::span<std::byte> data, int root) {
  NewPost(rank() == root ? std::span<const std::byte>(data) : std::span<const std::byte>());
  MINIMO_TRY(Call("broadcast", std::ssize(data)));
  if (rank() != root) std::memcpy(data.data(), PostOf(root).data.data(), data.size());
  return {};
}

Result<std::unique_ptr<Communicator>> ThreadRank::DoSplit(int color, int key) {
  Post& post = NewPost({});
  post.color = color;
  post.key = key;
  MINIMO_TRY(Call("split", 0));
  std::vector<std::pair<int, int>> members;  // (key, rank)
  for (int r = 0; r < size(); ++r) {
    if (PostOf(r).color == color) members.emplace_back(PostOf(r).key, r);
  }
  std::sort(members.begin(), members.end());
  const int first = members.front().second;
  if (rank() == first) post.subgroup = std::make_shared<ThreadGroup>(static_cast<int>(members.size()), abort_);
  MINIMO_TRY(MeetAgain());
  std::shared_ptr<ThreadGroup> group = PostOf(first).subgroup;
  MINIMO_TRY(MeetAgain());
  post.subgroup.reset();
  const auto mine = std::find(members.begin(), members.end(), std::pair(key, rank()));
  return std::unique_ptr<Communicator>(std::make_unique<ThreadRank>(static_cast<int>(mine - members.begin()),
                                                                    std::move(group), timeout_ms(), false));
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadRanks(int ranks, int timeout_ms) {
  CHECK(ranks >= 1);
  std::vector<std::unique_ptr<Communicator>> out;
  if (ranks == 1) {
    out.push_back(MakeAlone());
    return out;
  }
  auto group = std::make_shared<ThreadGroup>(ranks, std::make_shared<AbortState>());
  for (int r = 0; r < ranks; ++r) out.push_back(std::make_unique<ThreadRank>(r, group, timeout_ms, true));
  return out;
}

}  // namespace minimo
