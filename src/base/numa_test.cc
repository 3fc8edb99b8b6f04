// A machine of two nodes is a folder here; the system calls are real, on whatever node 0 this machine has.
#include "base/numa.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "base/thread_team.h"

namespace minimo {
namespace {

class FakeNodes : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("minimo_numa_" + std::to_string(getpid()));
    Write("node1", "4-5,12\n");
    Write("node0", "0-3,8\n");
    Write("node10", "\n");  // memory without cores
    Write("nodes", "0\n");
    Write("possible", "0-10\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& name, const std::string& cores) {
    std::filesystem::create_directories(root_ / name);
    std::ofstream(root_ / name / "cpulist") << cores;
  }
  std::filesystem::path root_;
};

TEST_F(FakeNodes, AreReadByIdWithTheCoresThatMayBeUsed) {
  const std::vector<int> usable = {0, 2, 3, 4, 8, 12, 63};
  const auto nodes = ReadNumaNodes(usable, root_);
  ASSERT_EQ(nodes.size(), 2u);
  EXPECT_EQ(nodes[0].id, 0);
  EXPECT_EQ(nodes[0].cores, (std::vector<int>{0, 2, 3, 8}));
  EXPECT_EQ(nodes[1].id, 1);
  EXPECT_EQ(nodes[1].cores, (std::vector<int>{4, 12}));
  EXPECT_EQ(ReadNumaNodes(std::vector<int>{5}, root_).size(), 1u);
  EXPECT_TRUE(ReadNumaNodes(usable, root_ / "nowhere").empty());
}

TEST(CoreList, StopsAtWhatIsNone) {
  EXPECT_EQ(ParseCoreList("7"), (std::vector<int>{7}));
  EXPECT_EQ(ParseCoreList("0-2,9,11-12"), (std::vector<int>{0, 1, 2, 9, 11, 12}));
  EXPECT_EQ(ParseCoreList("1,x"), (std::vector<int>{1}));
  EXPECT_TRUE(ParseCoreList("").empty());
  EXPECT_TRUE(ParseCoreList("0-99999999").empty());
  EXPECT_TRUE(ParseCoreList("-3").empty());
}

TEST(NumaRows, EachRowHasOneNodeAndTilesStayWhole) {
  for (const int64_t rows : {0, 1, 31, 32, 33, 100, 3072, 200064}) {
    for (const int nodes : {1, 2, 3, 8}) {
      int64_t at = 0;
      for (int n = 0; n < nodes; ++n) {
        const auto [begin, end] = RowsOfNode(rows, nodes, n);
        EXPECT_EQ(begin, at);
        EXPECT_TRUE(end == rows || end % kNodeRows == 0);
        EXPECT_LE(std::abs(static_cast<double>(end - begin) - static_cast<double>(rows) / nodes), kNodeRows);
        at = end;
      }
      EXPECT_EQ(at, rows);
    }
  }
}

TEST(NumaPieces, OnesOwnComeFirstAndAllOnce) {
  NodePieces by_turns(2, 3);
  for (const auto& [node, index] : {std::pair{0, 0}, {1, 0}, {1, 1}, {0, 1}}) {
    const auto piece = by_turns.Next(node);
    EXPECT_EQ(piece->node, node);
    EXPECT_EQ(piece->index, index);
  }
  NodePieces pieces(2, 3);
  for (int64_t i = 0; i < 3; ++i) {
    const auto piece = pieces.Next(1);
    ASSERT_TRUE(piece);
    EXPECT_EQ(piece->node, 1);
    EXPECT_EQ(piece->index, i);
  }
  EXPECT_EQ(pieces.Next(1)->node, 0) << "what the other node has left";
  EXPECT_EQ(pieces.Next(0)->index, 1);
  EXPECT_EQ(pieces.Next(0)->index, 2);
  EXPECT_FALSE(pieces.Next(0));
  EXPECT_FALSE(pieces.Next(1));
}

TEST(NumaTeam, MembersAreSharedOutAndRowsRunOnceByTheirNodes) {
  for (const int members : {2, 3, 5, 8}) {
    ThreadTeam team(members);
    EXPECT_EQ(team.NodeId(0), -1);
    const int core = sched_getcpu();
    team.SpreadOver({{0, {core}}, {1, {core}}});
    ASSERT_EQ(team.nodes(), 2);
    int of_node[2] = {};
    for (int part = 0; part < members; ++part) of_node[team.NodeOf(part)]++;
    EXPECT_LE(std::abs(of_node[0] - of_node[1]), 1) << members;
    for (const int64_t rows : {1, 40, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(rows));
      team.ParallelForRows(rows, [&](int64_t begin, int64_t end) {
        const bool first = begin < RowsOfNode(rows, 2, 0).second;
        EXPECT_TRUE(!first || end <= RowsOfNode(rows, 2, 0).second) << "a range of two nodes";
        for (int64_t r = begin; r < end; ++r) hits[static_cast<size_t>(r)]++;
      });
      for (const auto& hit : hits) ASSERT_EQ(hit.load(), 1) << members << " members, " << rows << " rows";
    }
  }
  ThreadTeam one(1);
  one.SpreadOver({{0, {0}}, {1, {0}}});
  EXPECT_EQ(one.nodes(), 1) << "fewer members than nodes";
}

TEST(NumaMemory, PagesLieWhereTheyWereAsked) {
  const auto nodes = UsableNodes();
  if (nodes.empty()) GTEST_SKIP() << "the system shows no memory nodes";
  constexpr int64_t kBytes = 1 << 20;
  const auto map = [] {
    return static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  };
  const int last = nodes.back().id;
  char* placed = map();
  {
    const PlacePages place(last);
    placed[0] = 1;
  }
  const int found = NodeOfMemory(placed);
  if (found < 0) GTEST_SKIP() << "get_mempolicy is not allowed here";
  EXPECT_EQ(found, last);
  char* spread = map();
  EXPECT_TRUE(InterleaveMemory(spread + 1, kBytes - 1, nodes));
  for (int64_t at = 4096; at < kBytes; at += 4096) {
    spread[at] = 1;
    const int node = NodeOfMemory(spread + at);
    EXPECT_TRUE(std::any_of(nodes.begin(), nodes.end(), [&](const NumaNode& n) { return n.id == node; })) << node;
  }
  EXPECT_FALSE(InterleaveMemory(spread, kBytes, std::vector<NumaNode>{{61, {}}})) << "a node that is not there";
  munmap(placed, kBytes);
  munmap(spread, kBytes);
}

TEST(NumaMemory, AThreadKeptToANodeHasItsCores) {
  const auto nodes = UsableNodes();
  if (nodes.empty()) GTEST_SKIP() << "the system shows no memory nodes";
  std::thread([&] {
    NumaNode part = nodes[0];
    part.cores.resize(1);
    if (!KeepToNode(part)) GTEST_SKIP() << "the system does not allow it";
    cpu_set_t set;
    ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    EXPECT_EQ(CPU_COUNT(&set), 1);
    EXPECT_TRUE(CPU_ISSET(part.cores[0], &set));
  }).join();
}

}  // namespace
}  // namespace minimo
