// Two checkpoints have one fingerprint only if they are the same, and taking it reads no more than the samples.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "checkpoint/mapped_file.h"
#include "comm/threads.h"
#include "models/shard.h"
#include "tests/support/scratch_dir.h"

namespace minimo {
namespace {

using testing::Safetensors;
using testing::ScratchDir;

constexpr int kTensors = 6;
constexpr int64_t kBytes = int64_t{4} << 20;  // of each

// Of holes: nothing of the file is in memory before it is read. With the first `from` of its header `to` instead.
LoadedModel OpenHollow(const ScratchDir& dir, const std::string& from = "", const std::string& to = "") {
  std::string header = "{";
  for (int i = 0; i < kTensors; ++i) {
    header += fmt::format(R"({}"t{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", i == 0 ? "" : ",", i,
                          kBytes, i * kBytes, (i + 1) * kBytes);
  }
  const std::string head = Safetensors(header.replace(header.find(from), from.size(), to) + "}", "");
  dir.Write("model.safetensors", head);
  EXPECT_EQ(truncate(dir.File("model.safetensors").c_str(), std::ssize(head) + kTensors * kBytes), 0);
  LoadedModel model;
  model.checkpoint = std::make_shared<const Checkpoint>(Checkpoint::Open(dir.path().string()).value());
  return model;
}

int64_t PagesInMemory(const MappedFile& file) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((file.size() + page - 1) / page);
  EXPECT_EQ(mincore(const_cast<std::byte*>(file.data()), file.size(), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char flags) { return flags & 1; });
}

// The kernel's advice on the mapping, e.g. "rd mr me ms": proc(5), smaps.
std::string Advice(const MappedFile& file) {
  std::ifstream smaps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find(file.path()) != std::string::npos) here = true;
    if (here && line.rfind("VmFlags:", 0) == 0) return line.substr(8) + " ";
  }
  return "";
}

TEST(Fingerprint, ReadsAPageATensorAndLeavesReadAheadOn) {
  const ScratchDir dir;
  const LoadedModel model = OpenHollow(dir);
  const MappedFile& file = *model.checkpoint->shards().front().file();
  const int64_t before = PagesInMemory(file);
  Fingerprint(model);
  // A sample may lie on two pages.
  EXPECT_LE(PagesInMemory(file), before + 2 * kTensors);
  const std::string advice = Advice(file);
  if (advice.empty()) GTEST_SKIP() << "/proc/self/smaps does not tell the advice here";
  EXPECT_EQ(advice.find(" rr "), std::string::npos) << "loading would read page by page:" << advice;
}

TEST(Fingerprint, TellsOtherBytesShapesAndNamesApart) {
  const ScratchDir dir;
  const uint64_t first = Fingerprint(OpenHollow(dir));
  EXPECT_EQ(Fingerprint(OpenHollow(dir)), first);
  EXPECT_NE(Fingerprint(OpenHollow(dir, "\"t0\"", "\"u0\"")), first);
  EXPECT_NE(Fingerprint(OpenHollow(dir, "\"U8\"", "\"I8\"")), first);
  EXPECT_NE(Fingerprint(OpenHollow(dir, "[4194304]", "[2,2097152]")), first);
}

TEST(Fingerprint, TellsFileSetsOfOtherRanksApart) {
  const ScratchDir dir;
  LoadedModel model = OpenHollow(dir);
  const uint64_t whole = Fingerprint(model);
  model.shards = ShardLayout{.ranks = 2};
  const uint64_t two = Fingerprint(model);
  model.shards->ranks = 4;
  EXPECT_NE(two, whole);
  EXPECT_NE(Fingerprint(model), two);
}

// Whichever rank it is, and whether its fingerprint is the greater or the smaller.
TEST(CheckSameCheckpoint, EveryRankNamesThoseThatAreOther) {
  const ScratchDir dirs[2];
  const LoadedModel models[] = {OpenHollow(dirs[0]), OpenHollow(dirs[1], "\"t0\"", "\"u0\"")};
  for (const bool turned : {false, true}) {
    auto comms = MakeThreadRanks(3, 2000);
    std::vector<std::thread> threads;
    for (const auto& comm : comms) {
      threads.emplace_back([&, turned] {
        const Status status = CheckSameCheckpoint(models[(comm->rank() == 1) != turned], *comm);
        ASSERT_FALSE(status.ok());
        EXPECT_EQ(status.error().message.find("the checkpoint of rank 1 is not that of rank 0"), 0u)
            << status.error().message;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace minimo
