// One model on several ranks: rank 0 leads, the others follow. The leader broadcasts every step record; all ranks
// compute it together; the leader has the logits. While nothing runs the leader sends a sign of life each second, so
// that a lost rank is noticed on either side within the communicator's timeout.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "engine/executor.h"
#include "models/loader.h"
#include "spec/parallel_plan.h"
#include "tensor/dtype.h"

namespace minimo {

class ThreadTeam;

// The leader's executor. After any failure every Run fails and Check tells why.
class ParallelExecutor final : public Executor {
 public:
  // `local` is rank 0's own part and uses `comm` itself; both are used by nobody else meanwhile. `comm` outlives this.
  ParallelExecutor(std::unique_ptr<Executor> local, Communicator& comm);
  ~ParallelExecutor() override;  // sends the followers home

  const KvLayout& kv_layout() const override { return local_->kv_layout(); }
  int vocab_size() const override { return local_->vocab_size(); }
  Status Run(const StepRecord& step, StepOutput* output) override;
  bool OffersCandidates() const override { return local_->OffersCandidates(); }
  Status FetchLogits(std::span<const int32_t> rows, StepOutput* output) override;
  bool BeginsAhead() const override { return local_->BeginsAhead(); }
  Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) override;
  Engine::ExpertLoad GetExpertLoad() const override { return local_->GetExpertLoad(); }  // routers see every token
  Status Check() const override { return comm_.Lost() ? Status(comm_.failure()) : Status(); }
  bool MayNotReturn() const override { return comm_.MayNotReturn(); }

 private:
  void KeepAlive();

  std::unique_ptr<Executor> local_;
  Communicator& comm_;
  std::mutex mutex_;  // one call on the ranks at a time
  std::condition_variable wake_;
  int64_t last_call_us_ = 0;
  bool stop_ = false;
  std::vector<std::byte> message_;
  std::thread keep_alive_;  // last: everything above exists when it starts
};

// A follower's life: computes what the leader sends until it says stop (OK) or a rank fails.
Status FollowSteps(Executor& local, Communicator& comm);

struct RankedExecutor {
  std::unique_ptr<Executor> executor;
  ThreadTeam* team = nullptr;  // rank 0's, idle between runs
};

// All ranks as threads of this process, on the CPU, each with a team of `threads_each`. The model outlives the
// executor.
Result<RankedExecutor> MakeThreadRanksExecutor(const LoadedModel& model, const ParallelPlan& plan,
                                               const KvLayout& layout, DType kv_dtype, int threads_each,
                                               int timeout_ms = kDefaultCommTimeoutMs);

}  // namespace minimo
