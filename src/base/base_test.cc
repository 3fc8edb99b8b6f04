#include <gtest/gtest.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/float_types.h"
#include "base/thread_team.h"

namespace minimo {
namespace {

TEST(Fp8, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float value = ToFloat(Fp8E4M3{static_cast<uint8_t>(code)});
    if (std::isnan(value)) continue;
    EXPECT_EQ(ToFp8E4M3(value).bits, code) << value;
  }
  EXPECT_EQ(ToFloat(Fp8E4M3{0x7e}), 448.0f);
  EXPECT_EQ(ToFloat(Fp8E4M3{0x01}), 0x1p-9f);
}

TEST(Fp8, RoundsToNearestTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = ToFloat(Fp8E4M3{static_cast<uint8_t>(code)});
    const float high = ToFloat(Fp8E4M3{static_cast<uint8_t>(code + 1)});
    const float middle = (low + high) / 2;
    EXPECT_EQ(ToFp8E4M3(middle).bits, code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(ToFp8E4M3(std::nextafter(middle, 1000.0f)).bits, code + 1);
    EXPECT_EQ(ToFp8E4M3(std::nextafter(middle, 0.0f)).bits, code);
  }
}

TEST(HalfTypes, EveryFiniteCodeIsExact) {
  for (int code = 0; code < 65536; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float bf16 = ToFloat(Bf16{bits});
    if (!std::isnan(bf16)) {
      EXPECT_EQ(ToBf16(bf16).bits, bits);
    }
  }
  EXPECT_EQ(ToFloat(Fp16{0x3c00}), 1.0f);
  EXPECT_EQ(ToFloat(Fp16{0x0001}), 0x1p-24f);
  EXPECT_EQ(ToFloat(Fp16{0xfbff}), -65504.0f);
  EXPECT_TRUE(std::isinf(ToFloat(Fp16{0x7c00})));
}

TEST(Result, MacrosPassErrorsOn) {
  const auto inner = [](bool fail) -> Result<int> {
    if (fail) return Errorf("found {}, expected {}", 1, 2);
    return 7;
  };
  const auto outer = [&](bool fail) -> Result<std::string> {
    MINIMO_ASSIGN(const int x, inner(fail));
    return std::to_string(x);
  };
  EXPECT_EQ(*outer(false), "7");
  EXPECT_EQ(outer(true).error().message, "found 1, expected 2");
}

TEST(ThreadTeam, EveryIndexOnceWithPausesBetweenRegions) {
  ThreadTeam team(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> hits(1000);
    team.ParallelFor(1000, 7, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) hits[i]++;
    });
    team.ParallelForDynamic(1000, [&](int64_t i) { hits[i]++; });
    for (const auto& hit : hits) ASSERT_EQ(hit.load(), 2);
    if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // let the workers fall asleep
  }
}

TEST(ThreadTeam, PinnedWorkersKeepToCoresOfTheirOwn) {
  ThreadTeam team(0);
  team.PinWorkers();
  const pthread_t caller = pthread_self();
  std::vector<std::atomic<int>> cores(static_cast<size_t>(team.size()));
  for (int round = 0; round < 1000; ++round) {
    team.Run([&](int part) {
      if (pthread_equal(pthread_self(), caller)) return;  // a part that the caller took over, or its own
      cpu_set_t set;
      ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
      cores[static_cast<size_t>(part)] = CPU_COUNT(&set);
    });
  }
  for (const auto& count : cores) EXPECT_LE(count.load(), 1);
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  EXPECT_EQ(CPU_COUNT(&set), team.size()) << "the caller stays free";
}

TEST(ThreadTeam, ACallerThatAsksIsBoundToTheCoreThatWorkersLeave) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  const auto cores_of_caller = [](ThreadTeam& team) {
    cpu_set_t set;
    std::thread([&] {
      team.PinCaller();
      ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    }).join();
    return set;
  };
  ThreadTeam team(0);
  cpu_set_t set = cores_of_caller(team);
  EXPECT_TRUE(CPU_EQUAL(&set, &all)) << "its workers are not bound";
  team.PinWorkers();
  set = cores_of_caller(team);
  EXPECT_EQ(CPU_COUNT(&set), 1);
  std::atomic<int> seen{0};
  for (int round = 0; round < 20; ++round) {
    team.Run([&](int part) {
      if (part == 0) return std::this_thread::sleep_for(std::chrono::milliseconds(1));  // time for the workers
      cpu_set_t worker;
      ASSERT_EQ(sched_getaffinity(0, sizeof worker, &worker), 0);
      if (CPU_COUNT(&worker) > 1) return;  // the caller took the part over
      ++seen;
      EXPECT_FALSE(CPU_EQUAL(&worker, &set));
    });
  }
  EXPECT_TRUE(team.size() == 1 || seen.load() > 0);
}

sem_t held_begun, held_end;

void HoldThread(int) {  // sem_wait and sem_post are all that is done in the handler
  sem_post(&held_begun);
  while (sem_wait(&held_end) != 0) {
  }
}

TEST(ThreadTeam, TheCallerDoesThePartsOfAWorkerThatIsAway) {
  ThreadTeam team(2);
  pthread_t worker{};
  for (bool found = false; !found;) {
    std::atomic<bool> begun{false};
    team.Run([&](int part) {
      if (part == 0) {  // gives the worker time to take its part
        while (!begun.load()) std::this_thread::yield();
        return;
      }
      begun.store(true);
      found = true;
      worker = pthread_self();
    });
  }
  ASSERT_FALSE(pthread_equal(worker, pthread_self()));
  sem_init(&held_begun, 0, 0);
  sem_init(&held_end, 0, 0);
  struct sigaction action {};
  action.sa_handler = HoldThread;
  struct sigaction before {};
  sigaction(SIGUSR1, &action, &before);
  pthread_kill(worker, SIGUSR1);
  while (sem_wait(&held_begun) != 0) {
  }
  for (int round = 0; round < 100; ++round) {  // would hang if the worker were waited for
    int hits[2] = {};
    team.Run([&](int part) { ++hits[part]; });
    ASSERT_EQ(hits[0], 1);
    ASSERT_EQ(hits[1], 1);
  }
  sem_post(&held_end);
  sigaction(SIGUSR1, &before, nullptr);
  std::atomic<int> hits{0};
  for (int round = 0; round < 1000; ++round) team.Run([&](int) { ++hits; });
  EXPECT_EQ(hits.load(), 2000);
}

}  // namespace
}  // namespace minimo
