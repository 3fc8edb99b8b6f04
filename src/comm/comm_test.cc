#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "base/error.h"
#include "comm/collectives_check.h"
#include "comm/nccl.h"
#include "comm/threads.h"

namespace minimo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Runs `body` on every rank; the errors, "" where it succeeded.
std::vector<std::string> OnRanks(int ranks, int timeout_ms, const std::function<Status(Communicator&)>& body) {
  auto comms = MakeThreadRanks(ranks, timeout_ms);
  std::vector<std::string> errors(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      const Status status = body(*comms[r]);
      if (!status.ok()) errors[r] = status.error().message;
    });
  }
  for (std::thread& t : threads) t.join();
  return errors;
}

class ThreadRanks : public ::testing::TestWithParam<int> {};

TEST_P(ThreadRanks, EveryCollectiveOfEverySize) {
  const int rounds = GetParam() >= 16 ? 60 : 200;
  for (const std::string& error : OnRanks(GetParam(), 60000, [&](Communicator& comm) {
         return CheckCollectives(comm, rounds, 7);
       })) {
    EXPECT_EQ(error, "");
  }
}

TEST_P(ThreadRanks, SplitIntoRowsAndColumns) {
  for (const std::string& error : OnRanks(GetParam(), 60000, CheckSplit)) EXPECT_EQ(error, "");
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadRanks, ::testing::Values(1, 2, 3, 4, 8, 16, 64),
                         ::testing::PrintToStringParamName());

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(Failure, ARankThatHangsIsNamedByAllOthers) {
  const auto begin = std::chrono::steady_clock::now();
  const auto errors = OnRanks(4, 300, [](Communicator& comm) -> Status {
    if (comm.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(800));
    return comm.Barrier();
  });
  EXPECT_LT(SecondsSince(begin), 2.0);
  for (const std::string& error : errors) {
    EXPECT_THAT(error, AllOf(HasSubstr("rank 2 of 4 did not reach the barrier"), HasSubstr("0.3 s")));
  }
}

TEST(Failure, ASlowRankIsWaitedFor) {
  for (const std::string& error : OnRanks(3, 2000, [](Communicator& comm) -> Status {
         if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(700));
         return CheckCollectives(comm, 10, 1);
       })) {
    EXPECT_EQ(error, "");
  }
}

TEST(Failure, AbortReachesRanksInsideACollectiveAndInSubgroups) {
  const auto begin = std::chrono::steady_clock::now();
  const auto errors = OnRanks(4, 30000, [](Communicator& comm) -> Status {
    MINIMO_ASSIGN(const auto pair, comm.Split(comm.rank() / 2, 0));
    if (comm.rank() == 3) {
      comm.Abort("rank 3: the device is gone");
      return comm.Barrier();
    }
    return comm.rank() == 2 ? pair->Barrier() : comm.Barrier();
  });
  EXPECT_LT(SecondsSince(begin), 5.0);
  for (const std::string& error : errors) EXPECT_EQ(error, "rank 3: the device is gone");
}

TEST(Failure, ARankThatLeavesEndsTheOthersCalls) {
  auto comms = MakeThreadRanks(2, 30000);
  std::thread leaver([&] {
    EXPECT_TRUE(comms[1]->Barrier().ok());
    comms[1].reset();
  });
  EXPECT_TRUE(comms[0]->Barrier().ok());
  const Status status = comms[0]->Barrier();
  leaver.join();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "rank 1 of 2 has left the group");
}

// A backend whose barrier never comes back, as MPI's may.
class Stuck final : public Communicator {
 public:
  explicit Stuck(int timeout_ms) : Communicator(1, 4, timeout_ms, std::make_shared<AbortState>()) {}
  const char* backend() const override { return "mpi"; }
  std::atomic<bool> inside{false}, held{true};

