#include "comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"

namespace minimo {
namespace {

// A call that notices its timeout comes back a moment after it, on a busy machine later.
constexpr int64_t kLateUs = 300'000;

int64_t Sum(std::span<const int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// The ranges of [0, count) that each rank sums: nearly equal, the first ones longer.
std::vector<int64_t> EvenCounts(int64_t count, int ranks) {
  std::vector<int64_t> counts(ranks, count / ranks);
  for (int64_t r = 0; r < count % ranks; ++r) ++counts[r];
  return counts;
}

void Copy(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty() && from.data() != to.data()) std::memcpy(to.data(), from.data(), from.size());
}

class Alone final : public Communicator {
 public:
  Alone() : Communicator(0, 1, kDefaultCommTimeoutMs, std::make_shared<AbortState>()) {}
  const char* backend() const override { return "alone"; }

 protected:
  Status DoReduceScatterSum(std::span<const float> values, std::span<const int64_t>, std::span<float> mine) override {
    Copy(std::as_bytes(values), std::as_writable_bytes(mine));
    return {};
  }
  Status DoGather(std::span<const std::byte> mine, std::span<const int64_t>, std::span<std::byte> all) override {
    Copy(mine, all);
    return {};
  }
  Status DoExchange(std::span<const std::byte> send, std::span<const int64_t>, std::span<std::byte> receive,
                    std::span<const int64_t>) override {
    Copy(send, receive);
    return {};
  }
  Status DoAllReduceSum(std::span<float>) override { return {}; }
  Status DoBroadcast(std::span<std::byte>, int) override { return {}; }
  Status DoBarrier() override { return {}; }
  Result<std::unique_ptr<Communicator>> DoSplit(int, int) override { return MakeAlone(); }
};

}  // namespace

void AbortState::Set(std::string why) {
  std::lock_guard lock(mutex_);
  if (aborted_.load(std::memory_order_relaxed)) return;
  why_ = std::move(why);
  aborted_.store(true, std::memory_order_release);
}

Error AbortState::error() const {
  std::lock_guard lock(mutex_);
  return Error{why_};
}

std::unique_ptr<Communicator> MakeAlone() { return std::make_unique<Alone>(); }

namespace {

// "rank 2 of 4", "ranks 0, 2 to 3 of 8", "all 4 ranks".
std::string NameRanks(const std::vector<int>& ranks, int size) {
  if (std::ssize(ranks) == size) return fmt::format("all {} ranks", size);
  std::string names;
  for (size_t i = 0, last; i < ranks.size(); i = last + 1) {
    last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", ranks[i]);
    if (last > i) names += fmt::format(" to {}", ranks[last]);
  }
  return fmt::format("{} {} of {}", ranks.size() == 1 ? "rank" : "ranks", names, size);
}

}  // namespace

Status AgreeOn(Communicator* comm, const Status& mine) {
  if (comm == nullptr || comm->size() == 1) return mine;
  const std::string text = mine.ok() ? "" : mine.error().message;
  MINIMO_ASSIGN(const auto all, comm->AllGatherBytes(std::as_bytes(std::span(text))));
  std::vector<std::pair<std::string, std::vector<int>>> faults;  // and whose they are, by the first of these
  for (int r = 0; r < comm->size(); ++r) {
    if (all[r].empty()) continue;
    const std::string fault(reinterpret_cast<const char*>(all[r].data()), all[r].size());
    auto known = std::find_if(faults.begin(), faults.end(), [&](const auto& f) { return f.first == fault; });
    if (known == faults.end()) known = faults.insert(faults.end(), {fault, {}});
    known->second.push_back(r);
  }
  std::string said;
  for (const auto& [fault, ranks] : faults) {
    said += fmt::format("{}{}: {}", said.empty() ? "" : "; ", NameRanks(ranks, comm->size()), fault);
  }
  return said.empty() ? Status() : Status(Error{said});
}

Error Communicator::Fail(std::string why) {
  abort_->Set(std::move(why));
  return abort_->error();
}

Communicator::Call::Call(Communicator& comm)
    : state_(*comm.abort_),
      outer_us_(state_.returns_by_us.exchange(SteadyClock().NowUs() + comm.timeout_ms() * int64_t{1000} + kLateUs)) {}

bool Communicator::Lost() {
  if (failed()) return true;
  const int64_t by_us = abort_->returns_by_us;
  if (by_us == 0 || SteadyClock().NowUs() < by_us) return false;
  Abort(fmt::format("rank {} of {}: another rank is lost, and {} does not return from an exchange with it", rank_,
                    size_, backend()));
  return true;
}

void Communicator::Abort(std::string why) {
  abort_->Set(std::move(why));
  OnAbort();
}

Status Communicator::AllReduceSum(std::span<float> values) {
  if (failed()) return failure();
  if (values.empty()) return {};
  return DoAllReduceSum(values);
}

Status Communicator::ReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts,
                                      std::span<float> mine) {
  CHECK(std::ssize(counts) == size_);
  CHECK(std::ssize(values) == Sum(counts) && std::ssize(mine) == counts[rank_]);
  if (failed()) return failure();
  if (values.empty()) return {};
  return DoReduceScatterSum(values, counts, mine);
}

