#include "engine/parallel_executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/threads.h"
#include "engine/cpu_executor.h"
#include "kv/step_codec.h"

namespace minimo {
namespace {

constexpr auto kKeepAlive = std::chrono::seconds(1);

// What the leader sends: one broadcast of a frame, and a second one if the payload is longer. A decode step of 64
// sequences with 16 blocks each fits in one.
// kStepGoesOn: with StepOutput::goes_on. kLogits: rows to fetch; kNext: the tokens of Executor::StartNext.
enum class Kind : uint32_t { kStep = 1, kIdle = 2, kStop = 3, kLogits = 4, kStepGoesOn = 5, kNext = 6 };
constexpr size_t kFrameBytes = 8192;
struct Frame {
  Kind kind;
  uint32_t bytes;
  std::byte payload[kFrameBytes - 8];
};

Status Send(Communicator& comm, Kind kind, std::span<std::byte> payload) {
  Frame frame{kind, static_cast<uint32_t>(payload.size()), {}};
  const bool fits = payload.size() <= sizeof frame.payload;
  if (fits && !payload.empty()) std::memcpy(frame.payload, payload.data(), payload.size());
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&frame, 1)), 0));
  return fits ? Status() : comm.Broadcast(payload, 0);
}

Result<Kind> Receive(Communicator& comm, std::vector<std::byte>* payload) {
  Frame frame;
  MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&frame, 1)), 0));
  payload->resize(frame.bytes);
  if (frame.bytes > sizeof frame.payload) {
    MINIMO_TRY(comm.Broadcast(*payload, 0));
  } else if (frame.bytes > 0) {
    std::memcpy(payload->data(), frame.payload, frame.bytes);
  }
  return frame.kind;
}

int64_t NowUs() { return SteadyClock().NowUs(); }

std::vector<int32_t> Numbers(const std::vector<std::byte>& payload) {
  std::vector<int32_t> numbers(payload.size() / sizeof(int32_t));
  if (!numbers.empty()) std::memcpy(numbers.data(), payload.data(), numbers.size() * sizeof(int32_t));
  return numbers;
}

// A failure of this rank alone (its device, its memory) is told to the others.
Status Spread(Status status, Communicator& comm) {
  if (!status.ok() && !comm.failed()) {
    comm.Abort(fmt::format("rank {} of {}: {}", comm.rank(), comm.size(), status.error().message));
  }
  return status;
}

}  // namespace

ParallelExecutor::ParallelExecutor(std::unique_ptr<Executor> local, Communicator& comm)
    : local_(std::move(local)), comm_(comm), last_call_us_(NowUs()), keep_alive_([this] { KeepAlive(); }) {}

ParallelExecutor::~ParallelExecutor() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  keep_alive_.join();
  const Status status = Send(comm_, Kind::kStop, {});
  if (!status.ok()) LogDebug("followers are not told to stop: {}", status.error().message);
}

Status ParallelExecutor::Run(const StepRecord& step, StepOutput* output) {
  std::lock_guard lock(mutex_);
  message_.clear();
  EncodeStep(step, &message_);
  MINIMO_TRY(Send(comm_, output->goes_on && BeginsAhead() ? Kind::kStepGoesOn : Kind::kStep, message_));
  const Status status = Spread(local_->Run(step, output), comm_);
  last_call_us_ = NowUs();
  return status;
}

Status ParallelExecutor::FetchLogits(std::span<const int32_t> rows, StepOutput* output) {
  std::lock_guard lock(mutex_);
  const auto bytes = std::as_bytes(rows);
  message_.assign(bytes.begin(), bytes.end());
  MINIMO_TRY(Send(comm_, Kind::kLogits, message_));
  const Status status = Spread(local_->FetchLogits(rows, output), comm_);
  last_call_us_ = NowUs();
  return status;
}

Status ParallelExecutor::StartNext(const StepRecord& step, std::span<const int32_t> tokens) {
  if (!BeginsAhead()) return {};
  std::lock_guard lock(mutex_);
  const auto bytes = std::as_bytes(tokens);
  message_.assign(bytes.begin(), bytes.end());
  MINIMO_TRY(Send(comm_, Kind::kNext, message_));
  return Spread(local_->StartNext(step, tokens), comm_);
}

