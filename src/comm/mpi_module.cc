// The MPI backend. Only non-blocking calls, whose completion is polled against a deadline: a blocking call on a rank
// that has died would never return. The order of a sum is ours (communicator.cc), MPI only moves bytes.
//
// Even so a call may stay in MPI: Open MPI 4.1 reports a reset connection through mpirun from inside MPI_Testall and
// waits for the receipt, and mpirun, if it has heard of the dead rank first, sleeps (odls_base_sigkill_timeout, twice).
// So each is a Call.
#include "comm/mpi_module.h"

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"

namespace minimo {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// While waiting: poll for this long, then yield the core between polls, then sleep (an idle server's followers wait
// for the next step most of the time). The sleep bounds what a step's start can lose.
constexpr auto kPoll = std::chrono::microseconds(50);
constexpr auto kYield = milliseconds(20);
constexpr int kSleepUs = 100;
// A yield that took longer than this gave the core to somebody who is busy, not to another rank. On shared cores who
// yields again and again is scheduled last (Linux takes a yield as the rest of a slice given away), a message then
// waits for milliseconds and a step of dozens of messages for a second; who sleeps is scheduled soon after. So for this
// long waits sleep at once.
constexpr auto kCrowdedYield = milliseconds(2);
constexpr auto kCrowded = milliseconds(100);
// MPI counts are ints: longer messages go in pieces of this size.
constexpr int64_t kPieceBytes = int64_t{1} << 30;

std::string MpiError(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, length);
}

// Who polls without yielding where ranks are more than cores keeps another from what it waits for.
steady_clock::duration PollTime() {
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return ranks != nullptr && std::atoi(ranks) > AvailableCores() ? steady_clock::duration(0) : kPoll;
}

class MpiRank final : public Communicator {
 public:
  MpiRank(MPI_Comm comm, int rank, int size, int timeout_ms, std::shared_ptr<AbortState> abort, bool world)
      : Communicator(rank, size, timeout_ms, std::move(abort)), comm_(comm), world_(world) {}

  ~MpiRank() override {
    if (failed()) return;  // a rank is missing: neither MPI_Comm_free nor MPI_Finalize would return
    if (world_) {
      MPI_Finalize();
    } else {
      int finalized = 0;
      MPI_Finalized(&finalized);
      if (!finalized) MPI_Comm_free(&comm_);
    }
  }

  const char* backend() const override { return "mpi"; }
  bool MayNotReturn() const override { return true; }