 protected:
  Status DoGather(std::span<const std::byte>, std::span<const int64_t>, std::span<std::byte>) override { return {}; }
  Status DoExchange(std::span<const std::byte>, std::span<const int64_t>, std::span<std::byte>,
                    std::span<const int64_t>) override {
    const Call call(*this);
    return {};
  }
  Status DoBroadcast(std::span<std::byte>, int) override { return {}; }
  Status DoBarrier() override {
    const Call call(*this);
    MINIMO_TRY(DoExchange({}, {}, {}, {}));  // a call within it ends nothing
    inside = true;
    while (held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  }
  Result<std::unique_ptr<Communicator>> DoSplit(int, int) override { return MakeAlone(); }
};

TEST(Failure, ACallThatDoesNotReturnIsKnownToThoseWhoLook) {
  Stuck comm(300);
  std::thread caller([&] { (void)comm.Barrier(); });
  while (!comm.inside) std::this_thread::yield();
  EXPECT_FALSE(comm.Lost());
  const auto begin = std::chrono::steady_clock::now();
  while (!comm.Lost() && SecondsSince(begin) < 10) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_LT(SecondsSince(begin), 1.5);
  EXPECT_TRUE(comm.failed());
  EXPECT_EQ(comm.failure().message,
            "rank 1 of 4: another rank is lost, and mpi does not return from an exchange with it");
  comm.held = false;
  caller.join();
}

TEST(Failure, ACallThatHasReturnedIsNotWaitedFor) {
  Stuck comm(1);
  comm.held = false;
  ASSERT_TRUE(comm.Barrier().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_FALSE(comm.Lost());
}

TEST(Failure, RanksThatCallDifferentThingsAreToldSo) {
  const auto errors = OnRanks(2, 2000, [](Communicator& comm) -> Status {
    std::vector<float> values(comm.rank() == 0 ? 4 : 5);
    return comm.AllReduceSum(values);
  });
  for (const std::string& error : errors) EXPECT_THAT(error, HasSubstr("ranks disagree"));
}

TEST(Failure, RanksThatExpectOtherSizesOfEachOtherAreToldSo) {
  // All in all the same: 4 of ranks 0 and 1 together.
  const auto gathers = OnRanks(2, 2000, [](Communicator& comm) -> Status {
    const std::vector<int64_t> counts = comm.rank() == 0 ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{2, 2};
    const std::vector<float> mine(static_cast<size_t>(counts[comm.rank()]));
    std::vector<float> all(4);
    return comm.AllGatherV<float>(mine, counts, all);
  });
  // Whichever rank sees it first.
  const auto said = ::testing::AnyOf(HasSubstr("rank 1 sends 8 bytes to rank 0, which expects 12"),
                                     HasSubstr("rank 0 sends 4 bytes to rank 1, which expects 8"));
  EXPECT_THAT(gathers, ::testing::Each(said));
  const auto exchanges = OnRanks(2, 2000, [](Communicator& comm) -> Status {
    const std::vector<int64_t> send = {1, 1}, receive = {1, comm.rank() == 0 ? 2 : 1};
    std::vector<float> out(2), in(static_cast<size_t>(receive[0] + receive[1]));
    return comm.AllToAllV<float>(out, send, in, receive);
  });
  EXPECT_THAT(exchanges[0], HasSubstr("rank 1 sends 4 bytes to rank 0, which expects 8"));
}

TEST(AgreeOn, EveryRankIsToldOfAllThatAreNotWell) {
  const auto errors = OnRanks(4, 2000, [](Communicator& comm) {
    return AgreeOn(&comm, comm.rank() % 2 == 0 ? Status() : Status(Errorf("no file {}", comm.rank())));
  });
  EXPECT_THAT(errors, ::testing::Each("rank 1 of 4: no file 1; rank 3 of 4: no file 3"));
  for (const std::string& error : OnRanks(4, 2000, [](Communicator& comm) { return AgreeOn(&comm, {}); })) {
    EXPECT_EQ(error, "");
  }
}

TEST(AgreeOn, WhatSeveralRanksFindIsSaidOnce) {
  const auto all = OnRanks(3, 2000, [](Communicator& comm) { return AgreeOn(&comm, Error{"no folder"}); });
  EXPECT_THAT(all, ::testing::Each("all 3 ranks: no folder"));
  const auto some = OnRanks(7, 2000, [](Communicator& comm) {
    const int r = comm.rank();
    return AgreeOn(&comm, r == 3 ? Status(Error{"no memory"}) : r == 1 || r > 4 ? Status(Error{"no GPU"}) : Status());
  });
  EXPECT_THAT(some, ::testing::Each("ranks 1, 5 to 6 of 7: no GPU; rank 3 of 7: no memory"));
}

TEST(Nccl, WhereItIsMissingEveryRankIsToldWhatToInstall) {
  setenv("MINIMO_NCCL_LIBRARY", "/nonexistent/libnccl.so.2", 1);  // opened once: here, by this test alone
  for (const std::string& error : OnRanks(2, 2000, [](Communicator& comm) -> Status {
         MINIMO_TRY(NcclCommunicator::Create(comm));
         return {};
       })) {
    EXPECT_THAT(error, AllOf(HasSubstr("needs NCCL"), HasSubstr("/nonexistent/libnccl.so.2"), HasSubstr("libnccl2")));
  }
}

}  // namespace
}  // namespace minimo