void ParallelExecutor::KeepAlive() {
  constexpr int64_t kKeepAliveUs = std::chrono::microseconds(kKeepAlive).count();
  std::unique_lock lock(mutex_);
  while (!comm_.failed()) {
    wake_.wait_for(lock, kKeepAlive, [&] { return stop_; });
    if (stop_) return;
    if (NowUs() - last_call_us_ < kKeepAliveUs / 2) continue;
    // The barrier hears from the followers, which a broadcast need not.
    Status status = Send(comm_, Kind::kIdle, {});
    if (status.ok()) status = comm_.Barrier();
    if (!status.ok()) LogError("lost a rank while idle: {}", status.error().message);
    last_call_us_ = NowUs();
  }
}

Status FollowSteps(Executor& local, Communicator& comm) {
  std::vector<std::byte> payload;
  StepOutput output;
  StepRecord last;
  while (true) {
    MINIMO_ASSIGN(const Kind kind, Receive(comm, &payload));
    if (kind == Kind::kStop) return {};
    if (kind == Kind::kIdle) {
      MINIMO_TRY(comm.Barrier());
      continue;
    }
    if (kind == Kind::kLogits) {
      MINIMO_TRY(Spread(local.FetchLogits(Numbers(payload), &output), comm));
      continue;
    }
    if (kind == Kind::kNext) {
      MINIMO_TRY(Spread(local.StartNext(last, Numbers(payload)), comm));
      continue;
    }
    Result<StepRecord> step = DecodeStep(payload);
    MINIMO_TRY(Spread(step.ok() ? Status() : Status(step.error()), comm));
    last = std::move(*step);
    output.goes_on = kind == Kind::kStepGoesOn;
    MINIMO_TRY(Spread(local.Run(last, &output), comm));
  }
}

namespace {

class ThreadRanksExecutor final : public Executor {
 public:
  ThreadRanksExecutor(std::vector<std::unique_ptr<Communicator>> comms,
                      std::vector<std::unique_ptr<CpuExecutor>> executors)
      : comms_(std::move(comms)) {
    for (size_t r = 1; r < comms_.size(); ++r) {
      followers_.emplace_back([executor = std::move(executors[r]), comm = comms_[r].get()] {
        const Status status = FollowSteps(*executor, *comm);
        if (!status.ok()) LogDebug("rank {} ends: {}", comm->rank(), status.error().message);
      });
    }
    leader_ = std::make_unique<ParallelExecutor>(std::move(executors[0]), *comms_[0]);
  }
  ~ThreadRanksExecutor() override {
    leader_.reset();
    for (std::thread& follower : followers_) follower.join();
  }

  const KvLayout& kv_layout() const override { return leader_->kv_layout(); }
  int vocab_size() const override { return leader_->vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override { return leader_->Run(step, output); }
  bool OffersCandidates() const override { return leader_->OffersCandidates(); }
  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override {
    return leader_->FetchLogits(rows, output);
  }
  Engine::ExpertLoad GetExpertLoad() const override { return leader_->GetExpertLoad(); }
  Status Check() const override { return leader_->Check(); }

 private:
  std::vector<std::unique_ptr<Communicator>> comms_;
  std::vector<std::thread> followers_;
  std::unique_ptr<ParallelExecutor> leader_;
};

}  // namespace

Result<RankedExecutor> MakeThreadRanksExecutor(const LoadedModel& model, const ParallelPlan& plan,
                                               const KvLayout& layout, DType kv_dtype, int threads_each,
                                               int timeout_ms) {
  auto comms = MakeThreadRanks(plan.ranks, timeout_ms);
  std::vector<std::unique_ptr<CpuExecutor>> executors;
  for (auto& comm : comms) {
    MINIMO_ASSIGN(auto executor, CpuExecutor::CreateRank(model, plan, comm.get(), layout, kv_dtype, threads_each));
    executors.push_back(std::move(executor));
  }
  ThreadTeam* team = &executors.front()->team();
  return RankedExecutor{std::make_unique<ThreadRanksExecutor>(std::move(comms), std::move(executors)), team};
}

}  // namespace minimo