 protected:
  Status DoGather(std::span<const std::byte> mine, std::span<const int64_t> bytes, std::span<std::byte> all) override {
    const Call call(*this);
    std::vector<MPI_Request> requests;
    int64_t begin = 0;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) {
        std::copy(mine.begin(), mine.end(), all.begin() + begin);
      } else {
        MINIMO_TRY(Receive(all.subspan(begin, bytes[r]), r, &requests));
        MINIMO_TRY(Send(mine, r, &requests));
      }
      begin += bytes[r];
    }
    return Wait(requests, "all-gather");
  }

  Status DoExchange(std::span<const std::byte> send, std::span<const int64_t> send_bytes, std::span<std::byte> receive,
                    std::span<const int64_t> receive_bytes) override {
    const Call call(*this);
    std::vector<MPI_Request> requests;
    int64_t from = 0, to = 0;
    for (int r = 0; r < size(); ++r) {
      const auto out = send.subspan(from, send_bytes[r]);
      const auto in = receive.subspan(to, receive_bytes[r]);
      if (r == rank()) {
        CHECK(in.size() == out.size());
        std::copy(out.begin(), out.end(), in.begin());
      } else {
        MINIMO_TRY(Receive(in, r, &requests));
        MINIMO_TRY(Send(out, r, &requests));
      }
      from += send_bytes[r];
      to += receive_bytes[r];
    }
    return Wait(requests, "all-to-all");
  }

  Status DoBroadcast(std::span<std::byte> data, int root) override {
    const Call call(*this);
    std::vector<MPI_Request> requests;
    for (int64_t begin = 0; begin < std::ssize(data); begin += kPieceBytes) {
      const int64_t bytes = std::min(kPieceBytes, std::ssize(data) - begin);
      requests.push_back(MPI_REQUEST_NULL);
      MINIMO_TRY(Check(MPI_Ibcast(data.data() + begin, static_cast<int>(bytes), MPI_BYTE, root, comm_,
                                  &requests.back())));
    }
    return Wait(requests, "broadcast");
  }

  Status DoBarrier() override {
    const Call call(*this);
    std::vector<MPI_Request> request(1, MPI_REQUEST_NULL);
    MINIMO_TRY(Check(MPI_Ibarrier(comm_, request.data())));
    return Wait(request, "barrier");
  }

  Result<std::unique_ptr<Communicator>> DoSplit(int color, int key) override {
    const Call call(*this);
    MINIMO_TRY(DoBarrier());  // all are here, so that the blocking split returns
    MPI_Comm part = MPI_COMM_NULL;
    MINIMO_TRY(Check(MPI_Comm_split(comm_, color, key, &part)));
    MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN);
    int part_rank = 0, part_size = 1;
    MPI_Comm_rank(part, &part_rank);
    MPI_Comm_size(part, &part_size);
    return std::unique_ptr<Communicator>(
        std::make_unique<MpiRank>(part, part_rank, part_size, timeout_ms(), abort_, false));
  }

 private:
  Status Check(int code) {
    if (code == MPI_SUCCESS) return {};
    return Fail(fmt::format("MPI failed on rank {} of {}: {}", rank(), size(), MpiError(code)));
  }

  Status Send(std::span<const std::byte> data, int to, std::vector<MPI_Request>* requests) {
    for (int64_t begin = 0; begin < std::ssize(data); begin += kPieceBytes) {
      const int64_t bytes = std::min(kPieceBytes, std::ssize(data) - begin);
      requests->push_back(MPI_REQUEST_NULL);
      MINIMO_TRY(Check(MPI_Isend(data.data() + begin, static_cast<int>(bytes), MPI_BYTE, to, 0, comm_,
                                 &requests->back())));
    }
    return {};
  }

  Status Receive(std::span<std::byte> data, int from, std::vector<MPI_Request>* requests) {
    for (int64_t begin = 0; begin < std::ssize(data); begin += kPieceBytes) {
      const int64_t bytes = std::min(kPieceBytes, std::ssize(data) - begin);
      requests->push_back(MPI_REQUEST_NULL);
      MINIMO_TRY(Check(MPI_Irecv(data.data() + begin, static_cast<int>(bytes), MPI_BYTE, from, 0, comm_,
                                 &requests->back())));
    }
    return {};
  }

  Status Wait(std::vector<MPI_Request>& requests, const char* call) {
    const auto begin = steady_clock::now();
    bool warned = false;
    while (true) {
      int done = 0;
      MINIMO_TRY(Check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE)));
      if (done) return {};
      if (failed()) return failure();
      const auto waited = steady_clock::now() - begin;
      if (waited < poll_) continue;
      if (waited > milliseconds(timeout_ms())) {
        return Fail(fmt::format("rank {} of {}: another rank did not reach the {} within {:.1f} s", rank(), size(),
                                call, timeout_ms() / 1e3));
      }
      if (!warned && waited > milliseconds(timeout_ms() / 4)) {
        warned = true;
        LogWarn("rank {} of {} has waited {:.1f} s at a {} for another rank", rank(), size(), timeout_ms() / 4e3, call);
      }
      if (waited < kYield && begin >= crowded_until_) {
        const auto before = steady_clock::now();
        sched_yield();
        const auto after = steady_clock::now();
        if (after - before > kCrowdedYield) crowded_until_ = after + kCrowded;
      } else {
        usleep(kSleepUs);
      }
    }
  }

  MPI_Comm comm_;
  const bool world_;
  const steady_clock::duration poll_ = PollTime();
  steady_clock::time_point crowded_until_{};  // waits begun before this sleep
};

}  // namespace
}  // namespace minimo

extern "C" __attribute__((visibility("default"))) minimo::Communicator* MinimoMpiOpen(int timeout_ms,
                                                                                     std::string* error) {
  using namespace minimo;
  // With more ranks than cores Open MPI would yield in each poll that finds nothing, to whoever is busy for
  // milliseconds. Wait does that, and notices.
  setenv("OMPI_MCA_mpi_yield_when_idle", "0", 0);
  int provided = 0;
  // Serialized: the engine's thread and the keep-alive thread call in turn.
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  if (code != MPI_SUCCESS) {
    *error = "MPI_Init failed: " + MpiError(code);
    return nullptr;
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    *error = fmt::format("this MPI offers thread level {}, minimo needs MPI_THREAD_SERIALIZED", provided);
    return nullptr;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return new MpiRank(MPI_COMM_WORLD, rank, size, timeout_ms, std::make_shared<AbortState>(), true);
}
