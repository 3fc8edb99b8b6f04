// Memory nodes: the machine's map of them, where pages lie, and how work is shared out so that who computes a row sits
// beside its bytes. By system calls alone; where one fails, or on a machine of one node, nothing changes but speed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace minimo {

inline constexpr int kMaxNumaNodes = 16;
inline constexpr int64_t kNodeRows = 32;  // a node's rows of a matrix begin at multiples of this: whole tiles

struct NumaNode {
  int id = 0;
  std::vector<int> cores;
};

// Nodes with cores among `usable`, by id: from nodeN/cpulist in `root`. Empty where the system tells nothing.
std::vector<NumaNode> ReadNumaNodes(std::span<const int> usable, const std::string& root = "/sys/devices/system/node");

// Cores of a list like "0-3,8,10-11"; what cannot be read ends it.
std::vector<int> ParseCoreList(const std::string& text);

// The node on which a page lies, which is touched by this; -1 if unknown.
int NodeOfMemory(const void* page);

// Pages of [data, data + bytes) that are not there yet will lie on all nodes in turn; false if the system refuses.
bool InterleaveMemory(void* data, int64_t bytes, std::span<const NumaNode> nodes);

// Of the calling thread, which then runs on this node's cores alone, as threads do that it starts; pages come from
// there while it has any. False if the system refuses.
bool KeepToNode(const NumaNode& node);

// While it lives, pages that this thread touches first come from `node` (an id), wherever the thread runs. Negative: as
// they would anyway.
class PlacePages {
 public:
  explicit PlacePages(int node);
  ~PlacePages();
  PlacePages(const PlacePages&) = delete;
  PlacePages& operator=(const PlacePages&) = delete;

 private:
  bool placed_ = false;
};

// The rows of a matrix that lie on the node-th of `nodes`.
inline std::pair<int64_t, int64_t> RowsOfNode(int64_t rows, int nodes, int node) {
  const auto cut = [&](int n) { return n == nodes ? rows : rows * n / nodes / kNodeRows * kNodeRows; };
  return {cut(node), cut(node + 1)};
}

// Pieces of work, `each` a node, handed out one by one: those of the asker's node first, then what others have left.
class NodePieces {
 public:
  NodePieces(int nodes, int64_t each) : nodes_(nodes), each_(each) {}

  struct Piece {
    int node;
    int64_t index;
  };
  std::optional<Piece> Next(int node) {
    for (int i = 0; i < nodes_; ++i, node = node + 1 == nodes_ ? 0 : node + 1) {
      std::atomic<int64_t>& next = next_[node].value;
      if (next.load(std::memory_order_relaxed) >= each_) continue;
      const int64_t index = next.fetch_add(1);
      if (index < each_) return Piece{node, index};
    }
    return {};
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };
  int nodes_;
  int64_t each_;
  Counter next_[kMaxNumaNodes];
};

}  // namespace minimo