Status Communicator::GatherBytes(std::span<const std::byte> mine, const std::vector<int64_t>& bytes,
                                 std::span<std::byte> all) {
  CHECK(std::ssize(bytes) == size_);
  CHECK(std::ssize(all) == Sum(bytes) && std::ssize(mine) == bytes[rank_]);
  if (failed()) return failure();
  if (all.empty()) return {};
  return DoGather(mine, bytes, all);
}

Status Communicator::ExchangeBytes(std::span<const std::byte> send, const std::vector<int64_t>& send_bytes,
                                   std::span<std::byte> receive, const std::vector<int64_t>& receive_bytes) {
  CHECK(std::ssize(send_bytes) == size_ && std::ssize(receive_bytes) == size_);
  CHECK(std::ssize(send) == Sum(send_bytes) && std::ssize(receive) == Sum(receive_bytes));
  if (failed()) return failure();
  return DoExchange(send, send_bytes, receive, receive_bytes);
}

Result<std::vector<std::vector<std::byte>>> Communicator::AllGatherBytes(std::span<const std::byte> mine) {
  std::vector<int64_t> bytes(size_);
  const int64_t my_bytes = std::ssize(mine);
  MINIMO_TRY(AllGather<int64_t>(std::span(&my_bytes, 1), bytes));
  std::vector<std::byte> all(Sum(bytes));
  MINIMO_TRY(GatherBytes(mine, bytes, all));
  std::vector<std::vector<std::byte>> parts;
  int64_t begin = 0;
  for (const int64_t part : bytes) {
    parts.emplace_back(all.begin() + begin, all.begin() + begin + part);
    begin += part;
  }
  return parts;
}

Status Communicator::Broadcast(std::span<std::byte> data, int root) {
  CHECK(root >= 0 && root < size_);
  if (failed()) return failure();
  if (data.empty()) return {};
  return DoBroadcast(data, root);
}

Status Communicator::BroadcastBytes(std::vector<std::byte>* data, int root) {
  int64_t bytes = std::ssize(*data);
  MINIMO_TRY(Broadcast(std::as_writable_bytes(std::span(&bytes, 1)), root));
  if (rank_ != root) data->resize(bytes);
  return Broadcast(*data, root);
}

Status Communicator::Barrier() {
  if (failed()) return failure();
  return DoBarrier();
}

Result<std::unique_ptr<Communicator>> Communicator::Split(int color, int key) {
  if (failed()) return failure();
  return DoSplit(color, key);
}

Status Communicator::DoAllReduceSum(std::span<float> values) {
  const std::vector<int64_t> counts = EvenCounts(std::ssize(values), size_);
  std::vector<float> mine(counts[rank_]);
  MINIMO_TRY(DoReduceScatterSum(values, counts, mine));
  return DoGather(std::as_bytes(std::span(mine)), Scaled(counts, sizeof(float)), std::as_writable_bytes(values));
}

Status Communicator::DoReduceScatterSum(std::span<const float> values, std::span<const int64_t> counts,
                                        std::span<float> mine) {
  const int64_t count = std::ssize(mine);
  std::vector<float> parts(count * size_);
  const std::vector<int64_t> receive_bytes(size_, count * static_cast<int64_t>(sizeof(float)));
  MINIMO_TRY(DoExchange(std::as_bytes(values), Scaled(counts, sizeof(float)),
                        std::as_writable_bytes(std::span(parts)), receive_bytes));
  for (int64_t i = 0; i < count; ++i) {
    float sum = parts[i];
    for (int r = 1; r < size_; ++r) sum += parts[r * count + i];
    mine[i] = sum;
  }
  return {};
}

std::vector<int64_t> Communicator::Scaled(std::span<const int64_t> counts, int64_t unit) {
  std::vector<int64_t> bytes(counts.begin(), counts.end());
  for (int64_t& b : bytes) b *= unit;
  return bytes;
}

}  // namespace minimo
